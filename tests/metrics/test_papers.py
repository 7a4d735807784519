"""The published scripts' numbers, against stored runs of them and against plain restatements."""

import json

import numpy as np
import pytest

from brushjax.metrics.registry import METRICS, score, select
from brushjax.metrics.views import Views
from tests.support import GOLDEN


@pytest.fixture(scope="module")
def noisy():
    """The pictures of the stored run: noise, the same noise shifted, and a rectangular hole."""
    rng = np.random.default_rng(5)
    source = rng.integers(0, 256, (512, 512, 3), np.uint8)
    shift = rng.integers(-20, 21, source.shape)
    hole = np.zeros((512, 512), bool)
    hole[100:300, 50:400] = True
    return source, np.clip(source + shift, 0, 255).astype(np.uint8), hole


def test_brushedit_pixel_metrics_equal_the_stored_run_of_the_script(noisy):
    source, result, hole = noisy
    stored = json.loads((GOLDEN / "misc" / "eval_metrics.json").read_text())
    sample = Views(result, source, mask=hole, from_jpeg=True)
    found = score(select(["paper:brushedit"], ["psnr", "mse"], ()), sample, {})
    assert found["paper:brushedit/mse@1"] == pytest.approx(stored["mse"], abs=1e-6, rel=1e-6)
    assert found["paper:brushedit/psnr@1"] == pytest.approx(stored["psnr"], abs=1e-6)
    clean = METRICS["clean/mse_keep@1"](sample, {})["clean/mse_keep@1"]
    assert clean == pytest.approx(stored["mse_if_divided_by_3_channels"], abs=1e-6)
