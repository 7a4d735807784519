"""The web editor: `python -m brushjax app`."""
