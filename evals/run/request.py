"""Requests: what a command or a Python caller asks for, frozen, typed, checked, kept as a file.

A request has fields of its own and groups of fields (`evals.run.groups`), and inherits none. Every
field has a flat name, that of its option; a file of a run nests the groups.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from evals.run.keep import identify
from surgery.privacy import make_public_name
from surgery.record.manifest import Record

R = TypeVar("R", bound="Request")
Section = Literal["input", "edit", "measure", "limits", "output", "run"]
"""What an option is about: the section of `--help` that lists it, in this order."""


@dataclass(frozen=True)
class Option:
    """Beside the type of a field and a text for its help: the option that fills it.

    Other fields stand in backquotes in the text. A field without `Option` has no option.

    - `metavar`: what stands for its value. `default`: what happens without it, if no value says so.
    - `choices`: the values that it takes, if its type does not say so. `place`: what a path may be;
      a file must exist. `example`: of a limit.
    - `old`: earlier names, which the command line and files still take.
    - `decides`: whether its value can change a result. By default it can if it says what to edit,
      to measure, or to limit; an input counts by what was read from it.
    """

    section: Section
    metavar: str | None = None
    default: str | None = None
    choices: Collection[str] = ()
    place: Literal["any", "file", "folder"] = "any"
    example: str = ""
    old: tuple[str, ...] = ()
    decides: bool | None = None

    @property
    def counts(self) -> bool:
        """Whether it is part of what identifies a piece of work."""
        by_default = self.section in ("edit", "measure", "limits")
        return by_default if self.decides is None else self.decides


class Group(Record):
    """Fields that several requests have together, and their checks."""


@dataclass(frozen=True)
class Use:
    """How a request uses a group, beside its type: `without` these fields, which keep their
    defaults; and, for some, with other flat names (`named`)."""

    without: Collection[str] = ()
    named: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a request holds a value: in the field `name` of its `group`, or of its own."""

    group: str | None
    name: str
    info: FieldInfo

    @property
    def option(self) -> Option | None:
        """What the field says of its option."""
        return next((said for said in self.info.metadata if isinstance(said, Option)), None)

    @property
    def default(self) -> Any:
        return self.info.get_default(call_default_factory=True)

    def read(self, request: Request) -> Any:
        """The value that a request holds there."""
        return getattr(getattr(request, self.group) if self.group else request, self.name)


def list_groups(kind: type[Request]) -> dict[str, tuple[type[Group], Use]]:
    """The groups of a request by the names of its fields, and how it uses them."""
    return {
        name: (info.annotation, next((use for use in info.metadata if isinstance(use, Use)), Use()))
        for name, info in kind.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Group)
    }


@cache
def list_places(kind: type[Request]) -> dict[str, list[Place]]:
    """The flat names of a request, in order, and the places that a value under that name fills."""
    groups, places = list_groups(kind), dict[str, list[Place]]()
    for name, info in kind.model_fields.items():
        if name not in groups:
            places.setdefault(name, []).append(Place(None, name, info))
            continue
        group, use = groups[name]
        for inner, detail in group.model_fields.items():
            if inner not in use.without:
                flat = use.named.get(inner, inner)
                places.setdefault(flat, []).append(Place(name, inner, detail))
    return places


class Request(Record):
    """What is asked for. Its groups may also be given field by field, under their flat names.

    `typed`: the flat names that its command has options for, in the order of the help. The others
    stand only in a file (`--config`).
    """

    typed: ClassVar[str] = ""

    @classmethod
    def of(cls: type[R], options: Mapping[str, Any] | None = None, **more: Any) -> R:
        """Fills the request from groups and flat names. Raises `pydantic.ValidationError`."""
        return cls.model_validate({**(options or {}), **more})

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, given: Any) -> Any:
        """Puts values under flat names into their groups, over what the groups hold."""
        if not isinstance(given, Mapping):
            return given
        groups, places = list_groups(cls), list_places(cls)
        filled: dict[str, Any] = {}
        for name in groups.keys() & given.keys():
            value, (_, use) = given[name], groups[name]
            if isinstance(value, Group):  # handed on by another request
                value = {key: one for key, one in value if key not in use.without}
            if isinstance(value, Mapping):
                refused = {f"{name}.{key}": one for key, one in value.items() if key in use.without}
                value = {key: one for key, one in value.items() if key not in use.without}
                filled |= refused  # which pydantic then names
            filled[name] = value
        for name in given.keys() - groups.keys():
            for place in places.get(name, [Place(None, name, FieldInfo())]):
                if place.group is None:
                    filled[name] = given[name]
                else:
                    held = filled.get(place.group, {})
                    if isinstance(held, Mapping):  # else pydantic names it
                        filled[place.group] = {**held, place.name: given[name]}
        return filled

    def hand_on(self, kind: type[R], **more: Any) -> R:
        """Another request with the groups and fields that both have. `more`: what differs."""
        shared = type(self).model_fields.keys() & kind.model_fields.keys()
        return kind.of({name: getattr(self, name) for name in shared}, **more)

    def change(self: R, **values: Any) -> R:
        """A copy with other values under flat names, which are not checked."""
        own, inner = dict[str, Any](), dict[str, dict[str, Any]]()
        for flat, value in values.items():
            for place in list_places(type(self))[flat]:
                (inner.setdefault(place.group, {}) if place.group else own)[place.name] = value
        groups = {name: getattr(self, name).model_copy(update=held) for name, held in inner.items()}
        return self.model_copy(update=own | groups)

    def list_values(self) -> Iterator[tuple[str, Any]]:
        """Every flat name and its value."""
        for flat, (place, *_) in list_places(type(self)).items():
            if flat not in self.omitted:
                yield flat, place.read(self)

    @property
    def omitted(self) -> Collection[str]:
        """Flat names that mean nothing to this request."""
        return ()

    def to_config(self) -> str:
        """The YAML file that repeats it with `--config`. Files lose their paths."""
        import yaml

        kept: dict[str, Any] = {}
        for flat, places in list_places(type(self)).items():
            for place in places if flat not in self.omitted else ():
                value = _simplify(place.read(self))
                if value is not None and value != []:
                    name = (place.info.serialization_alias or place.name).replace("_", "-")
                    (kept.setdefault(place.group, {}) if place.group else kept)[name] = value
        return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


@identify.register(Request)
@identify.register(Group)  # a union as annotation takes Python 3.11
def _(asked: Request | Group) -> dict[str, Any]:
    """The options that can change a result. A field without an option is identified elsewhere."""
    found = {}
    for name, info in type(asked).model_fields.items():
        value = getattr(asked, name)
        option = Place(None, name, info).option
        if isinstance(value, Group) or (option and option.counts):
            found[name] = identify(value)
    return found


def refuse_unused(asked: Request | Group, needed: str, *names: str) -> None:
    """Raises `ValueError` for fields that do nothing without `needed`, unless they have their
    defaults, as in config.yaml."""
    for name in names:
        if getattr(asked, name) != Place(None, name, type(asked).model_fields[name]).default:
            raise ValueError(f"`{name}` needs `{needed}`")


def describe_mistakes(kind: type[Request], error: ValidationError) -> str:
    """One line for each value that a request refuses."""
    groups, lines = list_groups(kind), []
    for mistake in error.errors():
        where = mistake["loc"]
        if where and where[0] in groups:
            named = groups[str(where[0])][1].named
            where = tuple(named.get(str(name), name) for name in where[1:])
        said = mistake["msg"].removeprefix("Value error, ")
        lines.append("".join(f"`{name}`: " for name in where[:1]) + said)
    return "\n".join(lines)


def _simplify(value: Any) -> Any:
    """A value that YAML can hold and that the option takes again."""
    if isinstance(value, dict):
        return [f"{key}={limit}" for key, limit in value.items()]
    if isinstance(value, list | tuple):
        return [_simplify(inner) for inner in value]
    if isinstance(value, str | Path):
        return make_public_name(value)
    return value if isinstance(value, bool | int | float | None) else str(value)
