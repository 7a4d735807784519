"""The one rule by which a model's weight files are chosen among the files of a folder.

Full precision before variants, the variant fp16 before others; among equals safetensors before
PyTorch's pickles before Flax's msgpack, and one file before shards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from brushjax.weights.rules import WeightMap, WeightsError

FORMATS = ("safetensors", "bin", "msgpack")  # the first is preferred
FIRST = ("", "fp16")  # variants in this order before all others
# diffusers and transformers have other names for files that are no safetensors.
MORE_STEMS = {"bin": ("pytorch_model",), "msgpack": ("diffusion_flax_model", "flax_model")}


@dataclasses.dataclass
class Candidate:
    """The files that hold a model once.

    Attributes:
        whole: the one file, or None.
        shards: the files that hold a part each.
        index: the .json that names them, or None.
    """

    whole: str | None = None
    shards: list[str] = dataclasses.field(default_factory=list)
    index: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The file, or the shards with their index."""
        if self.whole is not None:
            return (self.whole,)
        return (*([self.index] if self.index else []), *sorted(self.shards))


def _pattern(table: WeightMap, ending: str) -> re.Pattern[str]:
    """Names such as stem.safetensors, stem.fp16.bin, stem.fp16-00001-of-00004.safetensors,
    stem-00001-of-00004.fp16.bin, stem.safetensors.index.fp16.json."""
    stems = "|".join(map(re.escape, (table.stem, *MORE_STEMS.get(ending, ()))))
    number = r"-\d+-of-\d+"
    return re.compile(
        rf"(?:{stems})(?:\.(?P<before>[^.]+?))?(?P<number>{number})?(?:\.(?P<behind>[^.]+))?"
        rf"\.{ending}(?P<index>\.index(?:\.(?P<last>[^.]+))?\.json)?"
    )


def candidates(table: WeightMap, names: Iterable[str]) -> dict[tuple[str, str], Candidate]:
    """Groups the names of a folder's files: {(variant, format): its files}."""
    found: dict[tuple[str, str], Candidate] = {}
    patterns = {ending: _pattern(table, ending) for ending in FORMATS}
    for name in sorted(names):
        for ending, pattern in patterns.items():
            match = pattern.fullmatch(name)
            if match is None:
                continue
            variant = match["before"] or match["behind"] or match["last"] or ""
            one = found.setdefault((variant, ending), Candidate())
            if match["index"]:
                one.index = name
            elif match["number"]:
                one.shards.append(name)
            else:
                one.whole = name
    return {key: one for key, one in found.items() if one.whole or one.shards or one.index}


def choose(table: WeightMap, names: Iterable[str]) -> Candidate | None:
    """Returns the files to read by the rule above, None where there are none.

    Raises:
        WeightsError: there are only variants other than fp16, and several.
    """
    found = candidates(table, names)
    variants = {variant for variant, _ in found}
    others = sorted(variants - {*FIRST})
    preferred = [variant for variant in FIRST if variant in variants]
    if not preferred and len(others) > 1:
        raise WeightsError(
            f"several variants of the {table.kind}, {', '.join(others)}, and none of them is fp16 "
            "or in full precision"
        )
    for variant in preferred + others:
        for ending in FORMATS:
            if (variant, ending) in found:
                return found[variant, ending]
    return None


def belongs(table: WeightMap, name: str) -> bool:
    """Whether a file's name is one that a folder of this kind gives its weights."""
    return bool(candidates(table, [name]))
