"""Requests of a command or a Python caller: frozen, typed, checked, and kept as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from surgery.hub.finding import shown_name
from surgery.record.manifest import Record
from surgery.variants import VARIANTS

R = TypeVar("R", bound="Request")


class Request(Record):
    """Its fields have the names of the options that fill it."""

    @classmethod
    def of(cls: type[R], options: Mapping[str, Any], **more: Any) -> R:
        """Fills the request from the options that it has, and from `more`.

        Raises `pydantic.ValidationError`, a `ValueError`.
        """
        return cls(**{key: options[key] for key in cls.model_fields if key in options} | more)

    def to_config(self) -> str:
        """The file that repeats it with `--config`, as YAML."""
        fields = type(self).model_fields
        names = {name: fields[name].serialization_alias or name for name in fields}
        return format_config({names[name].replace("_", "-"): value for name, value in self})


class Running(Request):
    """How to run models. `device` None: a GPU if there is one; `batch_size` None: as many rows as
    memory allows."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    device_map: Literal["auto"] | None = None
    batch_size: int | None = Field(default=None, ge=1)


class Measuring(Running):
    """How to cut passages, and which revision of a Hub model to run. Lengths are in tokens; None:
    32, or a pair's own."""

    revision: str | None = None
    prefix_length: int | None = None
    suffix_length: int | None = None


class Choosing(Measuring):
    """A model to edit in many ways, and the text to measure the edits on.

    - `variant`: what a block or head may become. Empty: all if there is calibration text, else
      those that need none.
    - `corpus`: held-out text; `calibration`: text to fit on. Empty: a lab model's own.
    """

    model: str
    samples: str
    variant: tuple[str, ...] = ()
    corpus: tuple[Path, ...] = ()
    calibration: tuple[str, ...] = ()

    def list_variants(self, *, fits: bool) -> tuple[str, ...]:
        """What a block or head may become, each once. `fits`: there is calibration text."""
        default = [name for name, variant in VARIANTS.items() if fits or not variant.FITTED]
        return tuple(dict.fromkeys(self.variant or default))


def format_config(options: Mapping[str, Any]) -> str:
    """Formats the given options by name as YAML. Files lose their paths."""
    import yaml

    plain = {name: _plain(value) for name, value in options.items()}
    kept = {name: value for name, value in plain.items() if value is not None and value != []}
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """The value in YAML, in a form that the option accepts again."""
    if isinstance(value, dict):
        return [f"{key}={limit}" for key, limit in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Path):
        return shown_name(value)
    return value if isinstance(value, bool | int | float | None) else str(value)
