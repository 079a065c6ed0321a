"""Requests: what a command or a Python caller asks for, frozen, typed, checked, kept as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from surgery.privacy import make_public_name
from surgery.record.manifest import Record
from surgery.variants import VARIANTS

R = TypeVar("R", bound="Request")


def _split_names(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given or ()
    names = [name.strip() for text in texts for name in str(text).split(",")]
    if not all(names):
        raise ValueError("a name is empty")
    return tuple(dict.fromkeys(names))


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
"""Names, each once. Text may hold several of them, separated by commas."""


def describe_mistakes(error: ValidationError) -> str:
    """One line for each value that a request refuses."""
    return "\n".join(
        "".join(f"`{name}`: " for name in one["loc"][:1]) + one["msg"].removeprefix("Value error, ")
        for one in error.errors()
    )


class Request(Record):
    """Its fields are named like the options that fill it."""

    @classmethod
    def of(cls: type[R], options: Mapping[str, Any], **more: Any) -> R:
        """Fills the request from `options` and `more`. Ignores options that it does not know.

        Raises `pydantic.ValidationError`, a `ValueError`.
        """
        return cls(**{key: options[key] for key in cls.model_fields if key in options} | more)

    def _refuse_unused(self, needed: str, *names: str) -> None:
        """Raises `ValueError` for fields that do nothing without `needed`, unless they have their
        defaults, as in config.yaml."""
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` needs `{needed}`")

    def to_config(self) -> str:
        """The YAML file that repeats it with `--config`. Files lose their paths."""
        import yaml

        aliases = {
            name: field.serialization_alias for name, field in type(self).model_fields.items()
        }
        plain = {
            (aliases[name] or name).replace("_", "-"): _simplify(value) for name, value in self
        }
        kept = {name: value for name, value in plain.items() if value is not None and value != []}
        return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


class Running(Request):
    """How to run models. `device` None: a GPU if there is one; `batch_size` None: as many rows as
    memory allows."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    device_map: Literal["auto"] | None = None
    batch_size: int | None = Field(default=None, ge=1)

    @property
    def running(self) -> dict[str, Any]:
        """What `evals.run.models.open_model` takes."""
        return self.model_dump(include={"dtype", "device", "device_map"})


class Measuring(Running):
    """How to cut passages, and which revision of a Hub model to run. Lengths are in tokens; None:
    32, or a pair's own. `skip_short`: leave out passages that are shorter."""

    revision: str | None = None
    prefix_length: int | None = None
    suffix_length: int | None = None
    skip_short: bool = False


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
        default = [name for name, variant in VARIANTS.items() if fits or not variant.fitted]
        return tuple(dict.fromkeys(self.variant or default))


def _simplify(value: Any) -> Any:
    """A value that YAML can hold and that the option takes again."""
    if isinstance(value, dict):
        return [f"{key}={limit}" for key, limit in value.items()]
    if isinstance(value, list | tuple):
        return [_simplify(one) for one in value]
    if isinstance(value, str | Path):
        return make_public_name(value)
    return value if isinstance(value, bool | int | float | None) else str(value)
