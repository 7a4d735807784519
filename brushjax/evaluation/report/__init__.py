"""Tables, pictures and warnings of a sweep, as Markdown, LaTeX, JSON and HTML."""
