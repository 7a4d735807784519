"""Benchmarks of edits that a judge scores."""
