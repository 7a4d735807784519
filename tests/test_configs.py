"""Every recipe builds, is traceable, and is what its stored text says, so that changes are seen."""

import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from brushjax import config as configs
from brushjax.data.pipeline import PhotoData
from brushjax.files import write_json
from brushjax.training.objectives.autoencoder import LocalityObjective
from brushjax.training.objectives.brushnet import SHIPPED_BASE
from brushjax.training.objectives.contract import split
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.objectives.text_to_image import TextToImageObjective
from brushjax.training.plan import cast_shapes, describe, make_plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.flops import batch_shapes

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "configs"
UPDATE = "UPDATE_GOLDEN"  # set it to write the stored texts anew


def with_inputs(config):
    """The recipe with the shipped base in the place of what an earlier recipe leaves in runs/."""
    base = str(SHIPPED_BASE)
    if isinstance(config.objective, LocalityObjective):
        config = dataclasses.replace(config, objective=LocalityObjective(base))
    if isinstance(config.objective, TextToImageObjective):
        start = config.objective.base and base
        objective = dataclasses.replace(
            config.objective, vae=base, tokenizer_folder=base, base=start
        )
        config = dataclasses.replace(config, objective=objective)
    if isinstance(config.objective, RegionObjective) and "runs" in config.objective.encoders.clip:
        encoders = dataclasses.replace(config.objective.encoders, clip=str(tiny_clip()))
        objective = dataclasses.replace(config.objective, encoders=encoders)
        config = dataclasses.replace(config, objective=objective)
    return config


@functools.cache
def tiny_clip():
    """A folder with the configs and the tokenizer of the tiny CLIP; its weights are not needed."""
    folder = Path(tempfile.mkdtemp())
    objective = configs.load(ROOT / "configs/region/tiny_clip.py").objective
    towers = {"clip_vision": objective.vision, "text_encoder": objective.text_config}
    for name, tower in towers.items():
        write_json(folder / name / "config.json", tower.to_dict())
    shutil.copytree(SHIPPED_BASE / "tokenizer", folder / "tokenizer")
    return folder


def name_of(path):
    return "_".join(path.relative_to(ROOT / "configs").with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_is_what_its_stored_text_says(path):
    text = configs.dump(configs.load(path)).replace(str(ROOT), ".")
    golden = GOLDEN / f"{name_of(path)}.txt"
    if os.environ.get(UPDATE):
        golden.write_text(text)
    assert golden.is_file(), f"no stored text; make it with {UPDATE}=1 pytest {__file__}"
    changed = configs.differences(golden.read_text(), text)
    assert not changed, f"if this is meant, store it with {UPDATE}=1: {changed}"


def test_stored_texts_all_belong_to_a_config():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {name_of(path) for path in FILES}


def test_config_with_another_value_is_noticed():
    text = (GOLDEN / "quickstart.txt").read_text()
    assert configs.differences(text, text.replace("batch_size = ", "batch_size = 1"))


@functools.cache
def traced(objective, batch, compute_dtype):
    """Shapes of loss and logged means; recipes that differ in their data alone share a trace."""
    params = cast_shapes(objective.shapes(), compute_dtype)
    _, frozen = split(params, objective.trains)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

    def step(params, frozen, batch, keys):
        prepared = objective.prepare(frozen, objective.across(batch))
        losses = objective.loss(params, prepared, keys)
        return losses.value, losses.logged

    return jax.eval_shape(step, params, frozen, dict(batch), keys)


# The shapes of others are alike. SD 1.5's recipes share a trace.
SD15 = ("brushedit_sd15", "brushnet_sd15_random", "brushnet_sd15_segmentation")
MARKS = {
    **dict.fromkeys(("brushnet_sdxl", "fireedit_stage2"), pytest.mark.slow),  # tens of seconds
    **dict.fromkeys((*SD15, "fireedit_tiny"), pytest.mark.heavy),
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(file, marks=MARKS.get(name_of(file), ())) for file in FILES],
    ids=name_of,
)
def test_config_is_traced_from_data_to_loss(path):
    """The step of a training recipe is traced with the shapes of its data; nothing is computed."""
    config = configs.load(path)
    if not isinstance(config, TrainConfig):
        assert config.describe()
        return
    config = with_inputs(config)
    plan = make_plan(config)
    assert config.name in describe(config, plan)
    batch = batch_shapes(dataclasses.replace(config, batch_size=2, accumulation=1))
    loss, metrics = traced(config.objective, tuple(batch.items()), config.compute_dtype)
    assert loss.shape == ()
    assert metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 3}, "batch_size that accumulation 3 divides; got 8"),
        ({"validate_every": 5}, "validate_every needs validation"),
        ({"steps": 0}, "expected steps >= 1; got 0"),
        ({"encode_once": True, "data": PhotoData()}, "encode_once needs data.pool > 0"),
    ],
)
def test_impossible_combinations_are_refused(changes, message):
    config = configs.load(ROOT / "configs" / "quickstart.py")
    with pytest.raises(configs.ConfigError, match=message):
        dataclasses.replace(config, **changes)


def test_unknown_field_names_the_nearest(capsys):
    config = configs.load(ROOT / "configs" / "brushedit_sd15.py")
    with pytest.raises(SystemExit):
        configs.override(config, ["--optimizer.learning_rat", "1"])
    assert "--optimizer.learning_rate" in capsys.readouterr().err
