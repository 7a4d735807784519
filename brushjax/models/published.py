"""Reading and writing the config.json that published checkpoints carry."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

Config = TypeVar("Config", bound="PublishedConfig")


@dataclasses.dataclass(frozen=True)
class PublishedConfig:
    """A frozen view of a config.json that refuses what the network here would not honour.

    Attributes:
      extra: JSON of keys that don't change the network; kept so that saving writes them back.
    """

    extra: str = dataclasses.field(default="{}", kw_only=True, compare=False)

    CLASS_NAME: ClassVar[str]
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Keys that change the network, with the values that are implemented (the first is written)."""
    HARMLESS: ClassVar[frozenset[str]] = frozenset()
    """Keys that don't change the network."""

    @classmethod
    def from_dict(cls: type[Config], published: Mapping[str, Any]) -> Config:
        """Reads a published config.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        values, extra, refused = {}, {}, []
        for key, value in published.items():
            value = _freeze(value)
            if key in names:
                values[key] = value
            elif key in cls.FIXED:
                if value not in cls.FIXED[key]:
                    choices = " or ".join(repr(choice) for choice in cls.FIXED[key])
                    refused.append(f"{key}: expected {choices}, got {value!r}")
                extra[key] = value
            elif key.startswith("_") or key in cls.HARMLESS or value in (None, False):
                extra[key] = value
            else:
                refused.append(f"{key}: unknown setting, got {value!r}")
        if refused:
            raise ValueError(f"{cls.__name__} can't honour this config:\n  " + "\n  ".join(refused))
        return cls(**values, extra=json.dumps(extra, sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as published: every field, fixed settings and kept extras."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"
        }
        fixed = {key: choices[0] for key, choices in self.FIXED.items()}
        published = {"_class_name": self.CLASS_NAME, **fixed, **fields, **json.loads(self.extra)}
        return json.loads(json.dumps(published))


def _freeze(value: Any) -> Any:
    """Turns lists into tuples, so that a config is hashable."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def per_block(value: Any, blocks: int) -> tuple[Any, ...]:
    """Repeats a setting that may be given once or per block.

    Raises:
      ValueError: if a sequence has another length than `blocks`.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * blocks
    if len(values) != blocks:
        raise ValueError(f"expected one value per block ({blocks}), got {values}")
    return values
