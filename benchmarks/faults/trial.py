"""One fault in one run of a command, and everything that must hold afterwards.

Under the final name lies nothing, the old result, or the whole new one; an error has one line; and
the next run succeeds, gives the result of an undisturbed run, and leaves nothing else behind.
"""

from __future__ import annotations

import itertools
import random
import re
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.commands import Command
from benchmarks.faults.place import read_repository
from benchmarks.faults.running import Ended, import_all, run

Files = Mapping[str, bytes]
"""Name, without the time in it, → content, or what stands for it; a single file is called `.`."""
FAULTS = {"kill": "killed", "full": "disk full", "source": "source changed"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d.-]*\d")


def files_at(path: Path) -> Files | None:
    """Everything below a folder, or a file; None where nothing is."""
    if not path.exists():
        return None
    found = [path] if path.is_file() else filter(Path.is_file, sorted(path.rglob("*")))
    return {_TIME.sub("TIME", str(file.relative_to(path))): file.read_bytes() for file in found}


def find_differences(found: Files, references: tuple[Files, Files]) -> list[str]:
    """Files that are missing, too many, or not as two undisturbed runs left them: byte for byte
    where these agree, and else (they hold times) in every word without a digit."""
    one, other = references
    clean = (lambda content: content) if one == other else _words
    changed = {name for name in one.keys() & found.keys() if clean(found[name]) != clean(one[name])}
    return sorted((one.keys() ^ found.keys()) | changed)


def _words(content: bytes) -> list[bytes]:
    return [word for word in re.split(rb"[\s,]+", content) if not re.search(rb"\d", word)]


def reverse_half(path: Path) -> None:
    """Gives a file other content of the same size."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + content[half:][::-1])


@dataclass(frozen=True)
class Ground:
    """Where trials take place: `place` is made anew from `pristine` for each; runs print to `logs`;
    `url` is the Hub's address."""

    root: Path
    url: str

    @property
    def place(self) -> Path:
        return self.root / "place"

    @property
    def pristine(self) -> Path:
        return self.root / "pristine"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True)
class Outcome:
    """`after`: what lay under the final name: nothing, the old result, the new one, that of the
    changed source, or what the next run goes on with; `problems`: what must not be."""

    fault: str
    step: int
    code: int
    after: str
    problems: tuple[str, ...]


class Trials:
    """A command with its undisturbed results: new, old (of another model), of a changed source."""

    def __init__(self, name: str, command: Command, ground: Ground) -> None:
        self.name, self.command, self.ground = name, command, ground
        self._source = ground.place / command.source
        self._old = ground.root / f"{name}-old"
        self._repos = itertools.count()
        self._renew()
        self._results = {"old": self._repeat("other")}
        shutil.copytree(ground.place, self._old)
        self._results["new"] = self._repeat("source")
        self._names = {path.name for path in ground.place.iterdir()}
        changed = self._repeat("source", reverse_half)
        if changed[0]:
            self._results["changed"] = changed

    def strike(self, fault: str, chance: random.Random) -> Outcome:
        """Runs the command once with a fault of `FAULTS`, and then undisturbed."""
        over_old = self.command.output is not None and chance.random() < 0.5
        self._renew(self._old if over_old else self.ground.pristine)
        line, step = "--overwrite" if over_old else "", chance.randrange(self._steps)
        if fault == "kill":
            ended = self._run(line, step=step)
        elif fault == "source":
            ended = self._run(line, step=step, act=lambda pid: reverse_half(self._source))
        else:  # room for a part of the largest file
            largest = max(map(len, self._results["new"][0].values()))
            most = 4096 + int(chance.random() * largest)
            limit = (resource.RLIMIT_FSIZE, (most, most))
            ended = self._run(line, prepare=lambda: resource.setrlimit(*limit))
        after = self._name_state()
        problems = self._check(fault, ended, after, over_old)
        shutil.copy2(self.ground.pristine / self.command.source, self._source)  # with its time
        problems += self._check_next(after)
        return Outcome(fault, step, ended.code, after or "?", tuple(problems))

    def _check(self, fault: str, ended: Ended, after: str | None, over_old: bool) -> list[str]:
        problems = []
        one_line = (ended.stderr.splitlines() or [""])[-1].startswith("error: ")  # after its notes
        killed = fault == "kill" and ended.struck
        if not killed and ended.code != 0 and not (ended.code == 1 and one_line):
            problems.append(f"ended with {ended.code}: {ended.stderr[-2000:]!r}")
        if after is None or (after == "nothing" and over_old):
            different = find_differences(self._read() or {}, self._results["new"])
            problems.append(f"under the final name is neither old nor new: {different}")
        if after == "changed" and fault != "source":
            problems.append("the result is that of another source")
        if ended.code == 0 and after == "old":
            problems.append("the run says that it is done, and nothing new is there")
        return problems + (self._check_also() if fault != "source" else [])

    def _check_next(self, after: str | None) -> list[str]:
        replaces = self.command.output is not None and after not in ("nothing", "begun")
        ended = self._run("--overwrite" if replaces else "")
        if ended.code != 0:
            return [f"the next run ended with {ended.code}: {ended.stderr[-2000:]!r}"]
        problems = self._check_also()
        if self._name_state() != "new":
            different = find_differences(self._read() or {}, self._results["new"])
            problems.append(f"the next run gave another result: {different}")
        left = {path.name for path in self.ground.place.iterdir()} - self._names
        return problems + ([f"the next run left {sorted(left)}"] if left else [])

    def _check_also(self) -> list[str]:
        also = self.command.also
        ended = self._verify(also) if also else True
        return [] if ended else [f"{also} no longer verifies"]

    def _verify(self, folder: str | None) -> bool:
        return run(f"verify {folder}", self.ground.place, logs=self.ground.logs).code == 0

    def _name_state(self) -> str | None:
        """What lies under the final name; None: something that is no whole result."""
        found = self._read()
        if found is None:
            return "nothing"
        if self.command.last is not None and self.command.last not in found:
            return "begun" if self._verify(self.command.output) else None
        whole = (name for name, both in self._results.items() if not find_differences(found, both))
        return next(whole, None)

    def _read(self) -> Files | None:
        if self.command.output is None:
            return read_repository(self.ground.url, self._repo)
        return files_at(self.ground.place / self.command.output)

    def _renew(self, folder: Path | None = None) -> None:
        shutil.rmtree(self.ground.place, ignore_errors=True)
        shutil.copytree(folder or self.ground.pristine, self.ground.place)
        self._repo = f"me/{self.name}-{next(self._repos)}"

    def _run(self, more: str = "", model: str = "source", **options: Any) -> Ended:
        line = f"{self.command.line.format(model=model, repo=self._repo)} {more}"
        return run(line, self.ground.place, logs=self.ground.logs, **options)

    def _repeat(
        self, model: str, change: Callable[[Path], None] | None = None
    ) -> tuple[Files, Files]:
        """What two runs give, after one that fills the caches. `change` may make them fail."""
        results = []
        for _ in range(3):
            self._renew()
            if change is not None:
                change(self._source)
            ended = self._run(model=model)
            if change is None:
                if ended.code != 0:
                    raise RuntimeError(f"{self.name} ended with {ended.code}: {ended.stderr}")
                import_all(ended.modules)
                self._steps = ended.steps
            results.append(self._read() or {})
        return results[1], results[2]
