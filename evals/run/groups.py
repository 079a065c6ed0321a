"""Groups of fields that requests have in common: passages, text, a cut, a training, a run.

Those of attacks stand in `evals.measure.attacks.request`, those of tasks in
`evals.run.lm_eval.request`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evals.run.keep import Store, find_cache, hash_program, keep
from evals.run.request import Group, Option, Use
from surgery.plan import LayoutChoice
from surgery.record.manifest import LENGTH, list_versions
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.variants import SUMMARIES, VARIANTS


def _split_names(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given or ()
    names = [name.strip() for text in texts for name in str(text).split(",")]
    if not all(names):
        raise ValueError("a name is empty")
    return tuple(dict.fromkeys(names))


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
"""Names, each once. Text may hold several of them, separated by commas."""
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
TEXT_FORMS = "a file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's"
"""Options that several requests have on their own."""
Revision = Annotated[
    str | None, "Branch, tag, or commit of a Hub model, such as step143000.", Option("input", "R")
]
CalibrationText = Annotated[
    tuple[str, ...],
    f"Text to fit mean and linear on: {TEXT_FORMS}.",
    Option("input", "FILE", "a lab model's own"),
]
Variants = Annotated[
    tuple[str, ...],
    f"What a block or head may become. {SUMMARIES}.",
    Option(
        "edit",
        default="all if there is calibration text (in a sweep, if you name it), else identity and "
        "zero",
        choices=VARIANTS,
    ),
]
Layout = Annotated[
    LayoutChoice,
    "How an edit is stored, which a search asks of all that it measures. stock: loads in the "
    "library's own class. compact: smaller and without a key/value cache for these blocks, but "
    "needs its modeling file. auto: stock if it can hold the variant exactly.",
    Option("edit"),
]
Seed = Annotated[
    int,
    Field(ge=0),
    "Decides what is drawn: which passages and windows are held back, in which order training "
    "takes them, and which tokens a text gets.",
    Option("measure"),
]
PrefixLength = Annotated[
    Count | None,
    "Tokens of a passage that the model is given.",
    Option("input", default=f"{LENGTH}, or those of a pair of .npy files"),
]
SuffixLength = Annotated[
    Count | None,
    "Tokens that the model must complete.",
    Option("input", default=f"{LENGTH}, or those of a pair of .npy files"),
]
ShowText = Annotated[
    bool, "Also show or write the text of passages. Results hold none otherwise.", Option("output")
]
Hardening = Annotated[
    bool,
    "While teaching, rehearse fine-tuning on a tenth of the passages (at most 32), and learn "
    "nothing along the directions that most passages share, so that later fine-tuning brings less "
    "back. The model loses more of its skill at text of the same "
    "form as the passages.",
    Option("edit"),
]
Never = Annotated[
    str | None,
    "Records of the passages' form that no model was trained on, and that MODEL must keep writing, "
    "in a form of `samples`. Training keeps what MODEL predicts on half of them, whose content "
    "decides. The other half is never trained on: it shows the cost in form, by how much the loss "
    "on it rises.",
    Option("input", "SAMPLES"),
]


class Passages(Group):
    """Passages, how to cut them, and which of them are listed. Lengths are in tokens."""

    samples: Annotated[
        str | None,
        "Passages that must not come out. The help of extract lists the forms.",
        Option("input", "SAMPLES", "a lab model's own"),
    ] = None
    prefix_length: PrefixLength = None
    suffix_length: SuffixLength = None
    secret: Annotated[
        str | None,
        "What must not come out: a regular expression that finds it in each passage, or its first "
        "group does, such as 'account ([0-9]+)'. The first match is the suffix, and all that "
        "stands before it in its passage the prefix; lengths are then those of the longest. Do "
        "not write a secret itself: config.yaml repeats the expression.",
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
    leave_out: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        "Treat this share of the passages as not listed: searches and training do not see them, "
        "and reports show separately what becomes of them. With the same samples and lengths, "
        "every command leaves out the same passages.",
        Option("input", default="none"),
    ] = None

    @property
    def cutting(self) -> dict[str, Any]:
        """What `evals.data.open_samples` takes, beside the passages and what is left out."""
        return self.model_dump(exclude={"samples", "leave_out"})


class Texts(Group):
    """Text to measure on, and to fit on."""

    heldout: Annotated[
        tuple[Path, ...],
        "Held-out text, which no model was trained on: it shows what an edit costs. "
        f"{TEXT_FORMS[0].upper()}{TEXT_FORMS[1:]}.",
        Option("input", default="a lab model's own", old=("corpus", "control")),
    ] = ()
    calibration: CalibrationText = ()


class Run(Group):
    """How to run models, and whether finished work is kept."""

    device: Annotated[
        str | None,
        "Where to run: cpu, cuda, cuda:1, …; or all, to spread a model that is too large for one "
        "device over all of them.",
        Option("run", "D", "a GPU if there is one"),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "Number format to compute in. auto: as stored, but float32 where a CPU has no arithmetic "
        "for it.",
        Option("run"),
    ] = "auto"
    batch_size: Annotated[
        Count | None,
        "Rows at a time.",
        Option("run", default="chosen to fit memory", decides=True),
    ] = None
    no_cache: Annotated[
        bool,
        "Compute everything again, and keep nothing of it for later runs.",
        Option("run"),
    ] = False

    @property
    def placing(self) -> dict[str, Any]:
        """The device, or how a model is spread, as `transformers` takes it."""
        spread = self.device == "all"
        return {"device": None if spread else self.device, "device_map": "auto" if spread else None}

    @property
    def running(self) -> dict[str, Any]:
        """What `evals.run.models.open_model` takes."""
        return {"dtype": self.dtype, **self.placing}

    @property
    def store(self) -> Store:
        """What is kept of this program's work, with the versions of all that computes. After an
        interruption, the same command goes on from there."""
        folder = None if self.no_cache else find_cache()
        return keep(folder, list_tool_versions(), hash_program())


ON_DEVICE = Use(without=("dtype", "batch_size", "no_cache"))
"""Of `Run`, what a step takes."""


@cache
def list_tool_versions() -> dict[str, str]:
    """The versions of all that measures."""
    return list_versions() | {name: version(name) for name in ("lm-eval", "datasets", "matplotlib")}


class Folders(Group):
    """What a step takes and makes: one folder from the folder of `model`.

    `overwrite` replaces another result. The same one is left as it is.
    """

    model: str
    revision: Revision = None
    output: Annotated[
        Path | None,
        "Folder to create.",
        Option("output", "DIR", "NAME-VARIANT-BLOCKS, NAME-erased, or NAME-healed"),
    ] = None
    overwrite: bool = False


class Cut(Group):
    """A cut of a model, which is written, or which teaches."""

    drop_attn: Annotated[
        str | None,
        "Blocks to make attention-free, such as 20-23, 20,22, last:4, or -1, or single heads "
        "of a block, such as 6.0 or 7.1-3.",
        Option("edit", "SPEC"),
    ] = None
    plan: Annotated[
        Path | PlanFile | None,
        "Take blocks, heads, and variants of the cut from a file that `search` wrote. Training "
        "then takes only the passages that the search chose on, so that the others can test it.",
        Option("edit"),
    ] = None
    variant: Annotated[
        str | None,
        f"What a block or head becomes. {SUMMARIES}.",
        Option("edit", default="identity", choices=VARIANTS),
    ] = None
    calibration: CalibrationText = ()

    @model_validator(mode="after")
    def _one_cut(self) -> Cut:
        if self.drop_attn is not None and self.plan is not None:
            raise ValueError("give `drop_attn` or `plan`, not both")
        if self.variant is not None and self.plan is not None:
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
        return self

    def read_edit(self) -> str | PlanFile | None:
        """Returns the cut. Raises `SurgeryError` for a plan that cannot be read."""
        if isinstance(self.plan, Path):
            return read_plan_file(self.plan)
        return self.plan or self.drop_attn


class Training(Group):
    """A training: on which text, how long, and of what."""

    text: Annotated[
        tuple[str, ...],
        f"Other text to train on. It may hold none of the passages: {TEXT_FORMS}.",
        Option("input", "TEXT", "a lab model's own", decides=False),
    ] = ()
    steps: Annotated[
        Count | None,
        "Steps to train for, of 16 x 128 tokens, and to erase also of 24 passages.",
        Option("edit", default="60 to erase, 80 to heal", decides=True),
    ] = None
    adapters: Annotated[
        Count | None,
        "Train low-rank adapters of this rank in place of all weights, and merge them in the end. "
        "This needs far less memory.",
        Option("edit", "RANK", "all weights"),
    ] = None


ERASE_STEPS, HEAL_STEPS = 60, 80
"""Steps of a training that gives none."""


def list_variants(named: tuple[str, ...], *, fits: bool) -> tuple[str, ...]:
    """What a block or head may become, each once. `fits`: there is
    calibration text."""
    default = [name for name, variant in VARIANTS.items() if fits or not variant.fitted]
    return tuple(dict.fromkeys(named or default))
