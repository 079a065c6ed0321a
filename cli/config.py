"""--config: a file that holds options by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.escaping import escape_text
from cli.options import COMMAS, EXISTING_FILE, Decorator

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
IN_FILE = "cli.config.in_file"
"""In `meta` of a context: values of options that only a file has, by flat names."""


class _File(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A file that exists, or its text in braces."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if not text:
            self.fail("names no file", param, ctx)
        return text if text.startswith("{") else EXISTING_FILE.convert(value, param, ctx)


def config_option(*names: str) -> Decorator:
    """--config, which is also called `names`."""
    return click.option(
        "--config",
        *names,
        type=_File(),
        is_eager=True,
        expose_value=False,
        multiple=True,
        callback=_read_all,
        metavar="FILE",
        help="YAML or JSON file with options of this command, and settings that have none, by "
        "their names, such as config.yaml or recipe.yaml of its result; or its text in braces, "
        "such as '{seed: 1}'. Repeatable: a later one overrides it, and so do other options.",
    )


def with_config(command: click.Command) -> click.Command:
    """Adds --config to a command with many options, unless it has the option."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    if len(options) > _MANY and not any("--config" in option.opts for option in options):
        config_option()(command)
    return command


def _parse(file: Path | str) -> dict[str, Any]:
    """The options in a file, or in its text, by name. Raises a `SurgeryError` if it holds none."""
    from surgery.errors import SourceError
    from surgery.untrusted import parse_yaml, read_bytes

    text, path = file, "--config"
    if isinstance(file, Path):
        text, path = read_bytes(file, SourceError).decode(errors="replace"), str(file)
    try:
        return parse_yaml(str(text), as_typed=True)
    except ValueError as error:
        form = "options, one `name: value` a line"
        raise SourceError(str(error), where=path, expected=form) from None


def set_defaults(ctx: click.Context, values: Mapping[str, Any]) -> None:
    """Makes values by flat names the defaults of options, and of what only a file has. Those that
    a file gave stay."""
    in_file = getattr(ctx.command, "in_file", {})
    held = {name: value for name, value in values.items() if name in in_file}
    typed = {name: value for name, value in values.items() if name not in in_file}
    ctx.default_map = {**typed, **(ctx.default_map or {})}
    ctx.meta[IN_FILE] = {**held, **ctx.meta.get(IN_FILE, {})}


def _read_all(ctx: click.Context, param: click.Parameter, files: Sequence[Path | str]) -> None:
    for file in files if not ctx.resilient_parsing else ():  # a shell completes
        _read(ctx, param, file)


def _read(ctx: click.Context, param: click.Parameter, path: Path | str) -> None:
    """Makes the values in the file the defaults of the options."""
    from surgery.errors import SurgeryError, suggest

    try:
        given = _parse(path)
    except SurgeryError as error:
        raise click.UsageError(str(error), ctx) from error
    where = path if isinstance(path, Path) else "--config"
    foreign = isinstance(path, Path) and is_of_result(path)
    if foreign:
        ctx.meta[RESULT] = path
    command = ctx.command
    in_file: Mapping[str, click.Parameter] = getattr(command, "in_file", {})
    options = [*command.params, *in_file.values()]
    known = {name: one for one in options for name in _list_names(one)}
    typed, meta = dict(ctx.default_map or {}), dict(ctx.meta.get(IN_FILE, {}))  # of --preset
    mistakes, seen = [], dict[str | None, tuple[str, Any]]()
    for key, name, value in _flatten(given, command):
        try:
            if name in _NOT_READ:
                raise click.BadParameter(f"cannot come from a file; pass --{name}")
            option = known.get(name)
            if foreign and _says_where_to_write(option):
                what = "cannot come from a file of a result, which may be someone else's"
                raise click.BadParameter(f"{what}; pass --{name}, or rename a file that you wrote")
            if option is None:
                near = suggest(name, known)
                what = f"{ctx.info_name} has no option {key!r}{f'; {near}' if near else ''}"
                raise click.BadParameter(what)
            value = _check_value(option, value)
            if f"--{name}" in option.secondary_opts:  # --no-last
                value = not click.BOOL.convert(value, param, ctx)
            other, same = seen.setdefault(option.name, (key, value))
            if same != value:
                raise click.BadParameter(f"says the same as {other}; give one of them")
            if option.name in in_file:
                meta[str(option.name)] = option.process_value(ctx, value)
                continue
            if not option.is_eager:  # what click will do, here for every value
                option.process_value(ctx, value)
            typed[str(option.name)] = value
        except click.BadParameter as error:
            mistakes.append(escape_text(f"{where}: {key}: {error.message or 'a value is missing'}"))
    ctx.default_map, ctx.meta[IN_FILE] = typed, meta
    if mistakes:
        raise click.UsageError("\n".join(mistakes))


def _flatten(given: Mapping[str, Any], command: click.Command) -> Iterator[tuple[str, str, Any]]:
    """The keys of a file, each with its flat name, as an option is typed, and its value. A file may
    nest them in the groups of the request."""
    from evals.run.request import list_groups

    kind = getattr(command, "kind", None)
    groups = list_groups(kind) if kind else {}
    for key, value in given.items():
        name = key.lstrip("-").replace("_", "-")
        if name not in groups or not isinstance(value, Mapping):
            yield key, name, value
            continue
        group, use = groups[name]
        for inner, held in value.items():
            plain = str(inner).replace("-", "_")
            has = plain in group.model_fields and plain not in use.without
            flat = use.named.get(plain, plain) if has else f"{name}.{plain}"
            yield f"{key}.{inner}", flat.replace("_", "-"), held


def _list_names(option: click.Parameter) -> list[str]:
    """The names of an option in a file: the longest that is typed, what turns it off, and earlier
    ones."""
    others = [*option.secondary_opts, *getattr(option, "old", ())]
    return [_name(option), *(name.lstrip("-") for name in others)]


def _says_where_to_write(option: click.Parameter | None) -> bool:
    if option is None or option.name not in ("output", "rows"):
        return False
    return isinstance(option.type, click.Path)


def _check_value(option: click.Parameter, value: Any) -> Any:
    """Returns a value in the form that click takes: text as typed. Raises `BadParameter`."""
    joined = option.metavar == COMMAS
    several = getattr(option, "multiple", False) or option.nargs == -1 or joined
    if isinstance(option, click.Argument) and isinstance(value, list) and len(value) == 1:
        value = value[0]  # as a result writes its MODEL
    values = value if several and isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in values):
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
