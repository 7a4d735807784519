"""One training loop and step for every objective."""
