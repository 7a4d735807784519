"""Metrics on plain arrays: they know no model; networks come in as feature functions."""
