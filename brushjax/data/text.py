"""Captions to token ids: loads a published CLIP tokenizer folder, or trains a small one of the same
kind."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.config import ConfigError
from brushjax.data.clip_files import END, START, WORD_END, ClipFiles, clip_tokenizer
from brushjax.files import write_text

LENGTH = 77  # tokens a caption: the context length of every published Stable Diffusion text encoder


def clean(text: str) -> str:
    """Returns a text as OpenAI's tokenizer brings it to plain characters before it cuts it up.

    Curly quotes, ligatures, full-width letters, wrongly decoded characters and HTML entities each
    have one plain form, which is the one that CLIP's vocabulary was made of.

    Source: basic_clean of CLIP's simple_tokenizer.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # nearly all captions; there is nothing to mend
    import ftfy  # 0.1 s

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
# Transformers takes its own module's place as it is imported: a second thread would get the first.
_IMPORTING = threading.Lock()


def transformers_class(name: str) -> Any:
    """Returns a class of transformers; the import takes about a second.

    Without its advice that PyTorch is not installed: tokenizers need none, and it reads as if
    something were broken. What needs it says so itself. No other place imports transformers.
    """
    with _IMPORTING:
        before = os.environ.get(ADVICE)
        os.environ[ADVICE] = "1"
        try:
            import transformers

            return getattr(transformers, name)
        finally:
            if before is None:
                del os.environ[ADVICE]
            else:
                os.environ[ADVICE] = before


_ALONE = threading.Lock()  # the tokenizers library fails where threads use one together


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns captions into ids for the text encoder that lies beside the tokenizer's folder.

    Attributes:
      backend: transformers' CLIPTokenizer, or files that are read without it.
      length: ids in a row, start and end included: the text encoder's number of positions.
      padding: the id behind the end, None takes the backend's own.
    """

    backend: Any
    length: int = LENGTH
    padding: int | None = None

    @classmethod
    def load(
        cls, folder: str | Path, length: int = LENGTH, padding: str | None = None
    ) -> Tokenizer:
        """Reads a tokenizer folder (tokenizer.json, or vocab.json and merges.txt).

        Args:
          folder: the folder itself, or the pipeline folder that holds it as `tokenizer/`.
          length: ids in a row.
          padding: the token to pad with; None takes the folder's own.
        Raises: FileNotFoundError if neither kind of file is there; ConfigError if they are damaged.
        """
        folder = Path(folder)
        if (folder / "tokenizer").is_dir():
            folder = folder / "tokenizer"
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise FileNotFoundError(
                f"expected tokenizer.json, or vocab.json and merges.txt, in {folder}; found none. "
                "Give a tokenizer folder or a pipeline folder in diffusers layout."
            )
        try:
            backend = ClipFiles.read(folder) or _by_transformers(folder)
        except (ImportError, OSError):  # which say themselves what is missing
            raise
        except Exception as error:  # damage shows anywhere, and `tokenizers` has no type of its own
            raise ConfigError(
                f"expected CLIP's tokenizer files in {folder}, which cannot be read as such: "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}. Copy the folder anew"
            ) from error
        known = None if padding is None else backend.convert_tokens_to_ids(padding)
        return cls(backend, length, known)

    def __call__(self, captions: str | Sequence[str]) -> np.ndarray:
        """Returns ids int32 [n, length]: start, caption (cut where too long), end, then padding."""
        captions = [captions] if isinstance(captions, str) else list(captions)
        rows = [self._row(ids[: self.length - 2]) for ids in self._ids(captions)]
        return np.array(rows, np.int32).reshape(len(rows), self.length)

    def chunks(self, captions: str | Sequence[str], least: int = 1) -> np.ndarray:
        """Returns ids int32 [n, chunks, length] without cutting: a row for each length - 2 tokens.

        Every row has its own start and end, as community programs encode long prompts; captions
        that need fewer rows than the longest get rows without words.

        Args:
          captions: the texts.
          least: rows at least.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        return self.rows(self._ids(captions), least)

    def rows(self, texts: Sequence[Sequence[int]], least: int = 1) -> np.ndarray:
        """Returns ids int32 [n, rows, length] of texts given as ids, as `chunks` of captions."""
        room = self.length - 2
        count = max([least, *(-(-len(ids) // room) for ids in texts)])
        rows = [
            self._row(list(ids[room * chunk : room * (chunk + 1)]))
            for ids in texts
            for chunk in range(count)
        ]
        return np.array(rows, np.int32).reshape(len(texts), count, self.length)

    def ids(self, text: str) -> list[int]:
        """Returns a text's ids without start, end and limit."""
        return self._ids([text])[0]

    def _ids(self, captions: list[str]) -> list[list[int]]:
        """The captions' ids, without start, end and limit."""
        if not captions:
            return []
        texts = [clean(caption) for caption in captions]
        with _ALONE:
            return self.backend(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _row(self, ids: list[int]) -> list[int]:
        padding = self.backend.pad_token_id if self.padding is None else self.padding
        row = [self.start_id, *ids, self.end_id]
        return row + [padding] * (self.length - len(row))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and its config, and vocab.json with merges.txt for older
        readers."""
        read = isinstance(self.backend, ClipFiles)
        backend = _by_transformers(self.backend.folder) if read else self.backend
        backend.save_pretrained(str(folder))
        backend.backend_tokenizer.model.save(str(folder))
        file = Path(folder) / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        merges = content["model"]["merges"]  # as pairs, which tokenizers before 0.20 can't read
        content["model"]["merges"] = [
            pair if isinstance(pair, str) else " ".join(pair) for pair in merges
        ]
        write_text(file, json.dumps(content, indent=2, ensure_ascii=False))

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are: the text encoder's vocab_size must not be smaller."""
        return len(self.backend)

    @property
    def start_id(self) -> int:
        """The id that opens a caption."""
        return int(self.backend.bos_token_id)

    @property
    def end_id(self) -> int:
        """The id that closes a caption, whose hidden state is the pooled output."""
        return int(self.backend.eos_token_id)


def _by_transformers(folder: Path) -> Any:
    return transformers_class("CLIPTokenizer").from_pretrained(str(folder))


def train_tokenizer(captions: Iterable[str], folder: str | Path, size: int = 1024) -> None:
    """Trains a byte-pair tokenizer of CLIP's kind on captions and writes it to a folder.

    The end token gets the largest id, as in the published vocabulary: transformers' oldest text
    encoders find the caption's end as the largest id. Every byte is in the alphabet, so no prompt
    meets an unknown token.

    Args:
      captions: the texts; the same texts in the same order give the same files.
      folder: gets tokenizer.json and its config, and vocab.json with merges.txt for older readers.
      size: ids in all, at least 514 (256 bytes, each also as a word's end, and the two special
        tokens).
    Raises: ValueError if `size` has no room for the alphabet.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = alphabet + [letter + WORD_END for letter in alphabet]
    if size < len(letters) + 2:
        raise ValueError(f"expected size >= {len(letters) + 2} (the byte alphabet); got {size}")
    empty = clip_tokenizer({END: 0}, [])  # its normaliser and splitter are CLIP's
    words: Counter[str] = Counter()
    for caption in captions:
        plain = empty.normalizer.normalize_str(clean(caption))
        pieces = empty.pre_tokenizer.pre_tokenize_str(plain)
        words.update(piece for piece, _ in pieces)
    merges = learn_merges(words, size - 2 - len(letters))
    vocabulary = [*letters, *("".join(pair) for pair in merges), START, END]
    tokenizer = transformers_class("CLIPTokenizer")(
        vocab={token: index for index, token in enumerate(dict.fromkeys(vocabulary))},
        merges=merges,  # pyright: ignore[reportArgumentType]
        model_max_length=LENGTH,
    )
    Tokenizer(tokenizer).save(folder)


def learn_merges(words: Mapping[str, int], count: int) -> list[tuple[str, str]]:
    """Returns the byte pairs to merge, the most frequent first, as long as one occurs twice.

    Of equally frequent pairs the first in the alphabet wins, so that the result depends on nothing
    else; the trainer of the `tokenizers` library depends on the order of a hash table.

    Args:
      words: how often each word occurs, in the byte alphabet.
      count: of pairs at most.
    """
    split = {word: [*word[:-1], word[-1] + WORD_END] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        split = {word: _merged(parts, best) for word, parts in split.items()}
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins every occurrence of the pair, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
