"""A recipe: every option of a command by its name, in YAML, to run it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import EXISTING_FILE

_NEVER = {"output", "recipe", "overwrite", "json"}
"""Of one run alone."""


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Makes what a recipe says the default of every option."""
    if path is None or ctx.resilient_parsing:  # a shell completes
        return path
    from surgery.checkpoint.foreign import guard, parse_yaml, read_bytes
    from surgery.errors import SourceError

    with guard(SourceError, "is no recipe", path):
        recipe = parse_yaml(read_bytes(path, SourceError).decode(errors="replace"))
    names = {_name(one): one for one in ctx.command.params}
    for name, value in recipe.items():
        if name not in names or name in _NEVER:
            raise click.BadParameter(f"{path}: {ctx.info_name} has no option {name!r}")
        several = getattr(names[name], "multiple", False)
        if isinstance(value, list) != several or not all(
            isinstance(one, str | int | float) for one in (value if several else [value])
        ):
            form = "a list of values" if several else "one value"
            raise click.BadParameter(f"{path}: {name}: expected {form}, got {value!r}")
        if any("\0" in str(one) for one in (value if several else [value])):
            raise click.BadParameter(f"{path}: {name}: {value!r} holds a NUL character; remove it")
    ctx.default_map = {str(names[name].name): value for name, value in recipe.items()}
    return path


recipe_option = click.option(
    "--recipe",
    type=EXISTING_FILE,
    is_eager=True,
    expose_value=False,
    callback=_read,
    metavar="FILE",
    help="Take options from a YAML file, each by its name, as this command writes one into OUT; "
    "what is typed goes before.",
)


def written(ctx: click.Context, path: Path) -> None:
    """Writes the recipe of the command that runs. Files are named without their paths."""
    import yaml

    from surgery.output import write_text

    options = {_name(one): _plain(ctx.params[str(one.name)]) for one in ctx.command.params
               if one.expose_value and _name(one) not in _NEVER}  # fmt: skip
    kept = {name: value for name, value in options.items() if value is not None and value != []}
    write_text(path, yaml.safe_dump(kept, sort_keys=False))


def _name(option: click.Parameter) -> str:
    """An option as it is typed, without dashes; an argument in small letters."""
    return max(option.opts, key=len).lstrip("-").lower()


def _plain(value: Any) -> Any:
    """As YAML has it, and as the option takes it again."""
    from surgery.hub.finding import shown_name

    if isinstance(value, dict):
        return [f"{key}={limit}" for key, limit in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Path):
        return shown_name(value)
    return value if isinstance(value, bool | int | float | None) else str(value)
