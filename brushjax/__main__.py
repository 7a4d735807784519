"""Makes `python -m brushjax` work."""

from brushjax.cli import main

main()
