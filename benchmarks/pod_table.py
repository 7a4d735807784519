"""The table in docs/pod_sizes.md: steps of four recipes, compiled for slices that are not there.

    python -m benchmarks.pod_table                     # compiles what is missing, row by row
    python -m benchmarks.pod_table --only sd15-v6e-256
    python -m benchmarks.pod_table --table             # prints the table and compiles nothing
    python -m benchmarks.pod_table --table --write     # puts it into the page

A row is a file of docs/pod_sizes/, written when it is compiled: a run that was killed goes on where
it was. A row takes 2 to 15 minutes of a core and 3 to 13 GB. Needs the extra `tpu`.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.pod_sizes import BASES, recipe
from brushjax.files import write_json, write_text

ROOT = Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "docs" / "pod_sizes", ROOT / "docs" / "pod_sizes.md"
SLICES = {"v5e-256": 256, "v6e-256": 256, "v5p-128": 64, "v5p-512": 256}
"""Chips of each."""
START, END = "<!-- table -->\n", "\n<!-- end of table -->"
"""Around the table in the page."""
MODELS = {
    "regions": "region predictor",
    "sd15": "BrushNet, SD1.5 at 512",
    "sdxl": "BrushNet, SDXL at 1024",
    "fireedit": "FireEdit, stage 2",
}
HEAD = (
    "| model | slice | samples a step | mesh, rematerialise | memory of a chip, GiB | work, "
    "program / useful | sent / least | a step, about | samples/s a chip, about |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe on a slice."""

    model: str
    slice: str
    batch: int
    tensor: int = 1
    rematerialise: str = "nothing"

    @property
    def name(self) -> str:
        """Of the row's file."""
        return f"{self.model}-{self.slice}-{self.batch}"

    def config(self):
        """Returns the run's config."""
        from brushjax import config as configs
        from brushjax.sharding import MeshShape

        if self.model in BASES:
            base, size = BASES[self.model]
            return recipe(base, size, self.batch, rematerialise=self.rematerialise)
        file = {"regions": "region/predictor.py", "fireedit": "fireedit/stage2.py"}[self.model]
        return dataclasses.replace(
            configs.load(ROOT / "configs" / file),
            batch_size=self.batch,
            mesh=MeshShape(tensor=self.tensor),
            rematerialise=self.rematerialise,
        )


def rows() -> list[Row]:
    """The table's rows, cheap ones first: what a chip of 16 GB holds is the least of each kind."""
    found = [Row("regions", name, 256) for name in SLICES]
    found += [Row("sd15", name, 8 * chips) for name, chips in SLICES.items()]
    for name, chips in SLICES.items():
        small = not name.startswith("v5p")
        found.append(Row("sdxl", name, chips if small else 8 * chips, 1, _kept(small)))
    found.append(Row("fireedit", "v5e-256", 128, 4, "layers"))  # the recipe's batch
    for name, chips in SLICES.items():
        small = not name.startswith("v5p")
        found.append(Row("fireedit", name, max(chips, 128), 4 if small else 1, _kept(small)))
    return found


def _kept(small: bool) -> str:
    return "layers" if small else "nothing"


def figures(program) -> dict:
    """Returns what the table and its readers need of a compiled step."""
    mesh = {axis: size for axis, size in program.plan.mesh.shape.items() if size > 1}
    found = {
        "mesh": mesh,
        "held": sum(program.held.values()),
        "within": program.temporary,
        "fullest": program.total,
        "useful": program.useful,
        "program": program.flops,
        "seconds to compile": round(sum(program.seconds)),
        "jax": importlib.metadata.version("jax"),
        "libtpu": importlib.metadata.version("libtpu"),
    }
    if not program.fits:
        return found
    time = dataclasses.asdict(program.forecast())
    exchanges = {"sent": program.sent, "parameters": program.ideal, "sums": program.sums}
    return {**found, **exchanges, "milliseconds": {k: 1e3 * v for k, v in time.items()}}


def compile_row(row: Row, folder: Path) -> None:
    """Compiles a row, prints what is known of it and writes its file."""
    from brushjax.training.scale import ahead, ahead_report

    program = ahead.compile_for(row.config(), row.slice)
    print(ahead_report.describe(program), flush=True)
    write_json(folder / f"{row.name}.json", figures(program))


def table(folder: Path = FOLDER) -> str:
    """Returns the table of what was compiled."""
    return "\n".join([HEAD, *(_line(row, folder / f"{row.name}.json") for row in rows())])


def on_page(page: str) -> str:
    """Returns the table that a page holds."""
    return page.split(START)[1].split(END)[0]


def _line(row: Row, file: Path) -> str:
    from brushjax.training.scale.ahead import CHIPS

    known = json.loads(file.read_text()) if file.is_file() else None
    chips, memory = SLICES[row.slice], CHIPS[row.slice.split("-")[0]].memory
    start = [MODELS[row.model], f"{row.slice} ({chips} chips)", f"{row.batch:,}"]
    mesh = f"{chips // row.tensor} data" + f" x {row.tensor} tensor" * (row.tensor > 1)
    if known is None:
        return _joined(*start, f"{mesh}, {row.rematerialise}", "not compiled", *["-"] * 4)
    fits = known["within"] is not None
    work = f"{known['program'] / known['useful']:.3f}"
    room = f"{known['fullest'] / GIB:.2f} of {memory:g}"
    start += [f"{mesh}, {row.rematerialise}", room if fits else f"{room}: does not fit", work]
    if not fits:
        return _joined(*start, *["-"] * 3)
    least, time = known["parameters"] + known["sums"], sum(known["milliseconds"].values())
    rate = row.batch / chips / time * 1e3
    return _joined(*start, f"{known['sent'] / least:.3f}", f"{time:.0f} ms", f"{rate:.3g}")


def _joined(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main():
    """Compiles what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the rows' files")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs
    if options.row:
        row = next(row for row in rows() if row.name == options.row)
        compile_row(row, options.folder)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for row in rows():
        missing = not (options.folder / f"{row.name}.json").exists()
        if missing and row.name.startswith(options.only) and not options.table:
            # In a process of its own: the compiler's memory goes with it.
            here = [sys.executable, "-m", "benchmarks.pod_table", "--row", row.name]
            subprocess.run([*here, "--folder", str(options.folder)], check=True)
    print(table(options.folder))
    if options.write:
        page = PAGE.read_text()
        before, after = page.split(START)[0], page.split(END)[1]
        write_text(PAGE, before + START + table(options.folder) + END + after)


if __name__ == "__main__":
    main()
