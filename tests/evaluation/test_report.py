import json
import math

import numpy as np
import pytest

from brushjax.evaluation.generate import generate
from brushjax.evaluation.report import markdown_table, number, percent, write_json
from brushjax.evaluation.units import Ledger, Sample, Unit
from brushjax.metrics.bootstrap import Interval


def unit(number: int, method: str = "white") -> Unit:
    image = np.full((8, 8, 3), number, np.uint8)
    return Unit("fill", method, Sample(number, image, np.ones((8, 8), np.uint8), "a", "b"))


def white(samples):
    return np.stack([255 - one.image for one in samples])


def test_markdown_table_aligns_its_columns():
    table = markdown_table(["name", "a"], [["x", "1.5"], ["longer", "-"]])
    assert table == "| name   |   a |\n| ------ | --: |\n| x      | 1.5 |\n| longer |   - |\n"


def test_numbers_carry_their_intervals():
    assert number(Interval(0.5, 0.25, 0.75, 9), 2) == "0.50 [0.25, 0.75]"
    assert percent(Interval(0.413, 0.35, 0.4721, 9)) == "41.3 % [35.0, 47.2]"
    assert number(math.nan) == percent(math.nan) == "-"


def test_json_writes_undefined_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"x": Interval(math.nan, 0.0, 1.0, 3), "y": (1, 2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "x": {"value": None, "low": 0.0, "high": 1.0, "count": 3},
        "y": [1, 2],
    }


def test_generate_pads_the_last_batch_and_keeps_the_order(tmp_path):
    sizes = []

    def fill(samples):
        sizes.append(len(samples))
        return white(samples)

    units = [unit(n) for n in range(5)]
    ledger = Ledger(tmp_path)
    keys = generate(units, {"white": fill}, {"white": {}}, ledger, 2, progress=False)
    assert sizes == [2, 2, 2]
    assert [int(ledger.picture(key)[0, 0, 0]) for key in keys] == [255, 254, 253, 252, 251]


def test_generate_repeats_a_unit_whose_picture_is_gone(tmp_path):
    ledger = Ledger(tmp_path)
    (key,) = generate([unit(1)], {"white": white}, {"white": {}}, ledger, 1, progress=False)
    picture = tmp_path / ledger[key]["picture"]
    picture.unlink()
    generate([unit(1)], {"white": white}, {"white": {}}, Ledger(tmp_path), 1, progress=False)
    assert picture.is_file()


def test_generate_refuses_doubles_unknown_methods_and_wrong_pictures(tmp_path):
    def call(units, fill=white):
        generate(units, {"white": fill}, {"white": {}}, Ledger(tmp_path), 1, progress=False)

    with pytest.raises(ValueError, match="expected 2 different units, got 1"):
        call([unit(1), unit(1)])
    with pytest.raises(ValueError, match="methods"):
        call([unit(1, "black")])
    with pytest.raises(ValueError, match="expected uint8 pictures"):
        call([unit(1)], lambda samples: white(samples).astype(np.float32))


def test_ledger_names_a_broken_line(tmp_path):
    Ledger(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "picture": "b"}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2"):
        Ledger(tmp_path)
