"""Options and renderings that commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_MODEL = "EleutherAI/pythia-1.4b"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Bytes, as a whole number with a unit: 500MB, 5GB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", str(value).strip(), re.ASCII)
        if match is None or match[2].upper() not in _UNITS or int(match[1]) == 0:
            self.fail(f"{value!r} is not a size; write for example 500MB or 5GB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


def json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else."
    )(command)


def revision_option(command: F) -> F:
    return click.option(
        "--revision", metavar="R", help="Branch, tag or commit of a Hub model (step143000)."
    )(command)


def overwrite_option(command: F) -> F:
    return click.option(
        "--overwrite",
        is_flag=True,
        help="Replace what an earlier run wrote there, at once, when the new one is complete.",
    )(command)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))  # ASCII, so that any terminal and pipe takes it


def shown(text: object) -> str:
    """Text as a terminal may have it: any character that is not printable becomes an escape.

    Names come from foreign files, and control characters in them could erase or forge lines.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def typed(line: object) -> str:
    """A line of an error, which names arguments of the Python API, with options in their place.

    `overwrite=True` → --overwrite, `layout=compact` → --layout compact, `output` → --output.
    """

    def option(match: re.Match[str]) -> str:
        name, value = "--" + match[1].replace("_", "-"), match[2]
        return name if value in (None, "True") else f"{name} {value}"

    return re.sub(r"`([a-z_]+)(?:=(\w+))?`", option, str(line))


def echo(line: object = "") -> None:
    """A line of results, on stdout."""
    click.echo(shown(line))


def note(line: object) -> None:
    """A line for people, on stderr: an error, a warning, what was decided for the user."""
    click.echo(shown(typed(line)), err=True)


def human_bytes(nbytes: int) -> str:
    """1,234,567 → "1.2 MB"."""
    size = float(nbytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
