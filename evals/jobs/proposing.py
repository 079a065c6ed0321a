"""A first configuration: looks at a model and at passages, and proposes what fits them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from evals.run.request import CalibrationText, Cutting, Fraction, HeldoutText, Option
from surgery.errors import SamplesError
from surgery.output import check_output, recognize_mark, write_text
from surgery.record.manifest import LENGTH

if TYPE_CHECKING:
    from evals.data import Passages

PROPOSED = recognize_mark("a proposal", b"# What `attn-surgery mitigate` should do.")
_FEWEST = 4
SOUND = 16
"""From so many tokens of prefix and suffix on, a test says something: fewer are easily guessed."""
_FITTING = 0.9
"""The share of passages that a proposed length fits at least."""
_LOOKED_AT = 50
"""Rows by which columns are told apart."""
_ID = re.compile(r"(?i:(^|[^a-z])(id|ids|uuid|guid|index|ref|reference))$|[a-z]Id$")
"""Names of columns that are likely to hold ids, and not numbers of telephones or accounts."""


class ProposalRequest(Cutting):
    """What is known before the first run. Lengths and columns that are None are proposed."""

    model: str
    skip_short: bool = True  # as the file says that mitigate leaves them out
    samples: Annotated[str | None, "Passages, as for extract.", Option("input", "SAMPLES")] = None
    heldout: HeldoutText = ()
    calibration: CalibrationText = ()
    max_extraction: Annotated[
        Fraction, "The share of passages that may be recovered.", Option("limits")
    ] = 0.01
    result: Annotated[
        Path, "Folder for mitigate to create.", Option("output", "OUT", place="any")
    ] = Path("OUT")

    @property
    def inputs(self) -> tuple[str | Path | None, ...]:
        """What the new file must not replace."""
        return self.samples, *self.heldout, *self.calibration


@dataclass(frozen=True)
class Proposal:
    """What was found and proposed. Lengths are in tokens.

    - `samples`: with its column; `columns`: all that the table has, if it is one.
    - `usable`: rows to recite that are long enough and not repeated, of `number`. `longer`: those
      that go on after the suffix, by `most_untested` tokens at most.
    - `choose`: the share to choose an edit on: half, or a quarter or a fifth where that leaves
      enough to decide `max_extraction`. `held_back`: passages left to test the choice on.
      `supported`: the smallest limit that they can show to be kept, if none of them is recovered.
      `needed`: passages, those to choose on among them, that decide `max_extraction`.
    """

    request: ProposalRequest
    samples: str
    columns: tuple[str, ...]
    id_column: str | None
    number: int
    usable: int
    shortest: int
    median: float
    longest: int
    prefix_length: int
    suffix_length: int
    longer: int
    most_untested: int
    choose: float
    held_back: int
    supported: float | None
    needed: int | None

    def to_dict(self) -> dict[str, Any]:
        """The object of `init --json`."""
        return {name: value for name, value in vars(self).items() if name != "request"}

    @property
    def lengths(self) -> str:
        """How long the passages are, in words."""
        if self.shortest == self.longest:
            return f"{self.longest:,} tokens"
        return f"{self.shortest:,} to {self.longest:,} tokens, median {self.median:,g}"

    @property
    def text(self) -> str:
        """A commented file for `mitigate --config`."""
        import jinja2

        place = jinja2.PackageLoader("evals.jobs", "")
        environment = jinja2.Environment(
            loader=place, undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False
        )
        environment.filters["yaml"] = _write_yaml
        given = {**self.request.model_dump(), **vars(self), "lengths": self.lengths}
        return environment.get_template("mitigate.yaml.jinja").render(given) + "\n"


def propose(request: ProposalRequest, output: Path, *, overwrite: bool = False) -> Proposal:
    """Looks at the passages in the model's tokens, and writes the file. No weights are read."""
    check_output(output, PROPOSED, overwrite=overwrite, reads=request.inputs)
    from evals.data import count_longer, open_samples
    from evals.data.held_back import deal_passages
    from evals.measure.verdicts import SHARES, find_smallest
    from evals.run.statistics import count_needed
    from surgery.editing.loading import load_tokenizer
    from surgery.hub.embedded import find_lab
    from surgery.hub.finding import find_model

    named = request.samples or find_lab(request.model)
    if named is None:
        raise SamplesError(
            "brings no passages of its own", where=request.model, fix="give `samples`"
        )
    found = find_model(request.model, request.revision)
    given: Any = {"prefix_length": request.prefix_length, "suffix_length": request.suffix_length}
    samples, columns, ids = _find_columns(named, request.id_column)
    try:
        passages = open_samples(samples, **given, id_column=ids, cut=False)
    except SamplesError:
        if ids is None or ids == request.id_column:
            raise
        ids = None  # a guess by the first rows, which others may not confirm
        passages = open_samples(samples, **given, cut=False)
    tokenizer = load_tokenizer(found.folder) if passages.is_text else None
    parts = np.array(passages.measure(tokenizer))
    prefix, suffix = _propose_lengths(request, passages, parts)
    lengths = parts.sum(axis=1)
    cut = replace(passages, prefix=prefix, suffix=suffix, skip_short=True)
    rows = cut.tokenize(tokenizer)
    longer = count_longer(rows.select(rows.trained_on))
    usable = int(rows.trained_on.sum())
    needed = count_needed(request.max_extraction)
    left = {share: len(deal_passages(rows, 0, share)[1]) for share in SHARES}
    enough = next((share for share, rest in left.items() if rest >= (needed or 0)), None)
    choose = enough or SHARES[0]
    held_back = left[choose]
    proposal = Proposal(
        request,
        samples=samples,
        columns=columns,
        id_column=ids,
        number=len(lengths),
        usable=usable,
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        prefix_length=prefix,
        suffix_length=suffix,
        longer=longer["passages"],
        most_untested=longer["most_tokens"],
        choose=choose,
        held_back=held_back,
        supported=find_smallest(held_back),
        needed=None if needed is None else math.ceil(needed / (1 - (enough or min(SHARES)))),
    )
    write_text(output, proposal.text, overwrite=overwrite, owned=PROPOSED)
    return proposal


def _find_columns(named: str, id_column: str | None) -> tuple[str, tuple[str, ...], str | None]:
    """Samples with the column that holds the passages, all columns, and the one with the ids.

    Where no column has a name that is known, the passages are in the one with the longest text,
    and ids are in the first other one that is named like ids, and whose cells are short and all
    different. Reports and the Hub show ids, so that nothing else is taken for one.
    """
    from evals.data.loading import FORMS, find_published
    from evals.data.tables import find_passages
    from surgery.reading.rows import are_names, list_readable, read_rows
    from surgery.reading.sources import find_sources

    if named.startswith("lab:") or ".npy" in named:
        return named, (), id_column
    sources = find_sources(find_published(named), FORMS)
    if not sources or not sources[0].is_table:
        return named, (), id_column
    columns = tuple(list_readable(sources[0]))
    rows = [row for _, row in islice(read_rows(sources[0], columns), _LOOKED_AT)]
    widths = {name: _measure_text([row.get(name) for row in rows]) for name in columns}
    column = sources[0].column
    if column is None and not are_names(columns):
        raise SamplesError(
            "the first line seems to name no columns",
            where=sources[0].name,
            fix="put a line with names before it, such as id,text, or name the column: FILE:COLUMN",
        )
    if column is None and find_passages(columns) is None and any(widths.values()):
        column = max(widths, key=lambda name: widths[name])
        named = f"{named}:{column}"
    if id_column is None and "id" not in columns:
        used = {column, "text", "tokens", "prefix", "suffix"}
        id_column = next(
            (
                name
                for name in columns
                if name not in used and _ID.search(name) and _names(rows, name)
            ),
            None,
        )
    return named, columns, id_column


def _measure_text(cells: Sequence[Any]) -> float:
    """Characters of a cell on average; 0 if any is no text."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return sum(map(len, texts)) / len(texts) if texts and len(texts) == len(cells) else 0.0


def _names(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    cells = [row.get(column) for row in rows]
    short = all(type(cell) in (str, int) and 0 < len(str(cell)) <= 64 for cell in cells)
    return short and len(set(map(str, cells))) == len(cells)


def _propose_lengths(
    request: ProposalRequest, passages: Passages, parts: np.ndarray[Any, Any]
) -> tuple[int, int]:
    """Those that were asked for, else a pair's own, else what most rows have: half of their tokens,
    or, with columns of their own, of each. `parts`: tokens, [N, 1] or [N, 2].

    Where half of the rows or more are long enough for a sound test, the others are left out.
    """
    pair, lengths = parts.shape[1] == 2, parts.sum(axis=1)
    halves = parts if pair else np.repeat(parts // 2, 2, axis=1)
    sound = halves[(halves >= SOUND).all(axis=1)]
    rows = sound if 2 * len(sound) >= len(halves) else halves
    fits = np.quantile(rows, 1 - _FITTING, axis=0, method="lower").astype(int).tolist()
    own = passages.table.shape or tuple(
        min(LENGTH, one - one % 4 if one >= _FEWEST else one) for one in fits
    )
    prefix, suffix = request.prefix_length or own[0], request.suffix_length or own[1]
    for name, length in (("prefix_length", prefix), ("suffix_length", suffix)):
        if getattr(request, name) is not None and length < _FEWEST:
            raise SamplesError(
                "too few tokens for a test",
                where=f"`{name}`",
                expected=f"{_FEWEST} or more",
                got=length,
            )
    enough = (parts >= (prefix, suffix)).all(axis=1) if pair else lengths >= prefix + suffix
    if min(prefix, suffix) < _FEWEST or not enough.any():
        raise SamplesError(
            "the passages are too short",
            where=request.samples,
            expected=f"at least {2 * _FEWEST} tokens, or the lengths that you give",
            got=f"{int(lengths.min())} to {int(lengths.max())}, median {np.median(lengths):g}",
        )
    return prefix, suffix


def _write_yaml(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    import yaml

    plain = [str(one) for one in value] if isinstance(value, tuple | list) else value
    plain = str(plain) if isinstance(plain, Path) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**9)
    return str(text).removesuffix("\n...\n").strip()
