"""Where samples are stored, and how stored members become arrays."""
