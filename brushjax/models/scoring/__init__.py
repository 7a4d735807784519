"""Networks that only metrics use."""
