"""Requests: what a command or a Python caller asks for, frozen, typed, checked, kept as a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from surgery.hub.embedded import find_lab
from surgery.own_code import is_path
from surgery.privacy import make_public_name
from surgery.record.manifest import Record, list_versions
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.store import Store, find_cache, hash_program, identify
from surgery.variants import SUMMARIES, VARIANTS, load_variant

R = TypeVar("R", bound="Request")
Group = Literal["input", "edit", "measure", "limits", "output", "run"]
"""What an option is about: the section of `--help` that lists it, in this order."""


@dataclass(frozen=True)
class Option:
    """Beside the type of a field and a text for its help: the option that fills it.

    Other fields stand in backquotes in the text. A field without `Option` has no option.

    - `metavar`: what stands for its value. `default`: what happens without it, if no value says so.
    - `choices`: the values that it takes, if its type does not say so. `own`: what stands for those
      at a path in your code, if it takes them. `place`: what a path may be; a file must exist.
      `example`: of a limit. `in_bytes`: a size, such as 5GB.
    - `old`: earlier names, which the command line and files still take.
    - `decides`: whether its value can change a result. By default it can if it says what to edit,
      to measure, or to limit; an input counts by what was read from it.
    """

    group: Group
    metavar: str | None = None
    default: str | None = None
    choices: Collection[str] = ()
    own: str = ""
    place: Literal["any", "file", "folder"] = "any"
    example: str = ""
    in_bytes: bool = False
    old: tuple[str, ...] = ()
    decides: bool | None = None

    @property
    def counts(self) -> bool:
        """Whether it is part of what identifies a piece of work."""
        by_default = self.group in ("edit", "measure", "limits")
        return by_default if self.decides is None else self.decides


OWN_PATH = "package.module:VARIANT"
OWN_VARIANT = f"; or one of your own at {OWN_PATH}, whose code then runs"
"""For the help of options that take variants."""


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


Revision = Annotated[
    str | None, "Branch, tag, or commit of a Hub model, such as step143000.", Option("input", "R")
]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Passages = Annotated[
    str | None, "Passages, as for extract.", Option("input", "SAMPLES", "a lab model's own")
]
UNSEEN = "Held-out text, which no model was trained on"
TEXT_FORMS = "A file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's."
HELD_OUT = f"{UNSEEN}: it shows what an edit costs. {TEXT_FORMS}"
HELD_OUT_BEFORE = ("corpus", "control")
HeldoutText = Annotated[
    tuple[Path, ...],
    HELD_OUT,
    Option("input", default="a lab model's own", old=HELD_OUT_BEFORE),
]
CalibrationText = Annotated[
    tuple[str, ...],
    "Text to fit mean and linear on: a file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for "
    "the lab's.",
    Option("input", "FILE", "a lab model's own"),
]
"""Options that several requests have."""


class Request(Record):
    """Its fields are named like the options that fill it. `omits`: fields without an option."""

    omits: ClassVar[frozenset[str]] = frozenset()

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
            (aliases[name] or name).replace("_", "-"): _simplify(value)
            for name, value in self
            if name not in self.omits
        }
        kept = {name: value for name, value in plain.items() if value is not None and value != []}
        return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


@identify.register
def _(request: Request) -> dict[str, Any]:
    """The options that can change a result. A field without an option is identified elsewhere."""
    options = {
        name: next((one for one in field.metadata if isinstance(one, Option)), None)
        for name, field in type(request).model_fields.items()
    }
    return {
        name: identify(getattr(request, name))
        for name, one in options.items()
        if one and one.counts
    }


class Storing(Request):
    """Whether finished work is kept, so that the same command goes on where it was stopped."""

    no_cache: Annotated[
        bool,
        "Compute everything again, and keep nothing of it for later runs.",
        Option("run"),
    ] = False

    @property
    def store(self) -> Store:
        """What is kept of this program's work, with the versions of all that computes."""
        folder = None if self.no_cache else find_cache()
        return Store(folder, (list_tool_versions(), hash_program()))


@cache
def list_tool_versions() -> dict[str, str]:
    """The versions of all that measures."""
    return list_versions() | {name: version(name) for name in ("lm-eval", "datasets", "matplotlib")}


class Running(Request):
    """How to run models."""

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "auto: as stored, but float32 where a CPU has no arithmetic for it.",
        Option("run"),
    ] = "auto"
    device: Annotated[
        str | None, "cpu, cuda, cuda:1, …", Option("run", "D", "a GPU if there is one")
    ] = None
    device_map: Annotated[
        Literal["auto"] | None,
        "auto: spread a model that is too large for one device over all of them.",
        Option("run"),
    ] = None
    batch_size: Annotated[
        Count | None,
        "Rows at a time.",
        Option("run", default="chosen to fit memory", decides=True),
    ] = None

    @property
    def running(self) -> dict[str, Any]:
        """What `evals.run.models.open_model` takes."""
        return self.model_dump(include={"dtype", "device", "device_map"})


class Cutting(Request):
    """Which revision of a Hub model to run, and how to cut passages. Lengths are in tokens."""

    revision: Revision = None
    prefix_length: Annotated[
        Count | None,
        "Tokens of a passage that the model is given.",
        Option("input", default="32, or those of a pair of .npy files"),
    ] = None
    suffix_length: Annotated[
        Count | None,
        "Tokens that the model must complete.",
        Option("input", default="32, or those of a pair of .npy files"),
    ] = None
    secret: Annotated[
        str | None,
        "What must not come out: a regular expression that finds it in each passage, or its first "
        "group does, such as 'account ([0-9]+)'. Each passage is cut so that its first match is "
        "the whole suffix; `suffix_length` is then the longest that is tested. Do not write a "
        "secret itself: config.yaml repeats the expression.",
        Option("input", "REGEX", "what a column secret holds, if there is one"),
    ] = None
    id_column: Annotated[
        str | None,
        "Column that names the passages in results.",
        Option("input", "COLUMN", "id"),
    ] = None
    skip_short: Annotated[
        bool,
        "Leave out passages that are shorter than prefix and suffix, and say how many.",
        Option("input"),
    ] = False


class Listing(Request):
    """Which of the passages are listed. The others show what becomes of those that nobody lists."""

    leave_out: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        "Treat this share of the passages as not listed: searches and training do not see them, "
        "and reports show separately what becomes of them. With the same samples and lengths, "
        "every command leaves out the same passages.",
        Option("input", default="none"),
    ] = None


class Stepping(Request):
    """A step, which makes one folder from the folder of `model`.

    `overwrite` replaces another result. The same one is left as it is.
    """

    model: str
    revision: Revision = None
    output: Path | None = None
    consume: Annotated[
        bool,
        "Put the result in the place of MODEL, a folder that attn-surgery wrote, once it is "
        "complete.",
        Option("output"),
    ] = False
    overwrite: bool = False
    max_shard_size: Annotated[
        int | None,
        Field(gt=0),
        "Largest weight file, such as 5GB.",
        Option("output", "S", "as the source is sharded", in_bytes=True),
    ] = None

    @model_validator(mode="after")
    def _one_place(self) -> Stepping:
        if self.consume and (self.output is not None or find_lab(self.model)):
            what = "`consume` puts the result in the place of a folder MODEL"
            raise ValueError(f"{what}: give it without `output`")
        return self


class Editing(Stepping):
    """A cut of `model`, which is written, or which teaches."""

    drop_attn: str | None = None
    plan: Annotated[
        Path | PlanFile | None,
        "Take blocks, heads, and variants of the cut from a file that `search` wrote. Training "
        "then takes only the passages that the search chose on, so that the others can test it.",
        Option("edit"),
    ] = None
    variant: str | None = None
    calibration: CalibrationText = ()

    @model_validator(mode="after")
    def _one_cut(self) -> Editing:
        if self.drop_attn is not None and self.plan is not None:
            raise ValueError("give `drop_attn` or `plan`, not both")
        if self.variant is not None and self.plan is not None and not is_path(self.variant):
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
        return self

    def read_edit(self) -> str | PlanFile | None:
        """Returns the cut. Raises `SurgeryError` for a plan that cannot be read."""
        if isinstance(self.plan, Path):
            return read_plan_file(self.plan)
        return self.plan or self.drop_attn


class Measuring(Running, Cutting):
    """How to run models on passages."""


class Training(Request):
    """Training that makes a model."""

    adapters: Annotated[
        Count | None,
        "Train low-rank adapters of this rank in place of all weights, and merge them in the end. "
        "This needs far less memory.",
        Option("edit", "RANK", "8 where memory does not hold the training of all weights"),
    ] = None


class Lessons(Cutting, Listing, Training):
    """Text and passages to train a model on."""

    samples: Passages = None
    text: Annotated[
        tuple[str, ...],
        "Other text to train on. It may hold none of the passages: a file, a folder, "
        "hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
        Option("input", "TEXT", "a lab model's own"),
    ] = ()
    seed: Annotated[int, Field(ge=0), "Decides the order of passages and text.", Option("run")] = 0
    device: Annotated[
        str | None, "Where to train.", Option("run", "D", "a GPU if there is one")
    ] = None

    @property
    def cutting(self) -> dict[str, Any]:
        """What `evals.data.open_samples` takes."""
        return self.model_dump(include={*Cutting.model_fields, "leave_out"} - {"revision"})


HEAL_STEPS = "Steps to train for, of 16 x 128 tokens. More lower the cost further, and take longer."


class Healing(Training):
    """Training of the edited model on other text."""

    heal: Annotated[
        tuple[str, ...],
        "Also heal the edited model: train it on this text, which may hold none of the passages: "
        "a file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
        Option("edit", "TEXT", "no training", decides=False),
    ] = ()
    heal_steps: Annotated[Count, HEAL_STEPS, Option("edit")] = 80

    @model_validator(mode="after")
    def _steps_need_text(self) -> Healing:
        if not self.heal:
            self._refuse_unused("heal", "heal_steps")
        return self


TEACHING = (
    "Steps to teach for, of 24 passages and 16 x 128 tokens of text. More make it forget more "
    "surely, and take longer."
)
Hardening = Annotated[
    bool,
    "While teaching, rehearse fine-tuning on a tenth of the passages (at most 32), so that later "
    "fine-tuning brings less back. A step takes three times as long. With the same number of "
    "steps, the model loses more ability: take more of them, such as 240.",
    Option("edit"),
]


class Choosing(Measuring, Storing):
    """A model to edit in many ways, and the text to measure the edits on."""

    model: str
    samples: Annotated[str, "Passages, as for extract.", Option("input", "SAMPLES")]
    variant: Annotated[
        tuple[str, ...],
        f"What a block or head may become. {SUMMARIES}{OWN_VARIANT}.",
        Option(
            "edit",
            default="all if there is calibration text (in a sweep, if you name it), else identity "
            "and zero",
            choices=VARIANTS,
            own=OWN_PATH,
        ),
    ] = ()
    heldout: HeldoutText = ()
    calibration: CalibrationText = ()

    def list_variants(self, *, fits: bool) -> tuple[str, ...]:
        """What a block or head may become, each once. Imports those of your own. `fits`: there is
        calibration text."""
        default = [name for name, variant in VARIANTS.items() if fits or not variant.fitted]
        for name in filter(is_path, self.variant):
            load_variant(name)
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
