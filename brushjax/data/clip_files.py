"""CLIP's tokenizer read from its files by the tokenizers library alone: transformers, which reads
them too, takes more than a second to import."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}

WITHOUT_EFFECT = {
    *("tokenizer_class", "backend", "use_fast", "processor_class", "name_or_path", "is_local"),
    *("local_files_only", "special_tokens_map_file", "model_max_length", "max_length", "stride"),
    *("padding_side", "pad_to_multiple_of", "pad_token_type_id", "truncation_side"),
    *("truncation_strategy", "add_prefix_space", "do_lower_case", "errors"),
    "clean_up_tokenization_spaces",
}
"""Fields of tokenizer_config.json on which no id depends of a text without limit and padding."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClipFiles:
    """Answers as transformers' CLIPTokenizer of the same folder, as far as it is asked here.

    Attributes:
      folder: where the files lie.
      backend_tokenizer: of the tokenizers library.
      special: the text of each of SPECIAL.
    """

    folder: Path
    backend_tokenizer: tokenizers.Tokenizer
    special: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> ClipFiles | None:
        """Reads a folder; None if something lies there that transformers alone should read.

        Source: transformers' CLIPTokenizer.from_pretrained: of tokenizer.json the vocabulary, the
        merges and the added tokens count, and a token that is named twice is as named first.
        """
        whole, config = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
        parts = _vocabulary(folder, whole)
        if parts is None or (folder / "added_tokens.json").is_file():
            return None
        if "added_tokens_decoder" in config:
            told = {int(i): fields for i, fields in config.pop("added_tokens_decoder").items()}
        else:
            config |= _json(folder / "special_tokens_map.json")
            told = {fields.pop("id"): fields for fields in whole.get("added_tokens", ())}
        added = [AddedToken(**told[i]) for i in sorted(told)]
        named = {name: _token(config.pop(name, text)) for name, text in SPECIAL.items()}
        if config.keys() - WITHOUT_EFFECT or None in named.values():
            return None
        special = {name: token.content for name, token in named.items() if token is not None}
        known = {token.content for token in added}
        added += [token for token in named.values() if token and token.content not in known]
        tokenizer = clip_tokenizer(*parts, unknown=special["unk_token"])
        tokenizer.add_tokens(added)
        return cls(folder, tokenizer, special)

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: Literal[False], verbose: bool = False
    ) -> dict[str, list[list[int]]]:
        """Returns the `input_ids` of texts, without start, end and limit."""
        encoded = self.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return {"input_ids": [one.ids for one in encoded]}

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def convert_tokens_to_ids(self, token: str) -> int:
        """Returns a token's id, or the unknown token's."""
        ids = map(self.backend_tokenizer.token_to_id, (token, self.special["unk_token"]))
        return next(index for index in ids if index is not None)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """Returns the token of each id, None for one that is nobody's."""
        return [self.backend_tokenizer.id_to_token(index) for index in ids]

    @property
    def bos_token_id(self) -> int:
        """The id that opens a caption."""
        return self.convert_tokens_to_ids(self.special["bos_token"])

    @property
    def eos_token_id(self) -> int:
        """The id that closes a caption."""
        return self.convert_tokens_to_ids(self.special["eos_token"])

    @property
    def pad_token_id(self) -> int:
        """The id that fills a row up."""
        return self.convert_tokens_to_ids(self.special["pad_token"])


def clip_tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str = END
) -> tokenizers.Tokenizer:
    """Returns a tokenizer that cuts texts up as CLIP's does, without special tokens.

    Source: transformers' CLIPTokenizer.
    """
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix=WORD_END,
        unk_token=unknown,
    )
    made = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of])
    return made


def _json(file: Path) -> dict[str, Any]:
    """A file's content; empty without the file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _vocabulary(
    folder: Path, whole: Mapping[str, Any]
) -> tuple[dict[str, int], list[tuple[str, str]]] | None:
    """The ids and the merges; None where they are kept in another way than CLIP's."""
    if whole:
        model = whole["model"]
        if not isinstance(model["vocab"], dict) or "merges" not in model:
            return None
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        return model["vocab"], [(first, second) for first, second in pairs]
    files = folder / "vocab.json", folder / "merges.txt"
    if not all(file.is_file() for file in files):
        return None
    return models.BPE.read_file(*map(str, files))


def _token(told: str | dict[str, Any] | None) -> AddedToken | None:
    """A special token as a config names it; None if it is none."""
    if isinstance(told, str):
        return AddedToken(told, special=True)
    if isinstance(told, dict):
        fields = {name: told[name] for name in told if name not in ("__type", "special")}
        return AddedToken(**fields, special=True)
    return None
