"""A small English grammar of edit instructions, which needs no model."""
