"""The instructor "local": a multimodal language model of transformers, on this machine."""

from __future__ import annotations

from typing import Any

from PIL import Image

from brushjax.agents import replies
from brushjax.agents.plan import EditPlan
from brushjax.agents.segmenters import published
from brushjax.inference.images import read_image

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
NEW_TOKENS = 256


class LocalModel:
    """Asks a model that reads pictures and text, such as Qwen2.5-VL, greedily."""

    def __init__(self, model: str = MODEL, device: str = "cpu", dtype: str = "auto"):
        """Loads processor and model.

        Args:
            model: folder or hub id.
            dtype: of the weights, by torch's name; "auto" keeps the file's.
        """
        self._reader = published("AutoProcessor", model)
        kind = "AutoModelForImageTextToText"
        self._model = published(kind, model, dtype=dtype).to(device).eval()

    def __call__(self, instruction: str, image: Any = None, source_caption: str = "") -> EditPlan:
        """Returns the plan, without mask.

        Raises:
            NotUnderstood: a reply that is no plan.
        """
        picture = None if image is None else read_image(image)
        size = None if picture is None else picture.shape[1::-1]
        system, user = replies.question(instruction, source_caption, size)
        content: list[dict[str, Any]] = [{"type": "text", "text": user}]
        if picture is not None:
            content.insert(0, {"type": "image", "image": Image.fromarray(picture)})
        messages = [
            {"role": "system", "content": [{"type": "text", "text": system}]},
            {"role": "user", "content": content},
        ]
        return replies.read_plan(self.say(messages), instruction, picture, source_caption)

    def say(self, messages: list[dict[str, Any]]) -> str:
        """The model's reply to messages."""
        import torch

        inputs = self._reader.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.no_grad():
            ids = self._model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return self._reader.batch_decode(new, skip_special_tokens=True)[0]
