"""--config: a file of options by their names, and the file that repeats a command."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from cli.options import EXISTING_FILE

_ONE_RUN = {"config", "output", "overwrite", "json"}
_MANY = 5
"""A command with more options than this takes --config."""


def config_option(*names: str) -> Callable[[Any], Any]:
    """--config, and `names` as other names of it."""
    return click.option(
        "--config",
        *names,
        type=EXISTING_FILE,
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE",
        help="Take options by their names from a YAML or JSON file, such as the config.yaml (or "
        "recipe.yaml) in a result. Command-line options override the file.",
    )


def with_config(command: click.Command) -> click.Command:
    """Gives a command of many options --config, unless it has it."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    if len(options) > _MANY and not any("--config" in one.opts for one in options):
        config_option()(command)
    return command


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes what the file says the default of every option."""
    if path is None or ctx.resilient_parsing:  # a shell completes
        return
    from surgery.errors import SourceError
    from surgery.untrusted import guard, parse_yaml, read_bytes, read_json

    if path.suffix == ".json":
        given = read_json(path)
    else:
        with guard(SourceError, "is not a file of options", path):
            given = parse_yaml(read_bytes(path, SourceError).decode(errors="replace"))
    known = {_name(one): one for one in ctx.command.params}
    switched = {off.lstrip("-"): _name(one) for one in known.values() for off in one.secondary_opts}
    ctx.default_map = {}
    for key, value in given.items():
        name = key.lstrip("-")
        if name in switched:
            name, value = switched[name], not value
        if name in _ONE_RUN:
            raise click.BadParameter(f"{path}: {key!r} is not read from a file; type --{name}")
        if name not in known:
            near = "".join(f"; did you mean {one!r}?" for one in get_close_matches(name, known, 1))
            raise click.BadParameter(f"{path}: {ctx.info_name} has no option {key!r}{near}")
        ctx.default_map[str(known[name].name)] = _checked(f"{path}: {key}", known[name], value)


def _checked(where: str, option: click.Parameter, value: Any) -> Any:
    """The value of an option, as click takes it. Raises `BadParameter`."""
    several = getattr(option, "multiple", False) or option.nargs == -1
    values = value if several and isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        form = "values" if several else "one value"
        raise click.BadParameter(f"{where}: expected {form}, got {value!r}")
    if any("\0" in str(one) for one in values):
        raise click.BadParameter(f"{where}: {value!r} holds a NUL character; remove it")
    return values if several else value


def config_of(ctx: click.Context) -> str:
    """The file that repeats the command that runs, as YAML. It names files without their paths."""
    from evals.running.request import format_config

    shown = (one for one in ctx.command.params if one.expose_value and _name(one) not in _ONE_RUN)
    return format_config({_name(one): ctx.params[str(one.name)] for one in shown})


def _name(option: click.Parameter) -> str:
    """An option as it is typed, without dashes; an argument in small letters."""
    return max(option.opts, key=len).lstrip("-").lower()
