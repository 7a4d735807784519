"""`python -m brushjax`."""

from brushjax.cli import main

if __name__ == "__main__":
    main()
