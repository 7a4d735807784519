"""A painter that needs no networks."""

import numpy as np

from brushjax.inference.engine.batch import as_list
from brushjax.inference.images import prepare
from brushjax.inference.inpaint import Inpainter, InpaintResult


class Noise(Inpainter):
    """Paints noise of the seed, and blends it as the real one does."""

    def __init__(self):
        self.told = []

    def __call__(self, image, mask, prompt="", negative_prompt="", *, seed=0, **how):
        self.told.append((prompt, negative_prompt))
        blend = how["settings"].blend if "settings" in how else how.get("blend", "paste")
        prepared = prepare(as_list(image), as_list(mask))
        noise = [
            np.random.default_rng((77, one)).integers(0, 256, prepared.masked.shape[1:], np.uint8)
            for one in as_list(seed)
        ]
        images = prepared.finish(np.stack(noise), blend)
        return InpaintResult(images, np.zeros((len(images), 1, 1, 4), np.float32), 0.0)
