"""Edits as compiled programs: what varies between two edits is an argument."""
