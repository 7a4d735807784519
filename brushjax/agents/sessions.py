"""Edits of several turns, kept in a folder: undo, branches, each turn made again from its seed.

session.json names the turns and where one stands; turns/N/ holds a turn's picture and plan. A turn
is written whole before session.json knows it, so that a stop loses at most the turn itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax import files
from brushjax.agents.plan import EditPlan, read_reply
from brushjax.agents.protocols import Editor
from brushjax.inference.images import read_image
from brushjax.inference.result import write_picture
from brushjax.lock import locked

VERSION = 1
NAME = "session.json"
PICTURE, PLAN = "picture.png", "plan.json"  # of a turn


@dataclasses.dataclass(frozen=True)
class Turn:
    """One picture of a session.

    Attributes:
        number: 0 is the picture that the session began with.
        parent: the turn that it was made from; None for 0.
        instruction: what was asked for.
        seed: of the edit.
        settings: of the editor, as JSON.
    """

    number: int
    parent: int | None = None
    instruction: str = ""
    seed: int = 0
    settings: str = "{}"


class Session:
    """A tree of turns in a folder. One process at a time changes it."""

    def __init__(self, folder: Path, turns: list[Turn], at: int):
        self.folder, self.turns, self.at = folder, turns, at

    @classmethod
    def start(cls, folder: str | Path, image: Any) -> Session:
        """Begins a session with a picture.

        Raises:
            ValueError: there is one in the folder already.
        """
        folder = Path(folder)
        if (folder / NAME).exists():
            raise ValueError(f"{folder} holds a session already; open it, or choose another folder")
        session = cls(folder, [Turn(0)], 0)
        with locked(folder):
            write_picture(session._picture(0), read_image(image))
            session._write()
        return session

    @classmethod
    def open(cls, folder: str | Path) -> Session:
        """Opens a session.

        Raises:
            ValueError: there is none, or one of another version.
        """
        folder = Path(folder)
        if not (folder / NAME).is_file():
            raise ValueError(f"expected a session in {folder}; there is no {NAME}")
        row = read_reply((folder / NAME).read_text(encoding="utf-8"), folder / NAME)
        if not isinstance(row, dict) or row.get("version") != VERSION:
            raise ValueError(f"expected a session of version {VERSION} in {folder / NAME}")
        return cls(folder, [Turn(**turn) for turn in row["turns"]], row["at"])

    def expect(self, image: Any) -> None:
        """Raises ValueError unless the session began with this picture."""
        if not np.array_equal(read_image(image), read_image(self._picture(0))):
            raise ValueError(
                f"{self.folder} began with another picture: give that one, or a new folder"
            )

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """The picture where one stands."""
        return self.picture(self.at)

    def picture(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a turn; raises ValueError if there is no such turn."""
        return read_image(self._picture(self._turn(number).number))

    def files(self, number: int) -> dict[str, Path]:
        """The files of a turn: "picture", and of all but the first "plan" and "mask"."""
        place = self._place(self._turn(number).number)
        masks = [("mask", path) for path in place.glob("*.mask-*.png")]  # one at most
        found = [("picture", place / PICTURE), ("plan", place / PLAN), *masks]
        return {name: path for name, path in found if path.is_file()}

    def plan(self, number: int | None = None) -> EditPlan:
        """The plan that a turn was made by; of the turn where one stands by default."""
        turn = self._turn(self.at if number is None else number)
        if turn.parent is None:
            raise ValueError("turn 0 is the picture itself; no plan made it")
        return EditPlan.load(self._place(turn.number) / PLAN, self.picture(turn.parent))

    def edit(self, plan: EditPlan, editor: Editor, seed: int = 0) -> Turn:
        """Carries out a plan on the picture where one stands, and goes on to the new turn.

        Raises:
            ValueError: a plan for another picture; what the editor raises.
        """
        if plan.image is None or not np.array_equal(plan.image, self.image):
            raise ValueError("expected a plan for the picture where the session stands")
        return self.keep(self.at, plan, editor(plan, seed), editor.settings, seed)

    def keep(
        self,
        parent: int,
        plan: EditPlan,
        picture: UInt8[np.ndarray, "H W 3"],
        settings: Mapping[str, Any],
        seed: int = 0,
    ) -> Turn:
        """Adds a turn whose picture was painted elsewhere, and goes on to it.

        Args:
            parent: the turn whose picture the plan is for; several turns of one parent are
                branches.
            settings: of the editor.

        Raises:
            ValueError: there is no such turn.
        """
        self._turn(parent)
        with locked(self.folder):
            known = Session.open(self.folder)
            kept = json.dumps(settings, sort_keys=True)
            turn = Turn(len(known.turns), parent, plan.instruction, seed, kept)
            plan.save(self._place(turn.number) / PLAN)
            write_picture(self._picture(turn.number), picture, dataclasses.asdict(turn))
            self.turns, self.at = [*known.turns, turn], turn.number
            self._write()
        return turn

    def undo(self) -> int:
        """Goes back to the turn before; what was undone stays as a branch.

        Raises:
            ValueError: there is none before.
        """
        parent = self._turn(self.at).parent
        if parent is None:
            raise ValueError("there is nothing to undo: this is the picture it began with")
        return self.go(parent)

    def go(self, number: int) -> int:
        """Goes to any turn; the next edit begins a branch there.

        Raises:
            ValueError: there is no such turn.
        """
        self._turn(number)
        with locked(self.folder):
            known = Session.open(self.folder)
            self.turns, self.at = known.turns, number
            self._write()
        return number

    def path(self) -> list[Turn]:
        """The turns from the first picture to where one stands."""
        turns = [self._turn(self.at)]
        while turns[-1].parent is not None:
            turns.append(self._turn(turns[-1].parent))
        return turns[::-1]

    def branches(self) -> list[int]:
        """The turns from which nothing goes on."""
        parents = {turn.parent for turn in self.turns}
        return [turn.number for turn in self.turns if turn.number not in parents]

    def told(self) -> str:
        """Where it stands, and its turns, each with the one that it was made from."""
        lines = [f"stands at turn {self.at}"]
        for turn in self.turns[1:]:
            lines.append(
                f"  {turn.number} from {turn.parent}: {turn.instruction} (seed {turn.seed})"
            )
        return "\n".join(lines)

    def _turn(self, number: int) -> Turn:
        if not 0 <= number < len(self.turns):
            raise ValueError(f"expected a turn of 0 to {len(self.turns) - 1}, got {number}")
        return self.turns[number]

    def _place(self, number: int) -> Path:
        return self.folder / "turns" / str(number)

    def _picture(self, number: int) -> Path:
        return self._place(number) / PICTURE

    def _write(self) -> None:
        turns = [dataclasses.asdict(turn) for turn in self.turns]
        files.write_json(self.folder / NAME, {"version": VERSION, "turns": turns, "at": self.at})
