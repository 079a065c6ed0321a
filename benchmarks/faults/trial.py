"""One fault in one run of a command, and everything that must hold afterwards.

Under the final name lies nothing, the old result, or the whole new one; an error has one line; and
the next run succeeds, gives the result of an undisturbed run, and leaves nothing else behind. A
step that was finished is not made again.
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

from benchmarks.faults.commands import Command
from benchmarks.faults.place import read_repository
from benchmarks.faults.running import Act, Ended, import_all, kill, run

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
    where these agree, and else (it holds times) in every word without a digit."""
    one, other = references
    changed = set()
    for name in one.keys() & found.keys():
        holds_times = one[name] != other.get(name)
        clean = _words if holds_times else bytes
        if clean(found[name]) != clean(one[name]):
            changed.add(name)
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
class Moment:
    """When a fault strikes: in this one of the command's lines, before a step or after seconds."""

    line: int
    step: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        when = f"step {self.step}" if self.seconds is None else f"{self.seconds:.2f} s"
        return f"{when} of line {self.line + 1}"


@dataclass(frozen=True)
class Outcome:
    """`after`: what lay under the final name: nothing, the old result, the new one, that of the
    changed source, or what the next run goes on with; `problems`: what must not be."""

    fault: str
    moment: Moment
    code: int
    after: str
    problems: tuple[str, ...]


class Trials:
    """A command with its undisturbed results: new, old (of another model), of a changed source."""

    def __init__(self, name: str, command: Command, ground: Ground) -> None:
        self.name, self.command, self.ground = name, command, ground
        self._old = ground.root / f"{name}-old"
        self._repos = itertools.count()
        self._pristine = {path.name for path in ground.pristine.iterdir()}
        self._results: dict[str, tuple[Files, Files]] = {}
        if command.over_old:
            *_, self._results["old"], _ = self._repeat("other")
            shutil.copytree(ground.place, self._old)
        *begun, self._results["new"], self._all = self._repeat("source")
        for number, result in enumerate(begun):
            if result[0]:
                self._results[f"begun{number}"] = result
        if command.source is not None:
            *_, changed, _ = self._repeat("source", reverse_half)
            if changed[0]:
                self._results["changed"] = changed
        elif command.output in self._pristine:
            self._renew()
            self._results["begun"] = (self._read() or {},) * 2

    def strike(self, fault: str, chance: random.Random) -> Outcome:
        """Runs the command once with a fault of `FAULTS`, and then undisturbed."""
        over_old = self.command.over_old and chance.random() < 0.5
        self._renew(self._old if over_old else self.ground.pristine)
        more, moment = "--overwrite" if over_old else "", self._draw_moment(chance, fault)
        if fault == "kill":
            ended = self._run(more, moment=moment)
        elif fault == "source":
            ended = self._run(more, moment=moment, act=lambda pid: reverse_half(self._source))
        else:  # room for a part of the largest file
            largest = max(map(len, self._results["new"][0].values()))
            most = 4096 + int(chance.random() * largest)
            limit = (resource.RLIMIT_FSIZE, (most, most))
            ended = self._run(more, prepare=lambda: resource.setrlimit(*limit))
        after = self._name_state()
        problems = self._check(fault, ended, after, over_old)
        if self.command.source is not None:
            shutil.copy2(self.ground.pristine / self.command.source, self._source)  # with its time
        done = len(ended) - (ended[-1].code != 0)
        problems += self._check_next(after, over_old, done)
        return Outcome(fault, moment, ended[-1].code, (after or "?").rstrip("0123456789"), problems)

    @property
    def _source(self) -> Path:
        assert self.command.source is not None
        return self.ground.place / self.command.source

    def _draw_moment(self, chance: random.Random, fault: str) -> Moment:
        """Half of the kills come at a random time, since steps are few while a model trains."""
        by_time = fault == "kill" and chance.random() < 0.5
        sizes = self._seconds if by_time else self._steps
        line, at = 0, chance.random() * sum(sizes)
        while at >= sizes[line]:
            at -= sizes[line]
            line += 1
        return Moment(line, seconds=at) if by_time else Moment(line, step=int(at))

    def _check(
        self, fault: str, ended: list[Ended], after: str | None, over_old: bool
    ) -> tuple[str, ...]:
        problems, last = [], ended[-1]
        one_line = (last.stderr.splitlines() or [""])[-1].startswith("error: ")  # after its notes
        killed = fault == "kill" and last.struck
        if not killed and last.code != 0 and not (last.code == 1 and one_line):
            problems.append(f"ended with {last.code}: {last.stderr[-2000:]!r}")
        if after is None or (after == "nothing" and over_old):
            different = find_differences(self._read() or {}, self._results["new"])
            problems.append(f"under the final name is neither old nor new: {different}")
        if after == "changed" and fault != "source":
            problems.append("the result is that of another source")
        if last.code == 0 and after == "old":
            problems.append("the run says that it is done, and nothing new is there")
        return (*problems, *(self._check_whole() if fault != "source" else ()))

    def _check_next(self, after: str | None, over_old: bool, done: int) -> tuple[str, ...]:
        """`done`: how many lines had ended."""
        replaces = self.command.output is not None and after not in ("nothing", "begun")
        if self.command.is_of_steps:  # one that is finished stays
            replaces = over_old or after == "changed"
        made = self._list_weights()
        ended = self._run("--overwrite" if replaces else "")
        if ended[-1].code != 0:
            return (f"the next run ended with {ended[-1].code}: {ended[-1].stderr[-2000:]!r}",)
        problems = [*self._check_whole()]
        if self._name_state() != "new":
            different = find_differences(self._read() or {}, self._results["new"])
            problems.append(f"the next run gave another result: {different}")
        if different := find_differences(self._read_all(), self._all):
            problems.append(f"the next run left other files: {different}")
        if not replaces and self.command.is_of_steps:
            held = sum("already holds this result" in one.stderr for one in ended)
            if held < done:
                problems.append(f"{done} steps were finished, and {done - held} were made again")
        if not replaces and (again := made - self._list_weights()):
            problems.append(f"the next run wrote again: {sorted(name for name, *_ in again)}")
        return tuple(problems)

    def _check_whole(self) -> tuple[str, ...]:
        """Whether every folder that is there, and that holds a model of ours, verifies."""
        folders = {*self._list_new(), *([self.command.also] if self.command.also else [])}
        if self.command.output is not None:
            folders.add(self.command.output)
        there = [one for one in folders if (self.ground.place / one / "surgery.json").exists()]
        return tuple(f"{one} does not verify" for one in sorted(there) if not self._verify(one))

    def _verify(self, folder: str) -> bool:
        return run(f"verify {folder}", self.ground.place, logs=self.ground.logs).code == 0

    def _list_new(self) -> set[str]:
        """Names in the place that a run made, but for hidden ones."""
        names = {path.name for path in self.ground.place.iterdir()}
        return {name for name in names - self._pristine if not name.startswith(".")}

    def _list_weights(self) -> set[tuple[str, int, int]]:
        """Each file of weights that runs made: its name, its number on the disk, and its time.

        A folder that gets another name keeps them.
        """
        found = set()
        for folder in self._list_new():
            for file in (self.ground.place / folder).glob("*.safetensors"):
                state = file.stat()
                found.add((file.name, state.st_ino, state.st_mtime_ns))
        return found

    def _name_state(self) -> str | None:
        """What lies under the final name; None: something that is no whole result."""
        found = self._read()
        if found is None:
            return "nothing"
        whole = (name for name, both in self._results.items() if not find_differences(found, both))
        return next(whole, None)

    def _read(self) -> Files | None:
        if self.command.output is None:
            return read_repository(self.ground.url, self._repo)
        return files_at(self.ground.place / self.command.output)

    def _read_all(self) -> Files:
        """Everything in the place that was not there before."""
        place = self.ground.place
        new = [path for path in sorted(place.iterdir()) if path.name not in self._pristine]
        found = {path.name: files_at(path) or {} for path in new}
        return {
            _TIME.sub("TIME", f"{name}/{file}"): content
            for name, files in found.items()
            for file, content in files.items()
        }

    def _renew(self, folder: Path | None = None) -> None:
        shutil.rmtree(self.ground.place, ignore_errors=True)
        shutil.copytree(folder or self.ground.pristine, self.ground.place)
        self._repo = f"me/{self.name}-{next(self._repos)}"

    def _run(
        self,
        more: str = "",
        model: str = "source",
        moment: Moment | None = None,
        prepare: Callable[[], object] = lambda: None,
        act: Act = kill,
        see: Callable[[int], object] = lambda line: None,
    ) -> list[Ended]:
        """Runs the lines until one fails. `see` is called after each that ended well."""
        ended = list[Ended]()
        for number, line in enumerate(self.command.lines):
            struck = moment is not None and moment.line == number
            when = {"step": moment.step, "seconds": moment.seconds} if moment and struck else {}
            words = f"{line.format(model=model, repo=self._repo)} {more}"
            place, logs = self.ground.place, self.ground.logs
            ended.append(run(words, place, logs=logs, prepare=prepare, act=act, **when))
            if ended[-1].code != 0:
                break
            see(number)
        return ended

    def _repeat(
        self, model: str, change: Callable[[Path], None] | None = None
    ) -> list[tuple[Files, Files]]:
        """What two runs give after each line, and everything in the place in the end, after a run
        that fills the caches. `change` may make them fail."""
        results = []
        for _ in range(3):
            self._renew()
            if change is not None:
                change(self._source)
            found: list[Files] = [{}] * len(self.command.lines)

            def see(number: int, found: list[Files] = found) -> None:
                found[number] = self._read() or {}

            ended = self._run(model=model, see=see)
            if change is None:
                if ended[-1].code != 0:
                    raise RuntimeError(
                        f"{self.name} ended with {ended[-1].code}: {ended[-1].stderr}"
                    )
                import_all(name for one in ended for name in one.modules)
                self._steps = [one.steps for one in ended]
                self._seconds = [one.seconds for one in ended]
            results.append([*found, self._read_all()])
        return list(zip(results[1], results[2], strict=True))
