"""Training sets: stored samples or photographs as samples that are addressed by number."""
