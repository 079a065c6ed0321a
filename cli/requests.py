"""Commands whose options are the fields of a request: each is said once, where it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cli import options
from cli.options import COMMAS, Decorator, GroupedOption
from cli.terminal import note
from evals.run.request import Group, Option, Request, describe_mistakes
from surgery.processes import join_launch

R = TypeVar("R", bound=Request)
_PLACES = {"any": options.PATH, "file": options.EXISTING_FILE, "folder": options.FOLDER}
_WIDEST = 30
"""Columns of an option that has its text beside it."""
_METAVARS = {int: "N", float: "X", Path: "FILE"}


class RequestCommand(click.Command):
    """A command whose help lists its options by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in get_args(Group)}
        for one in self.get_params(ctx):
            if isinstance(one, click.Option) and (record := one.get_help_record(ctx)):
                sections[getattr(one, "group", "run")].append(record)
        widths = [len(name) for rows in sections.values() for name, _ in rows]
        width = min(max(widths), _WIDEST)  # so that all sections have their texts in one column
        for group, rows in sections.items():
            if rows:
                with formatter.section(group.capitalize()):
                    formatter.write_dl([(f"{name:{width}}", text) for name, text in rows])


def request_command(
    name: str, kind: type[R], *, alone: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command with the options of a request, before those that the function adds.

    The function gets the request, and by name the values that are not of its fields. The processes
    of a launch share its work, and all end with the same result, unless it runs `alone`.
    """

    def decorate(run: Callable[..., None]) -> click.Command:
        @wraps(run)
        def fill_and_run(**given: Any) -> None:
            others = {key: value for key, value in given.items() if key not in kind.model_fields}
            request = fill_request(kind, given)
            if not alone:
                join_launch(note)
            run(request, **others)

        make = click.command(name, cls=RequestCommand, params=list_options(kind))
        return make(fill_and_run)

    return decorate


def options_of(kind: type[Request], *, without: Collection[str] = ()) -> Decorator:
    """Adds the options of a second request to a command."""

    def decorate(run: Any) -> Any:
        given = getattr(run, "__click_params__", [])
        run.__click_params__ = [*given, *reversed(list_options(kind, without))]
        return run

    return decorate


def fill_request(kind: type[R], given: Mapping[str, Any], **more: Any) -> R:
    """The request that options fill. Raises `UsageError`, one line for each mistake."""
    try:
        return kind.of(given, **more)
    except ValidationError as error:
        raise click.UsageError(describe_mistakes(error)) from None


def list_options(kind: type[Request], without: Collection[str] = ()) -> list[click.Parameter]:
    """An option for each field that says what its option is, the request's own fields first."""
    names = dict.fromkeys(name for cls in kind.__mro__ for name in get_annotations(cls))
    fields = {name: kind.model_fields[name] for name in names if name in kind.model_fields}
    return [
        _make_option(name, field, said)
        for name, field in fields.items()
        for said in field.metadata
        if isinstance(said, Option) and name not in kind.omits and name not in without
    ]


def _make_option(name: str, field: FieldInfo, said: Option) -> GroupedOption:
    form, kind, bounds = _take_apart(field)
    default = field.get_default(call_default_factory=True)
    typed = (field.serialization_alias or name).replace("_", "-")
    several = form in (tuple, dict) and said.metavar != COMMAS
    (text,) = (one for one in field.metadata if isinstance(one, str))
    text += " Repeatable." * several
    text += f"  [default: {said.default}]" if said.default else ""
    more: dict[str, Any] = {"help": text, "group": said.group, "old": said.old, "multiple": several}
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
        return options.Choice(list(said.choices or get_args(kind)), own=said.own)
    if kind is Path:
        return _PLACES[said.place]
    if said.in_bytes:
        return options.Size()
    if kind is float:
        return options.Number(**bounds)
    return click.IntRange(**bounds) if bounds else kind
