"""What a run says of its data before the first step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from brushjax.data.faults import Fault
from brushjax.data.sources.collection import Collection
from brushjax.data.sources.pictures import upright_size

LOOKED_AT = 16  # samples, spread over all, whose pictures and captions are looked at


def preflight(
    collection: Collection, numbers: np.ndarray, size: int, faults: Mapping[str, int], use: str
) -> str:
    """Says in one line what was found: how many samples of what, what was left out, how large the
    pictures are, and how many have masks and captions.

    Args:
      numbers: of the samples that are used.
      size: of the crops, in pixels.
      faults: {cause: count} of what is known to be wrong.
      use: how many samples are for what.
    """
    looked_at = [int(numbers[n * len(numbers) // LOOKED_AT]) for n in range(LOOKED_AT)]
    looked_at = list(dict.fromkeys(looked_at))
    sides, masks, words = [], 0, 0
    for number in looked_at:
        try:
            members = collection.read(number, ("image", "caption"), ("segmentation",))
            sides.append(min(upright_size(members["image"])))
        except Fault:  # it is met, and counted, when its turn comes
            continue
        masks += "segmentation" in members
        words += bool(members["caption"].strip())
    parts = [f"{len(collection)} {collection.kind}: {use}"]
    if faults:
        parts.append("left out or odd: " + ", ".join(f"{c} {n}" for c, n in faults.items()))
    if sides:
        small = sum(side < size for side in sides)
        parts.append(
            f"of {len(looked_at)} looked at {words} have a caption and {masks} masks of objects, "
            f"the shorter side is {min(sides)} to {max(sides)} pixels"
        )
        if small:
            parts.append(f"{small} are smaller than {size} pixels and will be enlarged")
    return "; ".join(parts)
