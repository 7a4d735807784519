"""One table per kind of model."""

from brushjax.weights.maps.brushnet import BRUSHNET
from brushjax.weights.maps.clip import CLIP_TEXT, CLIP_TEXT_2
from brushjax.weights.maps.fireedit import FIREEDIT
from brushjax.weights.maps.llama import LLAMA
from brushjax.weights.maps.region import REGION
from brushjax.weights.maps.scoring import AESTHETIC, IMAGE_REWARD, LPIPS
from brushjax.weights.maps.t5 import T5
from brushjax.weights.maps.unet import UNET
from brushjax.weights.maps.vae import VAE
from brushjax.weights.maps.vit import CLIP_VISION, DINO
from brushjax.weights.rules import WeightMap, WeightsError

MAPS: dict[str, WeightMap] = {
    table.kind: table
    for table in (
        *(UNET, VAE, CLIP_TEXT, CLIP_TEXT_2, BRUSHNET),
        *(T5, REGION),
        *(CLIP_VISION, DINO, LPIPS, IMAGE_REWARD, AESTHETIC),  # these only look at pictures
        *FIREEDIT,
        LLAMA,
    )
}

__all__ = ["MAPS", "map_of", "register"]


def register(table: WeightMap) -> WeightMap:
    """Adds the table of a model outside this package, so that `load` and `save` know its kind.

    Raises: WeightsError for a kind that is another model's.
    """
    known = MAPS.setdefault(table.kind, table)
    if known.model != table.model:
        raise WeightsError(f"expected a new kind; {table.kind!r} is {known.model[1]}'s already")
    return known


def map_of(kind: str) -> WeightMap:
    """Returns the table of a kind, or raises WeightsError naming the kinds there are."""
    if kind not in MAPS:
        raise WeightsError(f"unknown kind {kind!r}; expected one of {', '.join(MAPS)}.")
    return MAPS[kind]
