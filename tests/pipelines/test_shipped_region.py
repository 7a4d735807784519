"""The region predictor in the package: small, whole, and better than chance on held-out pixels."""

import numpy as np

from brushjax.data.sets.collages import PlantedRegions
from brushjax.metrics import region as metrics
from brushjax.pipelines.regions import SHIPPED_REGION, RegionFinder


def test_shipped_predictor_finds_both_things_of_held_out_pictures():
    finder = RegionFinder.load()
    data = PlantedRegions(split="held_out", pool=8, seed=1)
    source = data.source(lambda record: {"record": record})
    records = [source.record(n) for n in range(data.pool)]
    overlaps = [
        metrics.iou(finder.find(one.image, one.instruction).region, one.region[..., 0] > 0)
        for one in records
    ]
    asked_once = [max(pair) for pair in np.reshape(overlaps, (-1, 2))]
    assert np.mean(overlaps) > 0.5  # a half at random has 0.33, everything 0.5
    assert min(asked_once) > 0.4


def test_shipped_predictor_and_its_clip_are_small_and_beside_each_other():
    files = [path for path in SHIPPED_REGION.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6e6
    finder = RegionFinder.load()
    assert finder.encoders.clip == str(SHIPPED_REGION / "clip")
    assert not finder.encoders.reader
