"""What people read: results on stdout, notes and progress on stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from cli.escaping import escape_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from surgery.hub.resolved import ResolvedModel

has_printed_json = ContextVar("has_printed_json", default=False)
"""Whether the one object of --json is out: an error after it is told on stderr alone."""


def print_json(value: object) -> None:
    has_printed_json.set(True)
    text = json.dumps(value, indent=2)  # ASCII, so that any terminal and pipe takes it
    click.echo(text.replace("\x7f", "\\u007f"))


def echo(line: object = "") -> None:
    """Prints a line of results on stdout."""
    click.echo(escape_text(line))


stopped: list[click.Context | None] = []
"""The commands that a signal has stopped, unless they went on."""


def note_unmeasured(output: object, source: ResolvedModel, samples: str | None = None) -> None:
    """Says how to measure a new result, `output`, of `source`, against the model before all
    steps. `samples`: what was given to make it; a lab model's own otherwise."""
    from surgery.hub.finding import name_first

    first = name_first(source)
    own = first.startswith("lab:")
    given = "" if own and samples in (None, first) else " --samples SAMPLES"
    given += "" if own else " --heldout TEXT"
    named = shlex.join(["evaluate", str(output), "--baseline", first, "--attack", "default"])
    note(
        "Nothing measured yet. To see what it still recites and what it lost, run: "
        f"attn-surgery {named}{given}"
    )


def note(line: object, *, anywhere: bool = False, stream: TextIO | None = None) -> None:
    """Prints a line for people on stderr, or where that led before: on `stream`. It is a warning,
    or what was decided for the user.

    Only the first process of a launch prints, unless `anywhere`: any may have an error.
    """
    if anywhere or is_first_process():
        click.echo(escape_text(name_options(line)), file=stream, err=True)


def take_over_warnings() -> None:
    """Makes warnings of libraries notes, each in one line."""

    def show_warning(message: object, category: type[Warning], *_: object, **__: object) -> None:
        note(f"{category.__name__}: {message}")

    warnings.showwarning = show_warning


def name_options(line: object, ctx: click.Context | None = None) -> str:
    """A line that names arguments of the Python API, with options of the command line instead.

    `overwrite=True` → --overwrite, `layout=compact` → --layout compact, `output` → --output, and of
    another command: `export(layout=compact)` → `export --layout compact`. What is no option stays.
    `ctx`: the command, by default the one that runs.
    """
    ctx = ctx or click.get_current_context(silent=True)
    if ctx is None:
        return str(line)
    group = ctx.find_root().command

    def name_option(match: re.Match[str]) -> str:
        other, name, value = match.groups()
        command: click.Command | None = ctx.command
        if other is not None:
            command = group.get_command(ctx, other) if isinstance(group, click.Group) else None
        option = None if command is None else _find_option(command, name)
        if option is None:
            return match[0]
        text = option if value in (None, "True") else f"{option} {value}"
        if value is not None and option.endswith(" of --config"):
            text = f"--config '{{{option.partition(' ')[0]}: {value.lower()}}}'"
        return f"`{other} {text}`" if other else text

    return re.sub(r"`(?:([a-z-]+)\()?([a-z_]+)(?:=([\w.+:=@-]+))?\)?`", name_option, str(line))


def _find_option(command: click.Command, name: str) -> str | None:
    """What you type for the argument of that name; None if the command has none."""
    for param in command.params:
        names = {str(param.name), *(opt.lstrip("-").replace("-", "_") for opt in param.opts)}
        if name in names:
            return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
    if name in getattr(command, "in_file", {}):
        return f"{name.replace('_', '-')} of --config"
    return None


def is_first_process() -> bool:
    """Whether this process is the one of its launch that talks to people."""
    return os.environ.get("RANK", "0") == "0"


def end_first(how: Exception) -> None:
    """Ends the first process of a launch so, by an exit code or an error that is the result of all.
    The others end well: a launcher would stop the first while it prints."""
    if is_first_process():
        raise how


@contextmanager
def let_first_print() -> Iterator[None]:
    """Inside, stdout of other processes than the first leads nowhere: all have the same result."""
    with ExitStack() as stack:
        if not is_first_process():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
        yield


@contextmanager
def show_progress(
    description: str, total: int | None, *, interval: float = 60
) -> Iterator[Callable[[int], None]]:
    """Shows a bar over bytes, rows, or tokens; where stderr is no terminal, a line each minute.

    Yields a function that takes how much has just been done. `interval`: seconds between lines.
    """
    if not is_first_process():
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        with _note_progress(description, total, interval) as advance:
            yield advance
        return
    from rich.markup import escape

    shared = _share()
    with ExitStack() as ends:
        if (bars := shared.get("bars")) is None:
            bars = shared["bars"] = ends.enter_context(_make_bars())
            ends.callback(shared.pop, "bars")
        task = bars.add_task(escape(escape_text(description)), total=total)
        ends.callback(bars.remove_task, task)
        yield lambda done: bars.update(task, advance=done)


def _make_bars() -> Progress:
    """Where all bars of a command are, one below the other."""
    from rich.progress import Progress, Task, TaskProgressColumn
    from rich.text import Text

    from cli.console import make_console

    class Done(TaskProgressColumn):
        def render(self, task: Task) -> Text:
            if task.total is None:  # how much there is only shows at the end
                return Text(f"{task.completed:,.0f}")
            return super().render(task)

    text, bar, _, left = Progress.get_default_columns()
    return Progress(text, bar, Done(), left, console=make_console(stderr=True), transient=True)


def _share() -> dict[str, Any]:
    """What the bars of a command have in common."""
    ctx = click.get_current_context(silent=True)
    shared: dict[str, Any] = {} if ctx is None else ctx.meta.setdefault(__name__, {})
    return shared


@contextmanager
def _note_progress(
    description: str, total: int | None, interval: float
) -> Iterator[Callable[[int], None]]:
    """Prints a line once in an interval, however many bars the command has: that of the last one
    to move. A thread does, since one step may take longer than an interval.
    """
    shared, began, done, over = _share(), time.monotonic(), 0, threading.Event()
    shared.setdefault("due", began + interval)
    stream = sys.stderr  # which work turns away to silence a library

    def advance(number: int) -> None:
        nonlocal done
        done += number
        shared["moving"] = advance

    def report() -> None:
        pause = 0.0  # so that bars shorter than any pause are seen, too
        while not over.wait(pause):
            now = time.monotonic()
            if now >= shared["due"] and shared["moving"] is advance:
                shared["due"] = now + interval
                with suppress(OSError):  # whoever reads our notes has seen enough
                    line = f"{description}: {_describe_progress(done, total, now - began)}"
                    note(line, stream=stream)
            pause = max(shared["due"] - now, interval / 10)

    before, shared["moving"] = shared.get("moving"), advance
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        over.set()
        thread.join()
        shared["moving"] = before


_FEWEST = 10
"""Steps after which the time that is left is estimated. Fewer, such as attacks, differ too much."""


def _describe_progress(done: int, total: int | None, seconds: float) -> str:
    passed = timedelta(seconds=round(seconds))
    if total is None:
        return f"{done:,} after {passed}" if done else f"{passed} so far"
    if done < _FEWEST:
        return f"{done:,} of {total:,} after {passed}"
    left = timedelta(seconds=round(seconds * max(total - done, 0) / done))
    return f"{done:,} of {total:,}, about {left} left"
