"""MagicBrush: instruction edits in sessions of one to three turns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from brushjax.evaluation.benchmarks.files import (
    chosen,
    each,
    file_bytes,
    picture,
    read_json,
    white,
)
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where MagicBrush's test split is to be had and how its folder looks"


@dataclasses.dataclass(frozen=True)
class MagicBrush(Benchmark):
    """MagicBrush's test split, unpacked as published.

    Attributes:
        folder: holds edit_sessions.json, the captions and images/.
        protocol: "single" edits every turn's true source; "multi" goes on from one's own results,
            and only the last picture of a session counts. Sessions of one turn count in both.
        prompt: what a caption-driven generator is given: the caption of the whole true picture, the
            one of its edited part, or the instruction.
        limit: how many sessions at most; 0 is all.
        skip: sessions to leave out.

    A mask is the photograph itself, transparent where it is edited; one without transparency is
    white there.

    Source: the MagicBrush repository, image_eval.py; CLIP-T takes the local captions.
    """

    folder: str = "data/MagicBrush/test"
    protocol: Literal["single", "multi"] = "single"
    prompt: Literal["global", "local", "instruction"] = "global"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:magicbrush",)

    @property
    def name(self) -> str:
        """Name with its protocol."""
        return f"magicbrush-{self.protocol}"

    @property
    def published_count(self) -> int:
        """Number of scored records as published."""
        return 1053 if self.protocol == "single" else 535

    def records(self) -> list[Record]:
        """The records, session by session."""
        folder = Path(self.folder)
        sessions = read_json(folder / "edit_sessions.json", dict, HOW)
        captions = {
            kind: read_json(folder / f"{kind}_descriptions.json", dict, HOW)
            for kind in ("global", "local")
        }
        entries = chosen(list(sessions.items()), lambda entry: entry[0], self.skip, self.limit)
        made = each(entries, lambda entry: self._session(entry, captions), lambda entry: entry[0])
        return check_ids([record for session in made for record in session])

    def _session(
        self, entry: tuple[str, list[dict[str, str]]], captions: dict[str, dict[str, Any]]
    ) -> list[Record]:
        key, turns = entry
        if not turns:
            raise BenchmarkError("the session has no turn")
        return [self._turn(key, turns, number, captions) for number in range(1, len(turns) + 1)]

    def _turn(
        self, key: str, turns: list[dict[str, str]], number: int, captions: dict[str, Any]
    ) -> Record:
        turn, folder = turns[number - 1], inside(Path(self.folder) / "images", key)
        files = {name: inside(folder, turn[name]) for name in ("input", "mask", "output")}
        content = {name: file_bytes(path) for name, path in files.items()}
        chained = self.protocol == "multi" and number > 1

        def read() -> Pixels:
            source = picture(files["input"].read_bytes(), str(files["input"]))
            mask, size = files["mask"], source.shape[:2]
            hole = white(mask.read_bytes(), str(mask), size, "transparent", clear=True)
            return Pixels(source, hole, picture(files["output"].read_bytes(), str(files["output"])))

        texts = {kind: by_file[key][turn["output"]] for kind, by_file in captions.items()}
        prompt = turn["instruction"] if self.prompt == "instruction" else texts[self.prompt]
        kind = {"single": "inde", "multi": "iter"}[self.protocol]
        result = f"{key}/{key}_1" if number == 1 else f"{key}/{key}_{kind}_{number}"
        return Record(
            self.name,
            f"{key}-{number}",
            prompt,
            read,
            digest(*content.values()),
            turn=number,
            session=key,
            group=f"turn {number}",
            instruction=turn["instruction"],
            source_caption=captions["global"][key].get(turn["input"], ""),
            target_caption=texts["global"],
            local_caption=texts["local"],
            after=f"{key}-{number - 1}" if chained else "",
            scored=self.protocol == "single" or number == len(turns),
            results=(result,),
        )
