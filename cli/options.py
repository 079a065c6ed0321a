"""Options of the command line alone, one function for each kind, and the types of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from cli.terminal import end_first, name_options, note
from surgery.errors import suggest
from surgery.privacy import expand_home

Decorator = Callable[[Any], Any]


class Number(click.FloatRange):
    """A finite number within bounds. Every comparison lets NaN pass, so it is refused by name."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number{_suggest_number(value)}", param, ctx)
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return float(number)


def _suggest_number(text: str) -> str:
    """What to write for a percentage."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", text, re.ASCII)
    return f"; write {float(match[1]) / 100:.12g}" if match else ""


class OneOf(click.Choice):  # type: ignore[type-arg]  # generic only in the newest click
    """One of some names. For any other it says which is closest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = suggest(value, self.choices)
            self.fail(f"{error.message.rstrip('.')}; {near}" if near else error.message, param, ctx)


class GroupedOption(click.Option):
    """An option that belongs to a section of the help. Its text may name others in backquotes.

    `old`: earlier names. They are taken, and shown nowhere.
    """

    def __init__(
        self, *args: Any, group: str = "run", old: Collection[str] = (), **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.group, self.old = group, [f"--{name}" for name in old]

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        named = self.opts
        self.opts = [*named, *self.old]
        super().add_to_parser(parser, ctx)
        self.opts = named

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0], name_options(record[1], ctx))


def end_with(state: str | None, *, allow_undecided: bool) -> None:
    """Ends a command with the exit code of its verdict: 3 for a missed limit, and 4 for one that is
    not decided, unless that is allowed."""
    if state == "missed":
        end_first(click.exceptions.Exit(3))
    if state == "undecided" and not allow_undecided:
        note("not decided, so the exit code is 4; --allow-undecided makes it 0")
        end_first(click.exceptions.Exit(4))


COMMAS = "A,B"
"""How --help shows an option whose text holds several values. A file may list them."""


class _Place(click.Path):
    """A path, in which `~` is your home: a shell leaves it in `--output=~/OUT`, and so does a file
    of options. `.` and `..` become names, which stay when another folder takes their place."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value) or (isinstance(value, Path) and not value.parts):
            self.fail("names no file or folder", param, ctx)
        found: Any = super().convert(expand_home(value), param, ctx)
        return found.resolve() if found.name in ("", "..") else found


PATH = _Place(path_type=Path)
FILE = _Place(dir_okay=False, path_type=Path)
FOLDER = _Place(file_okay=False, path_type=Path)
EXISTING_FILE = _Place(dir_okay=False, exists=True, path_type=Path)


def flag(name: str, text: str, *names: str, **more: Any) -> Decorator:
    return click.option(name, *names, cls=GroupedOption, is_flag=True, help=text, **more)


def option(
    name: str, metavar: str | None, text: str, kind: Any = None, *names: str, **more: Any
) -> Decorator:
    """An option that takes a value, by default any text."""
    more |= {"cls": GroupedOption, "type": kind, "metavar": metavar, "help": text}
    return click.option(name, *names, **more)


def one_model(command: Any) -> Any:
    """MODEL, as the only one of the `models` of a request."""
    given = click.argument("models", metavar="MODEL", callback=lambda ctx, param, value: (value,))
    return given(command)


def several(name: str, text: str, default: str = "", metavar: str = "FILE") -> Decorator:
    """An option that may be given several times. `default`: what is taken without it."""
    text += " Repeatable." + (f"  [default: {default}]" if default else "")
    return option(name, metavar, text, multiple=True)


def choice(
    name: str, values: Collection[str], text: str, default: str | None = None, *names: str
) -> Decorator:
    shown = {"default": default, "show_default": default is not None}
    return option(name, None, text, OneOf(list(values)), *names, **shown)


def collect_limits(example: str, most: float) -> Callable[..., dict[str, float]]:
    """A callback that makes {name: limit} of limits by name, such as TASK=X, from 0 to `most`."""

    def parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
        found: dict[str, float] = {}
        for value in values:
            name, _, number = value.rpartition("=")
            name = name.strip()
            if not name:
                form = f"{param.metavar}; write for example {example!r}"
                raise click.BadParameter(f"{value!r} is not {form}")
            if name in found:
                raise click.BadParameter(f"{name!r} has more than one limit")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = math.nan
            if not (0 <= found[name] <= most and math.isfinite(found[name])):
                allowed = f"from 0 to {most:g}" if math.isfinite(most) else "from 0 on"
                what = f"{number!r} in {value!r} is not a number {allowed}"
                raise click.BadParameter(what + _suggest_number(number))
        return found

    return parse


def output(text: str, kind: click.Path = PATH, metavar: str = "DIR", **more: Any) -> Decorator:
    return option("--output", metavar, text, kind, group="output", **more)


rows = option(
    "--rows",
    "FILE",
    "Also write one JSON line for each passage to this file: its scores, or, of an audit, which "
    "attack recovers it.",
    FILE,
    group="output",
)
json = flag(
    "--json",
    "Print one JSON object on stdout, and nothing else. An error is one, too.",
    "as_json",
    group="output",
)
revision = option("--revision", "R", "Branch, tag, or commit of a Hub model, such as step143000.")
overwrite = flag(
    "--overwrite",
    "Replace the output of an earlier run. The old output stays until the new one is complete.",
    group="output",
)
allow_undecided = flag(
    "--allow-undecided",
    "Exit with 0, not 4, if no limit is missed and one is not decided.",
    group="limits",
)
