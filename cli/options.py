"""Options and renderings that commands share."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from evals.running.request import Request

R = TypeVar("R", bound="Request")
F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = {
    "include_paths": "include_path",
    "save_as": "as",
}  # arguments whose option has another name
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Bytes, as a whole number with a unit: 500MB, 5GB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", str(value).strip(), re.ASCII)
        if match is None or match[2].upper() not in _UNITS or int(match[1]) == 0:
            self.fail(f"{value!r} is not a size; write for example 500MB or 5GB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


class Number(click.FloatRange):
    """A number within bounds, which NaN and infinity never are: every comparison lets NaN pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return float(number)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of `--help`."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def ask(kind: type[R], options: Mapping[str, Any], **more: Any) -> R:
    """The request that options fill. Raises `UsageError` for what it refuses."""
    from pydantic import ValidationError

    try:
        return kind.of(options, **more)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"`{name}`: " for name in first["loc"][:1])
        raise click.UsageError(where + first["msg"].removeprefix("Value error, ")) from None


def count_option(
    option: str, default: int | None, text: str, *, least: int | None = None
) -> Callable[[F], F]:
    """A whole number, from `least` on where the command does not say better what is wrong."""
    kind = int if least is None else click.IntRange(min=least)
    return click.option(
        option, type=kind, default=default, show_default=True, metavar="N", help=text
    )


PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def samples_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    return click.option("--samples", required=required, metavar="SAMPLES", help=text)


def control_option(text: str) -> Callable[[F], F]:
    return click.option(
        "--control", "controls", multiple=True, type=PATH, metavar="FILE", help=text
    )


def layout_option(text: str) -> Callable[[F], F]:
    layouts = click.Choice(["auto", "stock", "compact"])
    return click.option("--layout", type=layouts, default="auto", show_default=True, help=text)


def output_option(
    text: str, kind: click.Path = PATH, metavar: str = "DIR", **more: Any
) -> Callable[[F], F]:
    return click.option("--output", type=kind, metavar=metavar, help=text, **more)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else."
)
revision_option = click.option(
    "--revision", metavar="R", help="Branch, tag or commit of a Hub model (step143000)."
)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace what an earlier run wrote there, at once, when the new one is complete.",
)
length_options = together(
    count_option("--prefix-length", None, "Tokens given.  [default: 32, or a pair's own]"),
    count_option("--suffix-length", None, "Tokens asked for.  [default: likewise]"),
)
corpus_option = click.option(
    "--corpus",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Text the model was not trained on, to measure what an edit costs, as for collect; may "
    "be repeated.  [default: a lab model's own]",
)
calibration_option = click.option(
    "--calibration",
    multiple=True,
    metavar="FILE",
    help="Text that mean and linear are fitted on: files, folders, or hf:DATASET:SPLIT:COLUMN; may "
    "be repeated.  [default: a lab model's own]",
)


def _shares(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    found: dict[str, float] = {}
    for value in values:
        name, sign, number = value.rpartition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = -1.0
        if not sign or not 0 <= limit <= 1:
            raise click.BadParameter(f"{value!r} is not ATTACK=X; write for example 'hints:2=0.02'")
        if name in found:
            raise click.BadParameter(f"{name!r} has more than one limit")
        if name in ("cheap", "all", "membership"):
            raise click.BadParameter(f"{name!r} has no one rate that could be limited")
        found[name] = limit
    return found


attack_options = together(
    click.option(
        "--attack",
        "attacks",
        multiple=True,
        metavar="A",
        help="greedy, hints:K, prefix, sampling:N, span:M, any, near, perturbed, quantized:BITS, "
        "relearn, relearn-benign, membership; cheap: those that one pass decides; may be "
        "repeated.  [default: all]",
    ),
    click.option(
        "--max",
        "max_recovered",
        multiple=True,
        callback=_shares,
        metavar="A=X",
        help="Gate: attack A may recover at most the share X of the passages. A is run beside "
        "those of --attack, or beside all without it; may be repeated.",
    ),
)
"""--attack, --max."""
device_options = together(
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="auto: as stored; float16 is measured in float32 on a CPU.",
    ),
    click.option("--device", metavar="D", help="cpu, cuda, cuda:1, …  [default: a GPU if any]"),
)
running_options = together(
    device_options,
    click.option(
        "--device-map",
        type=click.Choice(["auto"]),
        help="auto: spread a model that is larger than one device over all of them.",
    ),
    count_option(
        "--batch-size",
        None,
        "Rows at a time.  [default: as many as memory allows and help]",
        least=1,
    ),
)
"""--dtype, --device, --device-map, --batch-size."""
measuring_options = together(revision_option, length_options, running_options)
"""--revision, --prefix-length, --suffix-length, and how the model is run."""


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))  # ASCII, so that any terminal and pipe takes it


def shown(text: object) -> str:
    """Text as a terminal may have it: any character that is not printable becomes an escape.

    Names come from foreign files, and control characters in them could erase or forge lines.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def typed(line: object) -> str:
    """A line of an error, which names arguments of the Python API, with options in their place.

    `overwrite=True` → --overwrite, `layout=compact` → --layout compact, `output` → --output,
    `include_paths` → --include-path, which takes one and may be given again.
    """

    def option(match: re.Match[str]) -> str:
        name, value = "--" + _OPTIONS.get(match[1], match[1]).replace("_", "-"), match[2]
        return name if value in (None, "True") else f"{name} {value}"

    return re.sub(r"`([a-z_]+)(?:=([\w.+-]+))?`", option, str(line))


def echo(line: object = "") -> None:
    """A line of results, on stdout."""
    click.echo(shown(line))


def speaks() -> bool:
    """Whether this process talks to people: of those of one launch, the first does."""
    return os.environ.get("RANK", "0") == "0"


def note(line: object, *, anywhere: bool = False) -> None:
    """A line for people, on stderr: a warning, what was decided for the user; once in a launch.

    `anywhere`: an error, which may be of any one process.
    """
    if anywhere or speaks():
        click.echo(shown(typed(line)), err=True)
