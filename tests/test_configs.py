"""Every recipe builds, is traceable, and is what its stored text says, so that changes are seen."""

import dataclasses
import os
from pathlib import Path

import jax
import pytest

from brushjax import config as configs
from brushjax.training.brushnet import SHIPPED_BASE
from brushjax.training.plan import describe, make_plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.text_to_image import TextToImageObjective

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "configs"
UPDATE = "UPDATE_GOLDEN"  # set it to write the stored texts anew


def with_inputs(config):
    """The recipe with the shipped base in the place of what an earlier recipe leaves in runs/."""
    if isinstance(config.objective, TextToImageObjective):
        base = str(SHIPPED_BASE)
        objective = dataclasses.replace(config.objective, vae=base, tokenizer_folder=base)
        config = dataclasses.replace(config, objective=objective)
    return config


def name_of(path):
    return "_".join(path.relative_to(ROOT / "configs").with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_is_what_its_stored_text_says(path):
    text = configs.dump(configs.load(path))
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


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_is_traced_from_data_to_loss(path):
    """The step of a training recipe is traced with the shapes of its data; nothing is computed."""
    config = configs.load(path)
    if not isinstance(config, TrainConfig):
        assert config.describe()
        return
    config = with_inputs(config)
    plan = make_plan(config)
    assert config.name in describe(config, plan)
    source = config.data.source(config.objective.tokenizer())
    batch = {
        name: jax.ShapeDtypeStruct((2, *value.shape), value.dtype)
        for name, value in source[0].items()
    }
    prepared = jax.eval_shape(config.objective.prepare, plan.frozen, batch)
    loss, metrics = jax.eval_shape(
        config.objective.loss,
        plan.state["params"],
        plan.frozen,
        prepared,
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
    )
    assert loss.shape == ()
    assert metrics
