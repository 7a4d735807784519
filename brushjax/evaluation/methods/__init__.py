"""What makes the pictures of a sweep."""
