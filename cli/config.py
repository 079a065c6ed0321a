"""--config: a file that holds options by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.escaping import escape_text
from cli.options import COMMAS, EXISTING_FILE, Decorator
from cli.retired import explain_retired

_NOT_READ = {"config", "overwrite", "json"}
_MANY = 5
"""A command with more options than this takes --config."""
OF_RESULTS = {"config.yaml", "recipe.yaml"}
"""Files that result folders hold. Such a folder may be someone else's: it names no output."""


def is_of_result(path: Path) -> bool:
    """Whether a file has such a name, in any case: many file systems do not tell cases apart."""
    return path.name.casefold() in OF_RESULTS


RESULT = "cli.config.result"
"""In `meta` of a context: the file of a result that gave options."""


def config_option(*names: str) -> Decorator:
    """--config, which is also called `names`."""
    return click.option(
        "--config",
        *names,
        type=EXISTING_FILE,
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE",
        help="YAML or JSON file with options of this command by their names, such as config.yaml "
        "or recipe.yaml of its result. Command-line options override the file.",
    )


def with_config(command: click.Command) -> click.Command:
    """Adds --config to a command with many options, unless it has the option."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    if len(options) > _MANY and not any("--config" in one.opts for one in options):
        config_option()(command)
    return command


def _parse(path: Path) -> dict[str, Any]:
    """The options in a file, by name. Raises a `SurgeryError` for a file that holds none."""
    from surgery.errors import SourceError
    from surgery.untrusted import parse_yaml, read_bytes, read_json

    if path.suffix == ".json":
        return read_json(path, as_typed=True)
    text = read_bytes(path, SourceError).decode(errors="replace")
    try:
        return parse_yaml(text, as_typed=True)
    except ValueError as error:
        form = "options, one `name: value` a line"
        raise SourceError(str(error), where=path, expected=form) from None


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes the values in the file the defaults of the options."""
    if path is None or ctx.resilient_parsing:  # a shell completes
        return
    from surgery.errors import SurgeryError, suggest

    try:
        given = _parse(path)
    except SurgeryError as error:
        raise click.UsageError(str(error), ctx) from error
    if is_of_result(path):
        ctx.meta[RESULT] = path
    known = {_name(one): one for one in ctx.command.params}
    for one in ctx.command.params:
        known |= {old.lstrip("-"): one for old in getattr(one, "old", ())}
    negations = {
        off.lstrip("-"): _name(one) for one in known.values() for off in one.secondary_opts
    }
    ctx.default_map = dict(ctx.default_map or {})  # of --preset, if it came first
    mistakes, keys = [], dict[str, str]()
    for key, value in given.items():
        name = key.lstrip("-")
        try:
            if name in negations:
                name = negations[name]
                value = not click.BOOL.convert(_check_value(known[name], value), param, ctx)
            if name in _NOT_READ:
                raise click.BadParameter(f"cannot come from a file; pass --{name}")
            if is_of_result(path) and _says_where_to_write(known.get(name)):
                what = "cannot come from a file of a result, which may be someone else's"
                raise click.BadParameter(f"{what}; pass --{name}, or rename a file that you wrote")
            if name not in known:
                near = suggest(name, known)
                what = f"{ctx.info_name} has no option {key!r}{f'; {near}' if near else ''}"
                raise click.BadParameter(explain_retired(f"{ctx.info_name} --{name}") or what)
            option, value = known[name], _check_value(known[name], value)
            if (other := keys.setdefault(str(option.name), key)) != key:
                raise click.BadParameter(f"says the same as {other}; give one of them")
            if not option.is_eager:  # what click will do, here for every value
                option.process_value(ctx, value)
            ctx.default_map[str(option.name)] = value
        except click.BadParameter as error:
            mistakes.append(escape_text(f"{path}: {key}: {error.message or 'a value is missing'}"))
    if mistakes:
        raise click.UsageError("\n".join(mistakes))


def _says_where_to_write(option: click.Parameter | None) -> bool:
    if option is None or option.name not in ("output", "rows"):
        return False
    return isinstance(option.type, click.Path)


def _check_value(option: click.Parameter, value: Any) -> Any:
    """Returns a value in the form that click takes: text as typed. Raises `BadParameter`."""
    joined = option.metavar == COMMAS
    several = getattr(option, "multiple", False) or option.nargs == -1 or joined
    values = value if several and isinstance(value, list) else [value]
    kinds = (str, bool) if getattr(option, "is_flag", False) else str
    if not all(isinstance(one, kinds) for one in values):
        form = "values" if several else "one value"
        raise click.BadParameter(f"expected {form}, got {value!r}")
    if any("\0" in str(one) for one in values):
        raise click.BadParameter(f"{value!r} holds a NUL character; remove it")
    if joined:
        return ",".join(values)
    return values if several else value


def _name(option: click.Parameter) -> str:
    """The longest name of an option, without dashes, or of an argument, in lower case."""
    return max(option.opts, key=len).lstrip("-").lower()
