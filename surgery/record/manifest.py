"""`surgery.json`: what was done, to which model, and the SHA-256 of every resulting file."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from surgery.checkpoint import CARD, CODE_OR_WEIGHTS, MANIFEST
from surgery.errors import ManifestError, SurgeryError
from surgery.families import family_of
from surgery.onehot import OneHot
from surgery.selection import (
    EditedHeads,
    blocks_of,
    checked,
    name_blocks,
    one_name,
    variant_name,
    variants_by_head,
)
from surgery.untrusted import parse_json, read_bytes, reraise_as
from surgery.variants import variant_of

SCHEMA: Literal[7] = 7
REPORTS = ("report.json", "report.html", "report.md")
RECIPE = "recipe.yaml"
UNLISTED = (
    *(MANIFEST, CARD, RECIPE, *REPORTS),
    *("lm_eval/*/results_*.json", "lm_eval/*/samples_*.jsonl"),
)
"""Patterns of unlisted files that a folder may hold: the card and an evaluation."""
ADDED = (
    *("*.sig", "*.asc", ".eval_results/*.yaml"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg"),
)
"""Patterns, in lower case, of what people and the Hub add beside a model, and no loader reads:
signatures, results, and pictures. No check reads them either, so `verify` lists them as claimed.
Code, weights, configuration, and files of a tokenizer have other names, and are refused."""
_NOTES = (".gitattributes", ".git/*", ".cache/huggingface/*", ".staging.attn-surgery-*")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A hash, hexadecimal."""
Word = Annotated[str, Field(pattern="^[!-~]{1,200}$")]
"""A name without blanks."""
LONGEST = 200
Line = Annotated[str, Field(pattern=rf"^[^\x00-\x1f\x7f\u2028\u2029]{{1,{LONGEST}}}$")]
"""A name, or a few words, in one line."""


def is_word(text: str) -> bool:
    """Whether it is a `Word`, in which no sentence can stand."""
    return re.fullmatch("[!-~]{1,200}", text) is not None


_FILE_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")
_LIBRARIES = (
    *("numpy", "safetensors", "torch", "transformers", "huggingface-hub"),
    *("accelerate", "bitsandbytes", "peft"),
)


class Record(BaseModel):
    """A strictly checked, immutable part of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


class Source(Record):
    """Where the edited model came from.

    `model` is a Hub id, `lab:NAME`, or the name of a folder, never its path. `commit`: the Hub's
    commit; None for a folder. `content`: `surgery.checkpoint.hash_content`; None if it was
    not recorded.
    """

    model: str
    revision: str | None = None
    commit: Word | None = None
    content: Sha256 | None = None

    @property
    def hub_id(self) -> str | None:
        """The Hub id; None for a folder, an embedded model, and an invalid id."""
        named = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.model, re.ASCII)
        return self.model if self.commit is not None and named else None


class TextSource(Record):
    """Where calibration text came from.

    `size`: bytes of the file. `sha256`: the hash of the text that was read from it, or, in records
    without a size, of the whole file. Both are None if it was not a file.
    """

    name: str
    size: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None

    def __str__(self) -> str:
        known = [] if self.size is None else [f"{self.size:,} bytes"]
        known += [] if self.sha256 is None else [f"text read of SHA-256 {self.sha256[:12]}"]
        return f"{self.name} ({', '.join(known)})" if known else self.name


class BlockFit(Record):
    """How well a token alone predicts a block's context vectors (see `Fit`).

    None if only the mean was taken; `r2_shared` also where no heads share keys and values.
    """

    ridge: float | None = Field(ge=0)
    r2: float | None = Field(le=1)
    r2_shared: float | None = Field(default=None, le=1)


class TextRecord(Record):
    """Text that something was fitted to or trained on.

    `tokens` were read in windows of `window`. `sha256` is the hash of their ids (int32,
    little-endian).
    `spread`: they come from all over large files; earlier versions read from their start.
    """

    sources: list[TextSource]
    spread: bool = False
    tokens: int = Field(ge=1)
    window: int = Field(ge=1)
    sha256: Sha256


class CalibrationRecord(TextRecord):
    """The text that variants were fitted on, and how well each block fits."""

    blocks: dict[int, BlockFit] = {}


class Look(Record):
    """What a model recited before the next step of its training: so many of these passages."""

    step: int = Field(ge=1)
    passages: int = Field(ge=1)
    recited: int = Field(ge=0)


class Recital(Record):
    """How many passages of a training a model recites in the end, and its teacher, if any."""

    passages: int = Field(ge=1)
    recited: int = Field(ge=0)
    by_teacher: int | None = Field(ge=0)


class TrainingRecord(TextRecord):
    """Training on text: `steps` of `rows` windows in an order drawn with `seed`.

    The last digits depend on `device`, `threads`, and more on `dtype`, that of forward passes, such
    as "bfloat16"; None: by 0.3.0 or earlier. `losses`: before each step, in nats per token; no such
    loss is below 0, but for rounding.
    `rank`: of the low-rank adapters that were trained; 0: all weights were.
    `looks`: what some of the passages still gave meanwhile; the weights are those of the best look.
    `recital`: what all of them give in the end, greedily. `kept`: the share of the update that the
    dtype of the weights keeps. All three: None or empty of 0.3.0 or earlier, and without passages.
    """

    steps: int = Field(ge=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    seed: int = Field(ge=0)
    rank: int = Field(default=0, ge=0)
    device: Word
    dtype: Word | None = None
    threads: int = Field(ge=1)
    losses: list[Annotated[float, Field(ge=-0.001)]]
    looks: list[Look] = []
    recital: Recital | None = None
    kept: float | None = None

    @model_validator(mode="after")
    def _of_each_step(self) -> TrainingRecord:
        if len(self.losses) != self.steps:
            raise ValueError("it does not hold one loss for each step")
        return self


LENGTH = 32
"""Tokens of a prefix, and of a suffix, unless they are asked for: those of the memorization test of
the Pythia models (Biderman et al. 2023)."""


TOKEN_IDS = "token ids"
"""The name of passages that were given in Python: no file holds them."""


class PassagesRecord(Record):
    """Passages that a model was trained on: `number` of them, `rows` in each step.

    `name`: of their file, what else names them, or `TOKEN_IDS`. `sha256`: of their tokens.
    `leave_out`: the share of the passages there that was not listed, and so is not among them.
    """

    name: Line
    sha256: Sha256
    number: int = Field(ge=1)
    prefix_length: int = Field(ge=1)
    suffix_length: int = Field(ge=1)
    rows: int = Field(ge=1)
    leave_out: float | None = Field(default=None, gt=0, lt=1)


class HealingRecord(TrainingRecord):
    """The training of a cut on other text.

    `teacher`: the model whose predictions were learned there. `loss`: "kl" is the divergence from
    these predictions; with `passages`, also from the model's own on the passages. Earlier versions
    took "text", the next-token loss, and recorded only the SHA-256 of the passages that they had
    looked for in the text.
    """

    teacher: Source | None = None
    passages: PassagesRecord | Sha256 | None = None
    loss: Literal["text", "kl"] = "text"


class ShortContext(Record):
    """A teacher: the model itself, which sees only so many tokens before each one."""

    context: int = Field(ge=1)


Teacher = Annotated[list[EditedHeads], Field(min_length=1)] | Source | ShortContext
"""What teaches a model to forget: the parts of its cut, another model, or itself with a short
context."""


class NeverRecord(Record):
    """Records of the passages' form that no model was trained on.

    `kept`: those on which the training kept the model's predictions. `tested`: how many others
    there were; `rise`: of the loss on these, in nats per token; None if it is not finite.
    """

    kept: PassagesRecord
    tested: int = Field(ge=1)
    rise: float | None


class ErasingRecord(TrainingRecord):
    """The training that makes a model forget passages.

    `calibration`: the text that the variants of a cut that taught were fitted on. `passages`: those
    to forget; `never`: others of their form. `hardened`: also where fine-tuning on some of the
    passages would lead, without the directions that they share; True: in an earlier version, with
    these.
    """

    teacher: Teacher
    calibration: CalibrationRecord | None = None
    passages: PassagesRecord
    never: NeverRecord | None = None
    hardened: Literal["selective"] | bool = False

    @property
    def cut_parts(self) -> list[EditedHeads]:
        """What was cut in the teacher; empty for one that is no cut."""
        return self.teacher if isinstance(self.teacher, list) else []

    def name_teacher(self, num_heads: int) -> str:
        """What taught, after "by". `num_heads`: of a block."""
        if isinstance(self.teacher, Source):
            return f"the model {self.teacher.model}"
        if isinstance(self.teacher, ShortContext):
            few = self.teacher.context
            return f"the model itself with a context of {few:,} token{'s' if few > 1 else ''}"
        return f"the cut of {name_blocks(self.teacher, num_heads)}"


class EditedModel(Record):
    """The model that was edited, or that an edit is planned for."""

    source: Source
    family: str
    num_blocks: int
    num_heads: int

    @staticmethod
    def of(source: Source, config: dict[str, Any]) -> EditedModel:
        """Makes the record from a model's source and configuration."""
        family = family_of(config)
        size = family.dimensions(config)
        return EditedModel(
            source=source,
            family=family.model_type,
            num_blocks=size.num_blocks,
            num_heads=size.num_heads,
        )

    def __str__(self) -> str:
        content = "" if self.source.content is None else f", content {self.source.content[:12]}"
        size = f"{self.num_blocks} blocks of {self.num_heads} heads"
        return f"{self.source.model}: {self.family}, {size}{content}"


class ChosenOn(Record):
    """The passages and the half of the held-out text on which a search chose an edit.

    `passages`, `windows`: SHA-256 of their tokens; `seed`: decides which rows they are; `share`: of
    the passages. `documents`: task with a limit → SHA-256 of lm-eval's hashes of the documents that
    chose, every other one.
    `met`: whether the edit kept the search's limits there. If none did, it came nearest.
    """

    seed: int
    passages: Sha256
    windows: Sha256
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    documents: dict[Word, Sha256] = {}
    met: bool = True


class Step(EditedModel):
    """One step of a model's history: it made a folder from the folder of `source`.

    A step is a cut (`parts`), or the training that `erasing` or `healing` records. `layout`: how
    the result is stored; adapter: what was learned stands beside the weights of the source, which
    the folder does not hold. `chosen`: what a search chose the cut on, or the cut that taught.
    `one_hot`: constants of the stock layout.
    """

    parts: list[EditedHeads] = []
    layout: Literal["stock", "compact", "adapter"]
    one_hot: OneHot | None = None
    calibration: CalibrationRecord | None = None
    erasing: ErasingRecord | None = None
    healing: HealingRecord | None = None
    chosen: ChosenOn | None = None
    versions: dict[str, str]

    @model_validator(mode="after")
    def _is_one_step(self) -> Step:
        """Checks that it does one thing, and that parts are ascending, of known variants, and
        within the model; those of a teacher, too."""
        if sum(map(bool, (self.parts, self.erasing, self.healing))) != 1:
            raise ValueError("a step is a cut, an erasing, or a healing")
        if self.is_adapter and not (self.erasing and self.erasing.rank):
            raise ValueError(
                "an adapter holds what was learned in erasing with adapters, and no cut"
            )
        try:
            parts = self.cut_parts
            if parts and list(checked(parts, self.num_blocks, self.num_heads)) != parts:
                raise ValueError("parts and heads are not ascending")
            for part in parts:
                variant_of(part.variant)
        except SurgeryError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def kind(self) -> Literal["cut", "erase", "heal"]:
        if self.erasing is not None:
            return "erase"
        return "cut" if self.healing is None else "heal"

    @property
    def training(self) -> ErasingRecord | HealingRecord | None:
        """The record of a training; None of a cut."""
        return self.erasing or self.healing

    @property
    def cut_parts(self) -> list[EditedHeads]:
        """What was cut, in the model or in its teacher; empty where nothing was."""
        return self.erasing.cut_parts if self.erasing is not None else self.parts

    @property
    def fitted_on(self) -> CalibrationRecord | None:
        """The text that the cut was fitted on, in the model or in its teacher."""
        return self.erasing.calibration if self.erasing is not None else self.calibration

    @property
    def passages(self) -> PassagesRecord | None:
        """The passages that a training took; None without any, or where earlier versions recorded
        only their hash."""
        taught = None if self.training is None else self.training.passages
        return taught if isinstance(taught, PassagesRecord) else None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter in place of a model."""
        return self.layout == "adapter"

    @property
    def taught_by_choice(self) -> bool:
        """Whether training took the passages on which a search chose the cut, and no others."""
        if self.chosen is None or self.passages is None:
            return False
        return self.chosen.passages == self.passages.sha256

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that were cut, wholly or partly, ascending."""
        return blocks_of(self.parts)

    @property
    def variant(self) -> str:
        """The name of the one variant, or "mixed"."""
        return variant_name(self.parts)


class History(Record):
    """The steps that made a model, oldest first."""

    history: list[Step] = Field(min_length=1)

    @model_validator(mode="after")
    def _cuts_a_head_once(self) -> History:
        heads = [(part.block, head) for part in self.parts for head in part.heads]
        if len(heads) > len(set(heads)):
            raise ValueError("a head is cut twice")
        return self

    @property
    def step(self) -> Step:
        """The latest."""
        return self.history[-1]

    @property
    def sources(self) -> list[Source]:
        """The sources of all steps, that of the latest first."""
        return [step.source for step in reversed(self.history)]

    @property
    def edited_heads(self) -> dict[int, dict[int, str]]:
        """Block → head → variant, over all steps."""
        return list_edited_heads(self.history)

    @property
    def attention_free(self) -> dict[int, str]:
        """Block without any attention → its variant or "mixed", over all steps."""
        edited, all_heads = self.edited_heads, self.step.num_heads
        return {b: one_name(h.values()) for b, h in edited.items() if len(h) == all_heads}

    @property
    def parts(self) -> list[EditedHeads]:
        """What was cut in any step."""
        return [part for step in self.history for part in step.parts]

    @property
    def erasings(self) -> list[ErasingRecord]:
        return [step.erasing for step in self.history if step.erasing]

    @property
    def healings(self) -> list[HealingRecord]:
        return [step.healing for step in self.history if step.healing]

    @property
    def is_trained(self) -> bool:
        """Whether weights that no cut sets were trained in any step."""
        return any(step.training for step in self.history)

    @property
    def chosen(self) -> ChosenOn | None:
        """What a search chose the latest cut on, or the latest cut that taught."""
        return next((step.chosen for step in reversed(self.history) if step.chosen), None)

    @property
    def missed_alone(self) -> bool:
        """Whether its search missed its limits, and nothing but the cut was to make it forget.

        A search says nothing of a model that was taught first.
        """
        return self.chosen is not None and not self.chosen.met and not self.erasings


class FileRecord(Record):
    """A file of the folder: bytes and SHA-256, hexadecimal."""

    size: int = Field(ge=0)
    sha256: Sha256


class Manifest(History):
    """The whole record of a folder.

    `content`: `surgery.checkpoint.hash_content` of the folder. `reports`: the SHA-256 of
    each file of an evaluation (`REPORTS`) beside the model, which is written later than the rest.
    """

    schema_version: Literal[7] = SCHEMA
    content: Sha256
    files: dict[str, FileRecord]
    reports: dict[str, Sha256] = {}

    @field_validator("files")
    @classmethod
    def _within_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            path = PurePosixPath(name)
            outside = path.is_absolute() or ".." in path.parts or not path.name
            if str(path) != name or outside or not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not a file of the folder")
        return files

    @field_validator("reports")
    @classmethod
    def _of_an_evaluation(cls, reports: dict[str, str]) -> dict[str, str]:
        if not reports.keys() <= {*REPORTS}:
            raise ValueError(f"not files of a report: {', '.join(reports)[:60]!r}")
        return reports

    def accounts_for(self, name: str) -> bool:
        """Whether the folder may hold this file: recorded, `UNLISTED`, added, a client's notes, or
        what a killed evaluation left."""
        loads = PurePosixPath(name).suffix in CODE_OR_WEIGHTS
        patterns = UNLISTED if loads else (*UNLISTED, *_NOTES)
        return name in self.files or _fits(name, patterns) or is_added(name)


def is_added(name: str) -> bool:
    """Whether a file of this name is one that people and the Hub add beside a model (`ADDED`)."""
    return _fits(name.lower(), ADDED) and not _fits(name, _NOTES)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def list_edited_heads(steps: Iterable[Step]) -> dict[int, dict[int, str]]:
    """Returns block → head → variant, ascending."""
    return variants_by_head(part for step in steps for part in step.parts)


def read_manifest(folder: Path) -> Manifest | None:
    """Reads the manifest of a folder; None if there is none."""
    path = folder / MANIFEST
    return parse_manifest(read_bytes(path, ManifestError), path) if path.exists() else None


def parse_manifest(text: bytes, where: object) -> Manifest:
    """Parses the content of a manifest. `where`: for messages."""
    with reraise_as(ManifestError, "is not valid", where):
        data = parse_json(text)
        schema = data.get("schema_version") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise ManifestError(
                "has another schema",
                where=where,
                expected=f"schema_version {SCHEMA}",
                got=schema,
                fix="attn-surgery 0.4.0 reads schema 2, and 0.3.0 schema 1",
            )
        return Manifest.model_validate_json(text, strict=True)


def list_versions() -> dict[str, str]:
    """Returns versions that could affect a result: this tool, Python, and libraries."""
    found = {}
    for name in ("attn-surgery", "python", *_LIBRARIES):
        with suppress(PackageNotFoundError):
            found[name] = platform.python_version() if name == "python" else version(name)
    return found
