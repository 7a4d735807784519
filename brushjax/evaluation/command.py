"""The command `python evaluate.py CONFIG.py --out DIR --weights DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = """\
examples:
  python evaluate.py configs/eval/quickstart.py --out runs/eval --weights runs/quickstart/export
  python evaluate.py configs/eval/quickstart.py --out runs/short --weights runs/quickstart/export \\
      --held_out.count 16 --sampling.steps 10
  python evaluate.py configs/eval/quickstart.py --dry-run     print config and number of pictures
  python evaluate.py configs/eval/quickstart.py --help        list every field of the config

Started again with the same --out, it makes only the pictures that are missing. The folder gets
table.md, summary.json, scores.jsonl, picture strips, and the pictures with rows.jsonl, their list.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the arguments of the process by default."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return
    options, overrides = parser.parse_known_args(arguments)
    asked_for_help = bool({"-h", "--help"} & set(overrides))
    if not (options.out and options.weights) and not options.dry_run and not asked_for_help:
        parser.error("expected --out DIR and --weights DIR (or --dry-run)")

    from brushjax import config as configs

    try:
        config = configs.load(options.config)
        config = configs.override(config, overrides, f"evaluate.py {options.config}")
    except configs.ConfigError as error:
        sys.exit(f"error: {error}")
    if options.dry_run:
        print(configs.dump(config) + config.describe())
        return
    config.run(options.weights, options.out)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"strips, scores and pictures: {options.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        usage="evaluate.py CONFIG.py --out DIR --weights DIR [--dry-run] [--any.field VALUE ...]",
        description="Evaluates weights as a config file says; goes on where it was stopped.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG.py", help="file with a function get_config()"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="what is evaluated")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    return parser
