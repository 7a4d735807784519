"""Judges: what they are asked, and what their words are worth."""
