"""Harm that is done to the files of a benchmark: each is called with the file."""

import json

import pyarrow as arrow
import pyarrow.parquet as parquet


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def gone(path):
    path.unlink()


def changed(key, **fields):
    """A fault in an entry of a JSON file: fields of it replaced; None takes one away."""

    def fault(path):
        rows = json.loads(path.read_text())
        rows[key].update(fields)
        rows[key] = {name: value for name, value in rows[key].items() if value is not None}
        path.write_text(json.dumps(rows))

    return fault


def cell(**fields):
    """The same in the first row of a Parquet file; None takes the column away."""

    def fault(path):
        rows = parquet.read_table(path).to_pylist()
        lost = [name for name, value in fields.items() if value is None]
        rows[0].update(fields)
        rows = [{k: v for k, v in row.items() if k not in lost} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(rows), path)

    return fault
