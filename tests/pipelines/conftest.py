"""The small networks of inference's tests."""

from tests.inference.conftest import painter, parts, pipeline, tokenizer_folder

__all__ = ["painter", "parts", "pipeline", "tokenizer_folder"]
