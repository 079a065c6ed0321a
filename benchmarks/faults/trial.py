"""One fault in one run of a command, and everything that must hold afterwards.

No half result under a final name, no old result lost, one line for an error, and the next run
succeeds, gives the result of a run that nothing disturbed, and leaves nothing else behind.
"""

from __future__ import annotations

import itertools
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.checking import Files, Reference, files_at
from benchmarks.faults.commands import Command
from benchmarks.faults.hub import files_of
from benchmarks.faults.running import Act, Moment, Ran, import_all, kill, run, without_overrides

ROOM = 64 << 20  # bytes of the small file system while nothing is to fail


@dataclass(frozen=True)
class Ground:
    """Where trials take place: `root/place`, made anew from `pristine` for each; the Hub's address;
    where runs print; whether `root` is a file system of its own, which can be made small."""

    root: Path
    pristine: Path
    url: str
    logs: Path
    mounted: bool

    @property
    def place(self) -> Path:
        return self.root / "place"

    def resize(self, nbytes: int) -> None:
        options = f"remount,size={nbytes}"
        subprocess.run(["mount", "-o", options, str(self.root)], check=True)


@dataclass(frozen=True)
class Outcome:
    """`after`: what lay under the final name: nothing, the old result, the new one, that of the
    changed source, or what the next run goes on with; `problems`: what must not be."""

    fault: str
    moment: str
    struck: bool
    code: int
    after: str
    problems: tuple[str, ...]


class Struck:
    """A command with its references: what it gives, from nothing and over an old result."""

    def __init__(self, name: str, command: Command, ground: Ground) -> None:
        self.name, self._command, self._ground = name, command, ground
        self._repos = itertools.count()
        self._repo = ""
        self.may_replace = command.output is not None
        self._old: Path | None = None
        self._fresh()
        import_all(self._undisturbed(self._line("source")).modules)
        old = self._reference("other")
        if self.may_replace:
            self._old = ground.pristine.with_name(f"{name}-old")
            shutil.copytree(ground.place, self._old)
        new = self._reference("source")
        self._references = {"old": old, "new": new}
        self._names = self._listed()
        self._also = (command.also and files_at(ground.place / command.also)) or {}
        changed = self._reference("source", self._change)
        if changed.one:
            self._references["changed"] = changed

    def strike(self, fault: str, chance: random.Random) -> Outcome:
        """A trial. `fault`: kill, full, permissions or source."""
        over_old = self.may_replace and chance.random() < 0.5
        self._fresh(old=over_old)
        line = self._line("source") + (" --overwrite" if over_old else "")
        moment = (
            Moment(seconds=chance.uniform(0, self.seconds))
            if chance.random() < 0.5
            else Moment(step=chance.randrange(self.steps))
        )
        problems: list[str] = []
        with_fault: dict[str, Callable[[], Ran]] = {
            "kill": lambda: self._run(line, moment, kill),
            "full": lambda: self._full(line, chance),
            "permissions": lambda: self._permissions(line, moment),
            "source": lambda: self._run(
                line, moment, lambda pid: self._change(in_place=chance.random() < 0.5)
            ),
        }
        ran = with_fault[fault]()
        killed = fault == "kill" and ran.struck
        one_line = (ran.stderr.splitlines() or [""])[-1].startswith("error: ")  # after its notes
        if not killed and ran.code != 0 and not (ran.code == 1 and one_line):
            problems.append(f"ended with {ran.code}: {ran.stderr[-2000:]!r}")
        after = self._state()
        if after is None or (after == "nothing" and over_old):
            different = self._references["new"].different(self._found() or {})
            problems.append(f"under the final name is neither old nor new: {different}")
        if after == "changed" and fault != "source":
            problems.append("the result is that of another source")
        if ran.code == 0 and after == "old":
            problems.append("the run says that it is done, and nothing new is there")
        if fault != "source":
            problems += self._also_broken()
        self._restore_source()
        problems += self._next(after)
        return Outcome(fault, str(moment), ran.struck, ran.code, after or "?", tuple(problems))

    def _full(self, line: str, chance: random.Random) -> Ran:
        """With room for a part of the result: on a file system that is full, or in files that may
        not be larger."""
        sizes = [len(content) for content in self._references["new"].one.values()]
        if not self._ground.mounted:
            limit = 4096 + int(chance.random() * max(sizes))
            return self._run(
                line, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            )
        used = shutil.disk_usage(self._ground.root).used
        self._ground.resize(used + 4096 + int(chance.random() * sum(sizes)))
        try:
            return self._run(line)
        finally:
            self._ground.resize(ROOM)

    def _permissions(self, line: str, moment: Moment) -> Ran:
        """Nothing can be created, renamed or removed in the place from the moment on."""
        place = self._ground.place
        try:
            return self._run(line, moment, lambda pid: place.chmod(0o555), without_overrides)
        finally:
            place.chmod(0o755)

    def _change(self, *, in_place: bool = True) -> None:
        """A file that is read gets other content of the same size, or another file its name."""
        path = self._ground.place / self._command.source
        content = bytearray(path.read_bytes())
        half = len(content) // 2
        content[half:] = reversed(content[half:])
        if in_place:
            with path.open("r+b") as file:
                file.write(content)
        else:
            other = path.with_name("changed")
            other.write_bytes(content)
            other.replace(path)

    def _run(
        self,
        line: str,
        moment: Moment | None = None,
        act: Act = kill,
        prepare: Callable[[], None] = lambda: None,
    ) -> Ran:
        place, logs = self._ground.place, self._ground.logs
        return run(line, place, moment=moment, act=act, logs=logs, prepare=prepare)

    def _next(self, after: str | None) -> list[str]:
        line = self._line("source")
        if self._command.output is not None and after not in ("nothing", "begun"):
            line += " --overwrite"
        ran = self._run(line)
        if ran.code != 0:
            return [f"the next run ended with {ran.code}: {ran.stderr[-2000:]!r}"]
        problems = []
        if self._state() != "new":
            different = self._references["new"].different(self._found() or {})
            problems.append(f"the next run gave another result: {different}")
        left = self._listed() - self._names
        if left:
            problems.append(f"the next run left {sorted(left)}")
        return problems + self._also_broken(whole=True)

    def _listed(self) -> set[str]:
        return {path.name for path in self._ground.place.iterdir()}

    def _state(self) -> str | None:
        """Of what lies under the final name; None: something that is no whole result."""
        found = self._found()
        if found is None:
            return "nothing"
        if self._command.last is not None and self._command.last not in found:
            whole = self._run(f"verify {self._command.output}").code == 0
            return "begun" if whole else None
        met = (name for name, whole in self._references.items() if not whole.different(found))
        return next(met, None)

    def _found(self) -> Files | None:
        if self._command.output is not None:
            return files_at(self._ground.place / self._command.output)
        files = files_of(self._ground.url, self._repo)
        return files and {name: oid.encode() for name, oid in files.items()}

    def _also_broken(self, *, whole: bool = False) -> list[str]:
        if self._command.also is None:
            return []
        ran = self._run(f"verify {self._command.also}")
        problems = [] if ran.code == 0 else [f"{self._command.also} no longer verifies"]
        names = (files_at(self._ground.place / self._command.also) or {}).keys()
        if whole and names != self._also.keys():
            problems.append(f"{self._command.also} differs in {sorted(names ^ self._also.keys())}")
        return problems

    def _restore_source(self) -> None:
        path = Path(self._command.source)
        shutil.copyfile(self._ground.pristine / path, self._ground.place / path)

    def _fresh(self, *, old: bool = False) -> None:
        shutil.rmtree(self._ground.place, ignore_errors=True)
        shutil.copytree(
            self._old if old and self._old else self._ground.pristine, self._ground.place
        )
        self._repo = f"me/{self.name}-{next(self._repos)}"

    def _line(self, model: str) -> str:
        return self._command.line.format(model=model, repo=self._repo)

    def _reference(self, model: str, change: Callable[[], None] | None = None) -> Reference:
        """What two runs give, after one that fills the cache. `change` comes before each, and may
        make them impossible."""
        results = []
        for _ in range(3):
            self._fresh()
            if change is None:
                ran = self._undisturbed(self._line(model))
                self.seconds, self.steps = ran.seconds, ran.steps
            else:
                change()
                self._run(self._line(model))
            found = self._found()
            assert found or change, f"{self.name} wrote nothing"
            results.append(found or {})
        return Reference(*results[1:])

    def _undisturbed(self, line: str) -> Ran:
        ran = self._run(line)
        if ran.code != 0:
            raise RuntimeError(f"attn-surgery {line} ended with {ran.code}: {ran.stderr}")
        return ran
