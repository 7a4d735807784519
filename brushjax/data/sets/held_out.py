"""What training data hold out, as validation data."""

from __future__ import annotations

import dataclasses
from typing import Any

from brushjax.config import ConfigError
from brushjax.data.sets.brushdata import BrushData


@dataclasses.dataclass(frozen=True)
class HeldOutPart:
    """Validation data: what the run's training data hold out.

    Attributes:
        pool: so many fixed crops with fixed holes.
    """

    pool: int = 64

    def of(self, data: Any) -> BrushData:
        """Returns the held-out part of training data.

        Raises: ConfigError if they hold nothing out.
        """
        if not isinstance(data, BrushData) or data.split != "train":
            raise ConfigError(
                'expected training data of the kind BrushData with split "train", which hold '
                f"something out; got {type(data).__name__} {getattr(data, 'split', '')}"
            )
        plain = dataclasses.replace(data, latents="", new_holes=False)
        return dataclasses.replace(plain, split="held_out", pool=self.pool)
