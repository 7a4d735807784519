"""Benchmarks as published, each read by a small adapter into `brushjax.evaluation.records`."""
