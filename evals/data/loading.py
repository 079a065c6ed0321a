"""Makes `Samples` from what a user names: reads, tokenizes, cuts to length, checks every row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals.data.cutting import CutPassages, cut_passages
from evals.data.held_back import deal_unlisted, take_half
from evals.data.repeats import merge_equal_rows
from evals.data.samples import Samples
from evals.data.secrets import compile_secret, cut_secrets
from evals.data.tables import Labels, PassageTable, read_arrays, read_table
from surgery.errors import SamplesError
from surgery.privacy import expand_home, make_public_name
from surgery.reading.corpus import find_opening, tokenize
from surgery.reading.sources import TABLES, find_sources
from surgery.record.manifest import LENGTH, ChosenOn

FORMS = (*TABLES, ".txt")
"""The forms of files that are read from a folder."""
EXPECTED = (
    "a folder, a file (.npy, .jsonl, .json, .csv, .tsv, .parquet, .txt), PREFIX.npy,SUFFIX.npy, "
    "hf:DATASET:SPLIT:COLUMN, or lab:NAME"
)
HUBBLE = ("gutenberg_popular", "gutenberg_unpopular", "wikipedia")
PUBLISHED = {
    "hubble": "hf:allegrolab/passages_{}:train+test:text",
    "pythia-evals": "hf:EleutherAI/pythia-memorized-evals:{}:tokens",
    "lm-extraction": "{0}/train_prefix.npy,{0}/train_suffix.npy",
}
"""Short names of published passages. docs/samples.md lists their sources and licenses."""


@dataclass(frozen=True)
class PassageSource:
    """Samples that were read, before there is a tokenizer for text.

    `prefix`, `suffix`: lengths in tokens. `skip_short`: leave shorter rows out. `leave_out`: the
    share that is not listed. `chosen`: of those listed, take only the half that this search chose
    on, if it chose on any of them. `ready`: the samples, if they hold token ids. `secret`: the
    regular expression of what must not come out, in place of a column. Where secrets are marked,
    both lengths are those of the longest to test, None for any.
    """

    source: str
    table: PassageTable
    prefix: int | None
    suffix: int | None
    skip_short: bool = False
    leave_out: float | None = None
    chosen: ChosenOn | None = None
    ready: Samples | None = None
    secret: str | None = None

    @property
    def marks_secrets(self) -> bool:
        """Whether each suffix is a secret."""
        return self.secret is not None or self.table.secrets is not None

    @property
    def is_text(self) -> bool:
        """Whether passages are text, for which a tokenizer is needed."""
        return any(isinstance(column[0], str) for column in self.table.columns)

    def measure(self, tokenizer: Any) -> list[list[int]]:
        """The length of each row's parts in tokens: of a whole one, or of prefix and suffix.

        With the opening tokens of a text.
        """
        opening = len(find_opening(tokenizer)) if self.is_text else 0
        parts = (
            [len(tokenize(tokenizer, part) if isinstance(part, str) else part) for part in row]
            for row in self.table.rows
        )
        return [[opening + first, *rest] for first, *rest in parts]

    def tokenize(self, tokenizer: Any) -> Samples:
        """Makes the samples."""
        if self.ready is not None:
            return self.ready
        table, labels = self.table, self.table.labels
        cut = self._cut(tokenizer)
        kept = cut.numbers
        counts = None if labels.count is None else np.asarray(labels.count, dtype=np.int64)[kept]
        members = None if labels.member is None else np.asarray(labels.member, dtype=bool)[kept]
        if members is None and counts is not None and (counts == 0).any():
            members = counts > 0
        samples = merge_equal_rows(
            Samples(
                tokens=cut.rows,
                prefix_length=cut.prefix,
                ids=tuple(table.ids[at] for at in kept),
                source=make_public_name(self.source),
                counts=counts,
                members=members,
                after=tuple(cut.rest),
                notes=tuple(cut.notes),
                secrets=self.marks_secrets,
            )
        )
        if samples.members is not None and not samples.members.any():
            raise SamplesError("no row is a member", where=table.where, expected="at least one")
        if self.leave_out is not None:
            samples = samples.select(~deal_unlisted(samples, self.leave_out))
        return samples if self.chosen is None else take_half(samples, self.chosen)

    def _cut(self, tokenizer: Any) -> CutPassages:
        if not self.marks_secrets:
            lengths = self.prefix or LENGTH, self.suffix or LENGTH
            return cut_passages(self.table, tokenizer, *lengths, skip_short=self.skip_short)
        pattern = compile_secret(self.secret)
        asked = self.prefix, self.suffix, pattern
        return cut_secrets(self.table, tokenizer, *asked, skip_short=self.skip_short)

    def add_others(self, taken: Samples, tokenizer: Any) -> Samples:
        """The samples with those that are not `taken`: what `tokenize` makes if all are."""
        if self.leave_out is None and self.chosen is None:
            return taken
        every = replace(self, leave_out=None, chosen=None, ready=None)
        return every.tokenize(None if self.ready is not None else tokenizer)


def open_samples(
    source: str,
    *,
    prefix_length: int | None = None,
    suffix_length: int | None = None,
    skip_short: bool = False,
    leave_out: float | None = None,
    chosen: ChosenOn | None = None,
    id_column: str | None = None,
    secret: str | None = None,
    cut: bool = True,
    labeled: bool = True,
) -> PassageSource:
    """As `load_samples`, as far as that goes without a tokenizer.

    `leave_out`: the share that is not listed (`evals.data.held_back.deal_unlisted`). `chosen`: as
    for `PassageSource`. `id_column`: the column of a table that names its rows, in place of `id`.
    `secret`: a regular expression of what must not come out, in place of a column `secret`. `cut`:
    whether rows of token ids are cut now, for which they must be long enough. `labeled`: whether
    counts and membership are read.
    """
    for name, length in (("prefix", prefix_length), ("suffix", suffix_length)):
        if length is not None and length < 1:
            raise SamplesError(f"wrong {name} length", expected="at least 1 token", got=length)
    compile_secret(secret)
    table = _read(source, id_column)
    if not labeled:
        table = replace(table, labels=Labels(id=table.labels.id))
    own_prefix, own_suffix = table.shape or (LENGTH, LENGTH)
    if secret is None and table.secrets is None:
        prefix_length, suffix_length = prefix_length or own_prefix, suffix_length or own_suffix
    passages = PassageSource(
        source,
        table,
        prefix_length,
        suffix_length,
        skip_short=skip_short,
        leave_out=leave_out,
        chosen=chosen,
        secret=secret,
    )
    if passages.is_text or not cut:
        return passages
    return replace(passages, ready=passages.tokenize(None))


def load_samples(
    source: str,
    *,
    tokenizer: Any = None,
    prefix_length: int | None = None,
    suffix_length: int | None = None,
    skip_short: bool = False,
    secret: str | None = None,
) -> Samples:
    """Loads the samples that `source` names, in any form that docs/samples.md lists.

    - `tokenizer`: a transformers tokenizer, needed for text.
    - `prefix_length`, `suffix_length`: in tokens; by default a pair's own, otherwise 32.
    - `skip_short`: leave out rows that are too short, in place of raising.
    - `secret`: a regular expression of what must not come out, in place of a column `secret`. Where
      either marks secrets, each suffix is one, after all that stands before it in its passage; the
      lengths are then those of the longest to test.

    A whole row is cut to its first tokens, a pair to those beside its seam. A prefix of text begins
    with the special tokens that the tokenizer puts before text, such as <bos>; token ids stay as
    they are. Equal rows become one, with their counts added. `notes` lists them, and
    also: pairs of texts that tokenize differently where they meet (left out), texts whose cut
    tokenizes differently on its own (kept), and overlapping rows (kept).
    """
    return open_samples(
        source,
        prefix_length=prefix_length,
        suffix_length=suffix_length,
        skip_short=skip_short,
        secret=secret,
    ).tokenize(tokenizer)


def _read(source: str, id_column: str | None) -> PassageTable:
    if source.startswith("lab:"):
        from evals.lab import samples_path

        source = str(samples_path(source.removeprefix("lab:")))
    source = find_published(source)
    if source.endswith(".npy"):
        if id_column is not None:
            raise SamplesError("has no columns to name rows by", where=source, got=id_column)
        paths = [expand_home(source)]
        if not paths[0].exists():
            paths = [expand_home(part) for part in source.split(",")]
        if len(paths) > 2:
            raise SamplesError("malformed", where=source, expected="PREFIX.npy,SUFFIX.npy")
        for path in paths:
            find_sources(path)
        return read_arrays(paths)
    sources = find_sources(source, FORMS)
    if not all(found.is_table or found.form in FORMS for found in sources):
        raise SamplesError("unknown form of samples", where=source, expected=EXPECTED)
    return read_table(source, sources, id_column)


def find_published(source: str) -> str:
    """The full name of the samples that a short name stands for. Other names stay as they are."""
    kind, colon, rest = source.partition(":")
    if kind not in PUBLISHED or not colon:
        return source
    if not rest or (kind == "hubble" and rest not in HUBBLE):
        expected = "hubble:SUBSET, pythia-evals:SPLIT, or lm-extraction:FOLDER"
        if kind == "hubble":
            expected = ", ".join(f"hubble:{name}" for name in HUBBLE)
        raise SamplesError("no such samples", where=source, expected=expected)
    return PUBLISHED[kind].format(rest)
