"""The agent as a method of the sweep."""

import dataclasses

import numpy as np
import pytest

from brushjax.agents import instructor, segmenters
from brushjax.agents.segmenters import nothing, of_masks
from brushjax.evaluation.benchmarks.miniature import Miniature
from brushjax.evaluation.methods.contract import Resources, Task
from brushjax.evaluation.methods.instructed import Agent
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import Pixels, Record, pixel_digest
from brushjax.inference import Inpainter
from brushjax.metrics.profiles.plans import PLAN_METRICS
from brushjax.metrics.views import Views
from tests.agents.noise import Noise

WORDS = ("remove the dog", "the quick brown fox", "replace the dog with a cat")


class Unused(Models):
    """Networks that nobody asks for."""

    def __init__(self):
        pass

    def branch(self, *_):
        return "branch"

    def base(self, *_):
        return {}

    def base_digests(self, *_):
        return {}

    def digest(self, branch):
        return branch


def tasks():
    random = np.random.default_rng(0)
    hole = np.zeros((24, 32), np.uint8)
    hole[4:20, 4:20] = 1
    made = []
    for seed, words in enumerate(WORDS):
        pixels = Pixels(random.integers(0, 256, (24, 32, 3), np.uint8), hole)
        record = Record("toy", str(seed), "", lambda: None, pixel_digest(pixels), instruction=words)
        made.append(Task(record, pixels, seed))
    return made


@pytest.fixture
def noise(monkeypatch):
    painter = Noise()
    monkeypatch.setattr(Inpainter, "from_parts", lambda **_: painter)
    return painter


def test_agent_paints_what_it_understands_and_leaves_the_rest(noise):
    asked = tasks()
    made = Agent().method(Resources(Unused(), devices=[None])).fill(asked)
    same = [np.array_equal(one, task.pixels.source) for one, task in zip(made.pictures, asked)]
    assert same == [False, True, False]
    outside = asked[0].hole == 0
    for one, task in zip(made.pictures, asked):
        assert np.array_equal(one[outside], task.pixels.source[outside])
    assert made.regions is None
    assert made.plans == [("removal", "dog"), ("", ""), ("local", "dog")]


def test_agent_that_finds_its_mask_says_where_it_edited(noise, monkeypatch):
    found = np.zeros((1, 24, 32), np.uint8)
    found[0, :8, :8] = 255
    finder = {"toy": lambda: lambda image, phrase: of_masks(found, [1.0])}
    monkeypatch.setattr(segmenters, "SEGMENTERS", finder)
    agent = dataclasses.replace(Agent(), masks="found", segmenter="toy")
    made = agent.method(Resources(Unused(), devices=[None])).fill(tasks())
    assert [int(region.sum()) for region in made.regions] == [17 * 17, 0, 64]  # widened by 9


def test_agent_that_finds_nothing_still_says_what_it_understood(noise, monkeypatch):
    finder = {"toy": lambda: lambda image, phrase: nothing(*image.shape[:2])}
    monkeypatch.setattr(segmenters, "SEGMENTERS", finder)
    agent = dataclasses.replace(Agent(), masks="found", segmenter="toy")
    made = agent.method(Resources(Unused(), devices=[None])).fill(tasks())
    assert made.plans == [("removal", "dog"), ("", ""), ("local", "dog")]
    assert not made.regions.any()
    assert noise.told == []


@pytest.mark.parametrize(
    ("plan", "asked", "values"),
    [
        (("removal", "Dog"), ("removal", "dog"), (1, 1, 1)),
        (("local", "cat"), ("removal", "dog"), (1, 0, 0)),
        (("", ""), ("removal", "dog"), (0, 0, 0)),
        (("background", ""), ("background", ""), (1, 1, np.nan)),
    ],
)
def test_plan_metrics_compare_with_what_was_asked_for(plan, asked, values):
    sample = Views(np.zeros((8, 8, 3), np.uint8), plan=plan, asked=asked)
    found = [*(metric(sample, {}).popitem()[1] for metric in PLAN_METRICS)]
    assert np.array_equal(found, values, equal_nan=True)


def test_patterns_plans_the_miniatures_edits():
    words = instructor("patterns")
    records = Miniature(count=8, parts=("held-out",)).records()
    plans = [words(record.instruction, source_caption=record.source_caption) for record in records]
    right = [(plan.category, plan.object) == record.asked for plan, record in zip(plans, records)]
    assert np.mean(right) >= 0.95


def test_agent_settings_name_all_that_its_pictures_depend_on():
    resources = Resources(Unused(), devices=[None])
    settings = (
        Agent(sampling=dataclasses.replace(Agent().sampling, steps=7)).method(resources).settings
    )
    assert settings["sampling"]["steps"] == 7
    assert settings["branch"] == "branch"
