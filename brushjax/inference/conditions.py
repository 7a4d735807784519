"""What an edit is conditioned on: prompts, or text features that the caller brings."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from brushjax.data.text import LENGTH
from brushjax.inference.engine.batch import as_list, repeated
from brushjax.inference.engine.options import Condition
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.pipelines.prompts import warn_of_marks
from brushjax.pipelines.published import sizes
from brushjax.pipelines.text import TextEncoders, TextFeatures
from brushjax.typing import AddedCondition

Asked = tuple[Any, Any]  # words, or their features in place of them


class Prompts:
    """Turns prompts into the text features of one base.

    Args:
        encoders: None where features are always given.
        unet: the base's UNet config.
    """

    def __init__(self, encoders: TextEncoders | None, unet: Any):
        self.encoders = encoders
        self._unet = unet
        self._told: set[str] = set()  # marks in prompts that were warned of

    def __call__(
        self, prompt: Asked, negative: Asked | None, how: InpaintSettings
    ) -> list[TextFeatures]:
        """Features of one length: of the negative prompt, if there is one, and of the prompt.

        Raises:
            ValueError, TypeError: neither or both of words and features, or features that the base
                does not take.
        """
        asked = {"prompt": prompt}
        if negative is not None:
            asked["negative_prompt"] = ("" if negative[0] is None else negative[0], negative[1])
        words, features = {}, {}
        for name, (text, given) in asked.items():
            if given is None:
                words[name] = _words(name, text)
            else:
                features[name] = self._given(name, text, given)
        features |= self._encoded(words, features, how)
        unset = negative is not None and negative[0] is None
        if unset and features["prompt"].pooled is not None:
            features["negative_prompt"] = jax.tree.map(np.zeros_like, features["prompt"])
        lengths = {name: one.context.shape[1] for name, one in features.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected text features of one length, got {lengths}")
        return [features[name] for name in reversed(asked)]

    def _encoded(
        self, words: dict[str, list[str]], given: dict[str, TextFeatures], how: InpaintSettings
    ) -> dict[str, TextFeatures]:
        """Features of words, as long as the longest and as what is given."""
        if not words:
            return {}
        if self.encoders is None:
            raise ValueError(
                f"expected the context of {' and of '.join(words)}: this Inpainter has no text "
                "encoder or tokenizer"
            )
        every = [one for text in words.values() for one in text]
        warn_of_marks(every, how.weights, self.encoders.learnt, self._told)
        taken = [-(-one.context.shape[1] // LENGTH) for one in given.values()]
        rows = max(taken + [self.encoders.rows(text, how.weights) for text in words.values()])
        return {
            name: self.encoders(text, rows, how.weights, how.clip_skip)
            for name, text in words.items()
        }

    def _given(self, name: str, text: Any, context: Any) -> TextFeatures:
        """Checks text features that the caller brings."""
        if text not in ("", [], ()):
            raise ValueError(f"expected {name} or its context, got both")
        if self._unet.addition_embed_type is not None:
            raise ValueError(f"expected {name} as words: SDXL needs pooled text beside the context")
        context, width = np.asarray(context), self._unet.cross_attention_dim
        if context.ndim != 3 or context.shape[-1] != width:
            raise ValueError(
                f"expected the context of {name} as [B, L, D] with D = {width}, got {context.shape}"
            )
        return TextFeatures(context)


def condition(features: TextFeatures, size: int, height: int, width: int) -> Condition:
    """One condition of guidance for a batch; for SDXL with pooled text and the sizes: the
    picture's, twice, around a crop at its corner."""
    context = repeated(features.context, size)
    if features.pooled is None:
        return Condition(context)
    time_ids = repeated(sizes(height, width)[None], size)
    return Condition(context, AddedCondition(repeated(features.pooled, size), time_ids))


def _words(name: str, text: Any) -> list[str]:
    words = as_list(text)
    if not all(isinstance(one, str) for one in words):
        raise TypeError(f"expected {name} as a string or a list of strings, got {text!r}")
    return words
