"""What the configs of FireEdit's parts have in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from brushjax.models.published import PublishedConfig

NOTES = frozenset(
    """
    batch clip_tokens cls_token cross_attention_layers dino_tokens gelu grid ignore_keys noise
    noproj roialign_alone score seed seq sinusoid slot_order text_tokens tied_duplicates
    weights_from zeroing_has_no_effect mask_fill_cross order
    """.split()  # noqa: SIM905 - twenty names, one to a line, would be half a page
)
"""Notes that stand in the config of stored reference outputs; none of them changes a network."""


Config = TypeVar("Config", bound="PartConfig")


@dataclasses.dataclass(frozen=True)
class PartConfig(PublishedConfig):
    """Settings of one part. No public config.json exists: the names are this project's."""

    HARMLESS: ClassVar[frozenset[str]] = NOTES

    @classmethod
    def from_dict(cls: type[Config], published: Mapping[str, Any]) -> Config:
        """Reads a part's config. The config of all of Groma stands for the one size there is.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        if published.get("architectures") == ["GromaModel"]:
            return cls()
        return super().from_dict(published)
