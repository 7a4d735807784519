"""The metrics of every profile: what definitions say, and what published scripts compute."""
