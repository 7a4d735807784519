"""A paper is one model, one weight map, one objective, one method and one config: the five files
beside this one. They are trained by the one loop, edited with by the one engine and swept by the
one sweep, and nothing of brushjax knows of them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import brushjax
from brushjax import config as configs
from brushjax import sharding
from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.methods.contract import Resources
from brushjax.evaluation.models import Models
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run
from brushjax.training import loop
from tests.toy_paper.method import Toy, ToyEditor

RECIPE = Path(__file__).parent / "config.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, workdir, export) of a whole run."""
    workdir = tmp_path_factory.mktemp("toy")
    config = configs.override(configs.load(RECIPE), ["--steps", "30"])
    return config, workdir, loop.run(config, workdir)


def test_toy_paper_is_trained_by_the_loop(trained):
    _, workdir, _ = trained
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]


def test_toy_paper_is_swept_as_an_evaluator_of_its_run_and_again_on_its_export(trained, tmp_path):
    config, workdir, export = trained
    rows = read_table(workdir / "samples" / "scores.parquet")
    assert {row["method"] for row in rows} == {"toy", "copy"}
    (sweep,) = config.evaluators
    again = Run(sweep.comparing({"mine": str(export)}), tmp_path, progress=False).all()
    before = {row["sample"]: row["sha256"] for row in rows if row["method"] == "toy"}
    assert {row["sample"]: row["sha256"] for row in again.scored.of("fill", "mine")} == before


def test_toy_paper_edits_the_same_on_any_number_of_devices_and_with_cut_weights(trained):
    network = brushjax.load("toy", trained[2])
    photos = PhotoData(size=32, split="held_out").source(lambda record: record.arrays())
    images = [photos[n]["image"] for n in range(8)]
    holes = [photos[n]["mask"][..., 0] > 0 for n in range(8)]
    one = ToyEditor(network)(images, holes, range(8))
    kept = ~np.stack(holes)
    np.testing.assert_array_equal(one[kept], np.stack(images)[kept])
    assert (one[~kept] != np.stack(images)[~kept]).any()
    mesh = sharding.make_mesh(devices=jax.devices())
    np.testing.assert_array_equal(ToyEditor(network, mesh=mesh)(images, holes, range(8)), one)
    mesh = sharding.make_mesh(sharding.MeshShape(data=2, fsdp=4), jax.devices())
    cut = ToyEditor(network, mesh=mesh, rules=((".*kernel", "cut:fsdp"),))
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(cut._program._params))
    np.testing.assert_array_equal(cut(images, holes, range(8)), one)


def test_code_of_a_method_outside_the_package_is_part_of_its_settings(trained, tmp_path):
    settings = Toy().method(Resources(Models(trained[2]))).settings
    assert set(settings) == {"kind", "steps", "network", "code", "own code", "jax"}
