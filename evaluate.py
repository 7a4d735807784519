"""Evaluates weights: python evaluate.py CONFIG.py --out DIR --weights DIR (see --help)."""

from brushjax.evaluation.command import main

if __name__ == "__main__":
    main()
