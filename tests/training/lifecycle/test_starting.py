"""Whose workdir it is, what may change between two starts, and what is looked at before step 1."""

import dataclasses

import pytest

from brushjax.config import ConfigError
from brushjax.lock import locked
from brushjax.training.lifecycle.starting import claim
from brushjax.training.loop import run
from brushjax.training.optimizers import OptimizerConfig
from tests.training import tiny
from tests.training.hosts import saved
from tests.training.test_loop import assert_same_weights, recipe


def constant(**changes):
    return recipe(optimizer=tiny.CONSTANT, **changes)


def has_saved(workdir, config, step):
    """As if a run of the config had saved a step."""
    claim(config, workdir)
    (workdir / "checkpoints" / str(step)).mkdir(parents=True)


@pytest.mark.slow  # three runs; the next one looks at the same before any step
def test_run_with_a_constant_rate_can_be_lengthened(tmp_path):
    run(constant(steps=6), tmp_path / "longer")
    run(constant(steps=9), tmp_path / "longer")
    run(constant(steps=9), tmp_path / "whole")
    assert_same_weights(tmp_path / "longer", tmp_path / "whole")
    with pytest.raises(ConfigError, match="has done 9 steps already"):
        run(constant(steps=8), tmp_path / "longer")


def test_constant_rate_may_be_lengthened_and_not_cut_below_what_is_done(tmp_path):
    has_saved(tmp_path, constant(steps=9), 9)
    with pytest.raises(ConfigError, match="has done 9 steps already"):
        claim(constant(steps=8), tmp_path)
    claim(constant(steps=12), tmp_path)


def test_run_with_a_decay_says_how_to_go_on(tmp_path):
    has_saved(tmp_path, recipe(steps=24), 24)
    message = r"(?s)steps: 24 -> 48.*decays towards the end.*--extend"
    with pytest.raises(ConfigError, match=message):
        claim(recipe(steps=48), tmp_path)
    claim(recipe(steps=48), tmp_path, extend=True)
    other = OptimizerConfig(learning_rate=0.5, decay="cosine")
    with pytest.raises(ConfigError, match=r"learning_rate: 0.05 -> 0.5"):
        claim(recipe(steps=48, optimizer=other), tmp_path, extend=True)


def test_message_names_the_branch_to_go_on_from(tmp_path):
    from tests.training import tiny_branch

    config = tiny_branch.get_config()
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, decay="cosine")
    )
    has_saved(tmp_path, config, config.steps)
    longer = dataclasses.replace(config, steps=config.steps + 1)
    line = f"--objective.branch {tmp_path / 'export'} --workdir {tmp_path}-longer"
    with pytest.raises(ConfigError, match=line):
        claim(longer, tmp_path)


def test_settings_of_the_data_that_change_nothing_may_change(tmp_path):
    has_saved(tmp_path, recipe(), 5)
    claim(recipe(data=tiny.Numbers(pause=0.5)), tmp_path)
    with pytest.raises(ConfigError, match=r"data\.pool: 12 -> 13"):
        claim(recipe(data=tiny.Numbers(pool=13)), tmp_path)


def test_start_that_took_no_step_leaves_the_workdir_free(tmp_path):
    with pytest.raises(ValueError, match="sample 0 is broken"):
        run(recipe(data=tiny.Numbers(broken=0), validation=tiny.Numbers(broken=0)), tmp_path)
    claim(recipe(steps=99), tmp_path)


def test_folder_that_is_no_workdir_is_refused(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(ConfigError, match="holds export, but is the workdir of no run"):
        run(recipe(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_folder_with_other_things_is_refused_but_for_logs(tmp_path):
    for name in ("train.log", ".notes"):
        (tmp_path / name).touch()
    claim(recipe(), tmp_path)
    (tmp_path / "config.txt").unlink()
    for name in ("a.md", "b.png", "c.png", "d.png"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"holds a\.md, b\.png, c\.png and 1 more, but is the"):
        claim(recipe(), tmp_path)
    assert not (tmp_path / "config.txt").exists()


def test_workdir_of_a_run_that_goes_on_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="is in use: process"):
        run(recipe(), tmp_path)


def test_evaluators_and_validation_are_looked_at_before_the_first_step(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Judge:
        base: str = ""

        def for_run(self, config):
            raise ConfigError(f"there is no base for {config.name}")

        def __call__(self, step, export, workdir):
            return {}

    with pytest.raises(ConfigError, match="no base for line"):
        run(recipe(evaluators=(Judge(),)), tmp_path)
    with pytest.raises(ValueError, match="sample 0 is broken"):
        run(recipe(validation=tiny.Numbers(broken=0)), tmp_path)
    assert not (tmp_path / "checkpoints").exists() or not saved(tmp_path)


def test_other_frozen_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    run(constant(steps=3), tmp_path)
    load = tiny.Line.load
    exchanged = dataclasses.replace(tiny.Line(), factor=3.0)
    monkeypatch.setattr(tiny.Line, "load", lambda self, *given: load(exchanged, *given))
    with pytest.raises(ConfigError, match="holds others under the same name"):
        run(constant(steps=6), tmp_path)


def test_best_by_an_evaluator_needs_one(tmp_path):
    with pytest.raises(ConfigError, match="needs an evaluator"):
        run(recipe(best="eval/psnr"), tmp_path)
