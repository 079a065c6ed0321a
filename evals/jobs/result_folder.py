"""The folder of a result: looked at before any work, with journals beside it, written whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.run.console import say
from evals.run.journal import KEEP_NOTHING, Journal, hash_program
from surgery.output import (
    Owned,
    check_output,
    claim,
    create_folder,
    create_parents,
    explain_os_errors,
    write_lines,
)
from surgery.processes import current_processes

if TYPE_CHECKING:
    from evals.run.models import LoadedModel
    from evals.run.request import Request


@dataclass(frozen=True)
class Journals:
    """Hidden files beside a result, which keep the work on it until it is there.

    - `path`: of the result; None: keep nothing. `anew`: whether work on other inputs, or with other
      options, is begun anew; else it is an error.
    """

    path: Path | None
    anew: bool = False
    _opened: list[Path] = field(default_factory=list)  # not journals, which hold their models

    def open(
        self, describe: Callable[[], Mapping[str, Any]], loaded: LoadedModel, part: str = ""
    ) -> Journal:
        """A journal of the work that `describe` describes, by this code.

        It keeps nothing where nothing is written, and on all processes but the main one: only that
        one hashes the model.
        """
        if self.path is None or not current_processes().is_main:
            return KEEP_NOTHING
        file = self._locate(self.path, part)
        settings = {**describe(), "code": hash_program()}
        journal = Journal(file, settings, loaded.check_unchanged)
        if self.anew:
            with explain_os_errors(file), create_parents(file), claim(file):  # nobody writes it
                if not journal.continues:
                    other = "earlier progress was of other inputs, options, or code"
                    say(f"{self.path}: {other}: begun anew")
                    journal.remove()
        self._opened.append(file)
        return journal

    def recall(self, setting: str, part: str = "") -> Any:
        """What an earlier run of the work chose by the memory that was free; None without one.

        The work goes on with it, whatever memory is free now. Every process must call this.
        """
        if (path := self.path) is None:
            return None
        journal = Journal(self._locate(path, part))
        return current_processes().once(lambda: journal.earlier.get(setting))

    @staticmethod
    def _locate(path: Path, part: str) -> Path:
        return path.parent / f".{path.name}{part}.progress"

    @property
    def number(self) -> int:
        """How many were opened."""
        return len(self._opened)

    def remove(self) -> None:
        """Removes all, because the work is done."""
        for file in self._opened:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class ResultFolder:
    """Where a command writes its result; `path` None: nowhere.

    - `request`: what config.yaml repeats. `owned`: recognizes what an earlier run wrote.

    Raises `OutputError` for a folder that could not be written.
    """

    request: Request
    path: Path | None
    owned: Owned
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.path is not None:
            check_output(self.path, self.owned, overwrite=self.overwrite)

    @cached_property
    def journals(self) -> Journals:
        return Journals(self.path)

    def write(self, name: str, result: object, add: Callable[[Path], object]) -> None:
        """Writes `result` as the JSON file `name`, and what `add` puts beside it.

        The folder appears when it is complete. The journals then go.
        """
        if self.path is not None:
            with create_folder(
                self.path, self.owned, overwrite=self.overwrite, config=self.request.to_config()
            ) as partial:
                write_lines(partial / name, [json.dumps(result, indent=2)])
                add(partial)
        self.journals.remove()
