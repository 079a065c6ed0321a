"""`surgery.json`: what was done, to which model, and the SHA-256 of every resulting file."""

from __future__ import annotations

import hashlib
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

from surgery.checkpoint.source import CARD, CODE_OR_WEIGHTS, MANIFEST
from surgery.errors import ManifestError, SurgeryError
from surgery.families import family_of
from surgery.layouts.one_hot import OneHot
from surgery.selection import Part, blocks_of, checked, one_name, variant_name, variants_by_head
from surgery.untrusted import guard, parse_json, read_bytes
from surgery.variants import Kind, recall_variant, variant_of

SCHEMA: Literal[1] = 1
REPORTS = ("report.json", "report.html", "report.md")
RECIPE = "recipe.yaml"
UNLISTED = (
    *(MANIFEST, CARD, RECIPE, *REPORTS),
    *("lm_eval/*/results_*.json", "lm_eval/*/samples_*.jsonl"),
)
"""Patterns of unlisted files that a folder may hold: the card and an evaluation."""
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
    *("numpy", "ml-dtypes", "safetensors", "torch", "transformers", "huggingface-hub"),
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
    commit; None for a folder. `content`: `surgery.checkpoint.content.hash_content`; None if it was
    not recorded.
    """

    model: str
    revision: str | None = None
    commit: str | None = None
    content: Sha256 | None = None

    @property
    def hub_id(self) -> str | None:
        """The Hub id; None for a folder, an embedded model, and an invalid id."""
        named = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.model, re.ASCII)
        return self.model if self.commit is not None and named else None


class Changed(Record):
    """Tensors that differ from the source. All others are byte-identical."""

    rewritten: list[str] = []
    added: list[str] = []
    dropped: list[str] = []


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
    """How many of the passages of a training a model recites in the end, and its teacher."""

    passages: int = Field(ge=1)
    recited: int = Field(ge=0)
    by_teacher: int = Field(ge=0)


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
    """The training that followed the cut.

    `loss`: "kl" is the divergence from the source's predictions on the text; with `passages`, also
    from the cut's own on these. Earlier versions took "text", the next-token loss, and recorded
    only the SHA-256 of the passages that they had looked for in the text.
    """

    passages: PassagesRecord | Sha256 | None = None
    loss: Literal["text", "kl"] = "text"


class ErasingRecord(TrainingRecord):
    """The training that came before any cut, with a cut of the same model as the teacher.

    `teacher`: the parts of that cut; `calibration`: the text that its variants were fitted on.
    `passages`: what the student learned from it. `hardened`: also where fine-tuning on some of them
    would lead.
    """

    teacher: list[Part] = Field(min_length=1)
    calibration: CalibrationRecord | None = None
    passages: PassagesRecord
    hardened: bool = False


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


class Choice(Record):
    """The passages and the half of the held-out text on which a search chose an edit.

    `passages`, `windows`: SHA-256 of their tokens; `seed`: decides which rows they are; `share`: of
    the passages.
    `met`: whether the edit kept the search's limits there. If none did, it came nearest.
    """

    seed: int
    passages: Sha256
    windows: Sha256
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    met: bool = True


class OwnVariant(Record):
    """A variant that does not come with attn-surgery: enough to plan it without its code."""

    kind: Kind
    fitted: bool


class Edit(EditedModel):
    """One edit of a model: a cut, training before it (`erasing`) or after it (`healing`), or both.

    `parts`: what is cut; empty if the model is only taught. `layout`: adapter: what it was taught
    stands beside the weights of the source, which the folder does not hold. `chosen`: what a search
    chose it on.
    `job`: names the `mitigate` that made it, which may replace it while it is not done. `one_hot`:
    constants of the stock layout; `scrubbed`: whether what the edit made useless became zero, which
    earlier versions did not do; `max_shard_size`: bytes of a weight file, if limited.
    """

    parts: list[Part]
    own_variants: dict[Word, OwnVariant] = {}
    layout: Literal["stock", "compact", "adapter"]
    one_hot: OneHot | None = None
    scrubbed: bool = False
    calibration: CalibrationRecord | None = None
    erasing: ErasingRecord | None = None
    healing: HealingRecord | None = None
    chosen: Choice | None = None
    job: Sha256 | None = None
    max_shard_size: int | None = Field(default=None, ge=1)
    changed: Changed
    versions: dict[str, str]

    @model_validator(mode="after")
    def _of_the_model(self) -> Edit:
        """Checks that parts are ascending, of known variants, and within the model.

        Those of the teacher, too.
        """
        if self.is_adapter and (
            self.parts or self.healing or not (self.erasing and self.erasing.rank)
        ):
            raise ValueError(
                "an adapter holds what was learned in erasing with adapters, and no cut"
            )
        if self.parts or self.erasing is None:
            self._check_parts(self.parts)
        if self.erasing is not None:
            self._check_parts(self.erasing.teacher)
        return self

    def _check_parts(self, parts: list[Part]) -> None:
        try:
            if list(checked(parts, self.num_blocks, self.num_heads)) != parts:
                raise ValueError("parts and heads are not ascending")
            for name, one in self.own_variants.items():
                recall_variant(name, one.kind, fitted=one.fitted)
            for part in parts:
                variant_of(part.variant)
        except SurgeryError as error:
            raise ValueError(str(error)) from None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter in place of a model."""
        return self.layout == "adapter"

    @property
    def is_trained(self) -> bool:
        """Whether weights that the cut does not set were trained."""
        return self.erasing is not None or self.healing is not None

    @property
    def taught_by_choice(self) -> bool:
        """Whether training took the passages on which a search chose the edit, and no others."""
        trained = (one.passages for one in (self.erasing, self.healing) if one is not None)
        hashes = {one.sha256 for one in trained if isinstance(one, PassagesRecord)}
        return self.chosen is not None and self.chosen.passages in hashes

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that were edited, wholly or partly, ascending."""
        return blocks_of(self.parts)

    @property
    def variant(self) -> str:
        """The name of the one variant, or "mixed"."""
        return variant_name(self.parts)


class FileRecord(Record):
    """A file of the folder: bytes and SHA-256, hexadecimal."""

    size: int = Field(ge=0)
    sha256: Sha256


class Manifest(Record):
    """The whole record. `edit` is the latest; `history` holds earlier ones, oldest first.

    `reports`: the SHA-256 of each file of an evaluation (`REPORTS`) beside the model, which is
    written later than the rest.
    """

    schema_version: Literal[1] = SCHEMA
    edit: Edit
    history: list[Edit] = []
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

    @property
    def content(self) -> str:
        """What `surgery.checkpoint.content.hash_content` gives for the folder."""
        lines = (
            f"{file.sha256} {file.size} {name}\n"
            for name, file in self.files.items()
            if name == "config.json" or name.endswith(".safetensors")
        )
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    @property
    def sources(self) -> list[Source]:
        """The sources of all edits, that of the latest first."""
        return [edit.source for edit in (self.edit, *reversed(self.history))]

    @property
    def edited_heads(self) -> dict[int, dict[int, str]]:
        """Block → head → variant, over all edits."""
        return list_edited_heads([*self.history, self.edit])

    @property
    def attention_free(self) -> dict[int, str]:
        """Block without any attention → its variant or "mixed", over all edits."""
        edited, all_heads = self.edited_heads, self.edit.num_heads
        return {b: one_name(h.values()) for b, h in edited.items() if len(h) == all_heads}

    @property
    def healing(self) -> HealingRecord | None:
        """The last training after any edit."""
        edits = (self.edit, *reversed(self.history))
        return next((edit.healing for edit in edits if edit.healing), None)

    @property
    def is_healed(self) -> bool:
        """Whether weights were trained after any edit."""
        return self.healing is not None

    @property
    def is_erased(self) -> bool:
        """Whether passages were erased before any edit."""
        return any(edit.erasing for edit in (self.edit, *self.history))

    @property
    def is_trained(self) -> bool:
        """Whether weights were trained, before or after any edit."""
        return self.is_erased or self.is_healed

    def accounts_for(self, name: str) -> bool:
        """Whether the folder may hold this file: recorded, `UNLISTED`, or a client's notes."""
        notes = (".gitattributes", ".git/*", ".cache/huggingface/*")
        loads = PurePosixPath(name).suffix in CODE_OR_WEIGHTS
        patterns = UNLISTED if loads else (*UNLISTED, *notes)
        return name in self.files or any(fnmatchcase(name, pattern) for pattern in patterns)


def list_edited_heads(edits: Iterable[Edit]) -> dict[int, dict[int, str]]:
    """Returns block → head → variant, ascending."""
    return variants_by_head(part for edit in edits for part in edit.parts)


def read_manifest(folder: Path) -> Manifest | None:
    """Reads the manifest of a folder; None if there is none."""
    path = folder / MANIFEST
    return parse_manifest(read_bytes(path, ManifestError), path) if path.exists() else None


def parse_manifest(text: bytes, where: object) -> Manifest:
    """Parses the content of a manifest. `where`: for messages."""
    with guard(ManifestError, "is not valid", where):
        data = parse_json(text)
        schema = data.get("schema_version") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise ManifestError(
                "has another schema",
                where=where,
                expected=f"schema_version {SCHEMA}",
                got=schema,
                fix="use the version of attn-surgery that wrote it",
            )
        return Manifest.model_validate_json(text, strict=True)


def list_versions() -> dict[str, str]:
    """Returns versions that could affect a result: this tool, Python, and libraries."""
    found = {}
    for name in ("attn-surgery", "python", *_LIBRARIES):
        with suppress(PackageNotFoundError):
            found[name] = platform.python_version() if name == "python" else version(name)
    return found
