"""Commands whose options are the fields of a request: each is said once, where it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cli import options
from cli.config import IN_FILE
from cli.options import COMMAS, GroupedOption
from cli.terminal import note
from evals.run.request import (
    Option,
    Place,
    Request,
    Section,
    describe_mistakes,
    list_places,
)
from surgery.processes import join_launch

R = TypeVar("R", bound=Request)
_PLACES = {"any": options.PATH, "file": options.EXISTING_FILE, "folder": options.FOLDER}
_WIDEST = 30
"""Columns of an option that has its text beside it."""
_METAVARS = {int: "N", float: "X", Path: "FILE"}


class RequestCommand(click.Command):
    """A command whose help lists its options by what they are about.

    `kind`: the request that it fills. `in_file`: options that only a file has, by flat names.
    `fixed`: fields that the command says itself.
    """

    def __init__(
        self, *args: Any, kind: type[Request], in_file: Mapping[str, Any], fixed: Any, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.kind, self.in_file, self.fixed = kind, in_file, fixed

    def fill(self, ctx: click.Context) -> Any:
        """The request that options and a file fill. Raises `UsageError`, one line for each
        mistake."""
        places = list_places(self.kind)
        held = ctx.meta.get(IN_FILE, {})
        given = {
            name: value
            for name, value in ctx.params.items()
            if name in places and not (value is None and name in held)
        }
        try:
            return self.kind.of(held, **given, **self.fixed)
        except ValidationError as error:
            raise click.UsageError(describe_mistakes(self.kind, error)) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in get_args(Section)}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections[getattr(param, "group", "run")].append(record)
        widths = [len(name) for rows in sections.values() for name, _ in rows]
        width = min(max(widths), _WIDEST)  # so that all sections have their texts in one column
        for group, rows in sections.items():
            if rows:
                with formatter.section(group.capitalize()):
                    formatter.write_dl([(f"{name:{width}}", text) for name, text in rows])


def request_command(
    name: str,
    kind: type[R],
    *,
    typed: str | None = None,
    omitted: Collection[str] = (),
    alone: bool = False,
    prepare: Callable[[dict[str, Any]], None] = lambda given: None,
    **fixed: Any,
) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command with the options of a request, before those that the function adds.

    The function gets the request, and by name the values that are not of its fields. The processes
    of a launch share its work, and all end with the same result, unless it runs `alone`.

    `typed`: as `Request.typed`, where that differs by command. `omitted`: flat names that mean
    nothing here. `prepare`: completes what is given. `fixed`: fields that the command says itself.
    """

    def decorate(run: Callable[..., None]) -> click.Command:
        places = list_places(kind)
        listed = {
            flat: _make_option(flat, one[0])
            for flat, one in places.items()
            if one[0].option and flat not in omitted
        }

        @wraps(run)
        def fill_and_run(**_: Any) -> None:
            ctx = click.get_current_context()
            prepare(ctx.params)
            request = command.fill(ctx)
            if not alone:
                join_launch(note)
            run(request, **{key: one for key, one in ctx.params.items() if key not in places})

        params = [listed.pop(flat) for flat in (typed or kind.typed).split()]
        told: dict[str, Any] = {"kind": kind, "in_file": listed, "fixed": fixed}
        command = click.command(name, cls=RequestCommand, params=params, **told)(fill_and_run)
        return command

    return decorate


def _make_option(name: str, place: Place) -> GroupedOption:
    """The option with a flat name, from the field that it fills."""
    field, said, default = place.info, place.option, place.default
    assert said is not None
    form, kind, bounds = _take_apart(field)
    typed = (field.serialization_alias or name).replace("_", "-")
    several = form in (tuple, dict) and said.metavar != COMMAS
    (text,) = (one for one in field.metadata if isinstance(one, str))
    text += " Repeatable." * several
    text += f"  [default: {said.default}]" if said.default else ""
    more: dict[str, Any] = {
        "help": text,
        "group": said.section,
        "old": said.old,
        "multiple": several,
    }
    if kind is bool:
        typed += f"/--no-{typed}" if default else ""
        return GroupedOption([f"--{typed}", name], is_flag=True, default=default, **more)
    if form is dict:
        more["callback"] = options.collect_limits(said.example, bounds.get("max", math.inf))
    if not field.is_required() and default not in (None, "", (), {}):
        more.update(default=default, show_default=True)
    return GroupedOption(
        [f"--{typed}", name],
        type=None if form is dict else _make_type(kind, bounds, said),
        metavar=said.metavar or _METAVARS.get(kind),
        required=field.is_required(),
        **more,
    )


def _take_apart(field: FieldInfo) -> tuple[Any, Any, dict[str, Any]]:
    """Whether a field holds a tuple or a dict, the type of one value, and its bounds for click."""
    form, kind, said = None, field.annotation, [*field.metadata]
    while (origin := get_origin(kind)) not in (None, Literal):
        if origin in (Union, UnionType):
            parts = [one for one in get_args(kind) if one is not NoneType]
            kind = float if float in parts else parts[0]
        elif origin is Annotated:
            kind, info = get_args(kind)
            said += info.metadata
        else:
            form, kind = origin, get_args(kind)[origin is dict]
    bounds: dict[str, Any] = {}
    for one in said:
        for bound, ends in (("min", ("ge", "gt")), ("max", ("le", "lt"))):
            for end in ends:
                if hasattr(one, end):
                    bounds |= {bound: getattr(one, end), f"{bound}_open": end in ("gt", "lt")}
    return form, kind, bounds


def _make_type(kind: Any, bounds: dict[str, Any], said: Option) -> Any:
    if said.choices or get_origin(kind) is Literal:
        return options.OneOf(list(said.choices or get_args(kind)))
    if kind is Path:
        return _PLACES[said.place]
    if kind is float:
        return options.Number(**bounds)
    return click.IntRange(**bounds) if bounds else kind
