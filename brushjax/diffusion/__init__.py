"""Noise schedules, samplers, guidance and losses. Knows no model."""
