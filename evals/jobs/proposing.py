"""Before a long run: which passages can be used, whether they are enough, and what fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from evals.data.cutting import FEWEST, SHORT
from evals.measure.attacks.request import Extraction
from evals.run.console import say
from evals.run.groups import Passages, Revision, Run, ShowText, Texts
from evals.run.request import Option, Request, Use
from surgery.errors import SamplesError
from surgery.output import OwnFile, check_output, write_text
from surgery.record.manifest import LENGTH

if TYPE_CHECKING:
    from evals.data import PassageSource, Samples
    from surgery.families import Dimensions
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel

PROPOSED = OwnFile(
    "a proposal",
    lambda file: b"# What `attn-surgery mitigate` should do." in file.read_bytes(),
)
SOUND = 16
"""From so many tokens of prefix and suffix on, a test says something: fewer are easily guessed."""
_FITTING = 0.9
"""The share of passages that a proposed length fits at least."""
_TESTED = 200
"""The most passages of the quick pass."""
DEFAULT_LIMIT = 0.01
"""What may be recovered, if nothing else is asked for."""
_LIMITS = (0.05, 0.01, 0.001)
"""Limits for which the needed number of passages is told, beside the one that is asked for."""


class ProposalRequest(Request):
    """What is known before the first run. Lengths and columns that are None are proposed."""

    typed = (
        "samples heldout calibration prefix_length suffix_length secret id_column revision "
        "max_extraction show_text result device"
    )

    model: str
    revision: Revision = None
    passages: Annotated[Passages, Use(without=("skip_short", "leave_out"))] = Passages()
    texts: Texts = Texts()
    show_text: ShowText = False
    extraction: Annotated[Extraction, Use(without=("measure",))] = Extraction()
    run: Annotated[Run, Use(without=("no_cache",))] = Run()
    result: Annotated[
        Path, "Folder for mitigate to create.", Option("output", "OUT", place="any")
    ] = Path("OUT")

    @property
    def limit(self) -> float:
        """The share of the passages that may be recovered."""
        most = self.extraction.max_extraction
        return DEFAULT_LIMIT if most is None else most


@dataclass(frozen=True)
class Proposal:
    """What was counted, measured, and proposed. Lengths are in tokens.

    - `samples`: with its column; `columns`: all that the table has, if it is one.
    - `n`: rows. `usable`: those that are long enough and not repeated: `members` and `non_members`;
      `independent`: groups of members that do not overlap, each of which counts once.
      `left_out`: the others, each with its `row` (from 1), `id`, and `reason`.
    - `length`: of the rows, `min`, `median`, and `max`.
    - `suffix_length`: of secrets that are marked, that of the longest that is tested, None for any;
      `secrets`: their least and most tokens, None if none is marked.
    - `cuts`: where three passages are cut (`evals.data.showing`). `given_numbers`: passages whose
      prefix holds a number that no other passage has.
    - `longer`: members that go on after the suffix, by `most_untested` tokens at most.
    - `recited`: the figure of at most `_TESTED` members.
    - `needed`: limit → passages that show it, if none of them is recovered.
    - `splits`: what a search can decide on each part of the passages
      (`evals.table.limits.describe_splits`); `choose`: the share to choose an edit on: half, or a
      quarter or a fifth where that leaves enough to decide `max_extraction`.
    - `corpus`, `calibration`: how much held-out and calibration text there is, and is `wanted`.
    """

    request: ProposalRequest
    samples: str
    columns: tuple[str, ...]
    id_column: str | None
    n: int
    usable: int
    too_short: int
    duplicates: int
    overlapping: int
    members: int
    independent: int
    non_members: int
    length: dict[str, float]
    left_out: list[dict[str, Any]]
    prefix_length: int | None
    suffix_length: int | None
    secrets: tuple[int, int] | None
    cuts: tuple[dict[str, Any], ...]
    given_numbers: int
    longer: int
    most_untested: int
    recited: dict[str, Any]
    needed: dict[str, int]
    splits: list[dict[str, Any]]
    choose: float
    corpus: dict[str, int] | None
    calibration: dict[str, int] | None

    def to_dict(self) -> dict[str, Any]:
        """The object of `init --json`."""
        return {name: value for name, value in vars(self).items() if name != "request"}

    @property
    def split(self) -> dict[str, Any]:
        """What the proposed split can decide."""
        return next(split for split in self.splits if split["choose"] == self.choose)

    @property
    def lengths(self) -> str:
        """How long the passages are, in words."""
        if self.length["min"] == self.length["max"]:
            return f"{self.length['max']:,} tokens"
        return "{min:,} to {max:,} tokens, median {median:,g}".format(**self.length)

    @property
    def text(self) -> str:
        """A commented file for `mitigate --config`."""
        import jinja2

        place = jinja2.PackageLoader("evals.jobs", "")
        environment = jinja2.Environment(
            loader=place, undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False
        )
        environment.filters["yaml"] = _write_yaml
        given = {**dict(self.request.list_values()), **vars(self), "lengths": self.lengths}
        given |= {"max_extraction": self.request.limit, **dict(self.request.texts)}
        template = environment.get_template("mitigate.yaml.jinja")
        return template.render(given, split=self.split) + "\n"


def propose(request: ProposalRequest, output: Path | None, *, overwrite: bool = False) -> Proposal:
    """Looks at the passages in the model's tokens, tests which of them the model recites, and
    writes the file, unless `output` is None.

    Raises `SurgeryError` for anything that cannot be read, or if no passage can be used.
    """
    if output is not None:
        check_output(output, PROPOSED, overwrite=overwrite)
    from evals.data.inputs import find_calibration_text, read_heldout_texts
    from surgery.hub.finding import find_model
    from surgery.lab import find_lab
    from surgery.loading import has_tokenizer, load_tokenizer
    from surgery.variants import VARIANTS

    lab = find_lab(request.model)
    named = request.passages.samples or lab
    if named is None:
        raise SamplesError(
            "brings no passages of its own", where=request.model, fix="give `samples`"
        )
    model = find_model(request.model, request.revision)
    passages, columns, ids = _open_passages(named, request)
    heldout, text = read_heldout_texts(request.texts.heldout, request.model, named), None
    if request.texts.calibration or lab:
        text = find_calibration_text(request.texts.calibration, request.model, VARIANTS)
    needs_tokenizer = passages.is_text or has_tokenizer(model.folder)
    tokenizer = load_tokenizer(model.folder) if needs_tokenizer else None
    parts = np.array(passages.measure(tokenizer))
    passages = _cut(request, passages, parts)
    rows = passages.tokenize(tokenizer)
    dimensions = model.dimensions
    proposal = Proposal(
        request,
        samples=passages.source,
        columns=columns,
        id_column=ids,
        **_count_usable(passages, rows, parts.sum(axis=1)),
        **_describe_cuts(request, passages, rows, tokenizer),
        **_describe_limits(request, rows),
        corpus=_measure_heldout(heldout, tokenizer, rows.tokens.shape[1]) if heldout else None,
        calibration=_measure_calibration(text, tokenizer, dimensions) if text else None,
        recited=_count_recited(request, model, rows),
    )
    if output is not None:
        write_text(output, proposal.text, overwrite=overwrite, owned=PROPOSED)
    return proposal


def _cut(
    request: ProposalRequest, passages: PassageSource, parts: np.ndarray[Any, Any]
) -> PassageSource:
    """The passages, with the lengths that are proposed. `parts`: as for `_propose_lengths`."""
    if passages.marks_secrets:
        return replace(passages, skip_short=True)
    prefix, suffix = _propose_lengths(request, passages, parts)
    return replace(passages, prefix=prefix, suffix=suffix, skip_short=True)


def _count_usable(
    passages: PassageSource, rows: Samples, lengths: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """Rows by what becomes of them, and their `lengths` in tokens, [N]."""
    from evals.data import describe_samples
    from evals.data.repeats import MERGED, OVERLAPS

    numbers = {name: at for at, name in enumerate(passages.table.ids, 1)}
    left_out = [{"row": numbers[row["id"]], **row} for row in describe_samples(rows)["left_out"]]
    reasons = [note.reason for note in rows.notes]
    members = int(rows.trained_on.sum())
    return {
        "n": len(lengths),
        "usable": len(rows),
        "too_short": sum(reason.startswith(SHORT) for reason in reasons),
        "duplicates": reasons.count(MERGED),
        "overlapping": reasons.count(OVERLAPS),
        "members": members,
        "independent": rows.select(rows.trained_on).independent,
        "non_members": len(rows) - members,
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "left_out": sorted(left_out, key=lambda row: row["row"]),
    }


def _describe_cuts(
    request: ProposalRequest, passages: PassageSource, rows: Samples, tokenizer: Any
) -> dict[str, Any]:
    """Where passages are cut, and what stands before and after."""
    from evals.data import count_longer, measure_lengths
    from evals.data.showing import count_given_numbers, show_cuts

    longer, sizes = count_longer(rows.select(rows.trained_on)), measure_lengths(rows.suffixes)
    return {
        "prefix_length": passages.prefix,
        "suffix_length": passages.suffix,
        "secrets": (int(np.min(sizes)), int(np.max(sizes))) if passages.marks_secrets else None,
        "cuts": tuple(show_cuts(passages, rows, tokenizer, text=request.show_text)),
        "given_numbers": count_given_numbers(passages, rows, tokenizer),
        "longer": longer["passages"],
        "most_untested": longer["most_tokens"],
    }


def _describe_limits(request: ProposalRequest, rows: Samples) -> dict[str, Any]:
    """How many passages limits need, and which split of the passages is proposed."""
    from evals.run.statistics import count_needed
    from evals.table.limits import describe_splits

    asked, splits = request.limit, describe_splits(rows)
    counts = {limit: count_needed(limit) for limit in sorted({*_LIMITS, asked}, reverse=True)}
    enough = [split["choose"] for split in splits if (split["held_back_limit"] or 1.0) <= asked]
    needed = {f"{limit:g}": count for limit, count in counts.items() if count is not None}
    return {"needed": needed, "splits": splits, "choose": (enough or [splits[0]["choose"]])[0]}


def _count_recited(request: ProposalRequest, model: ResolvedModel, rows: Samples) -> dict[str, Any]:
    """The share of passages recited, among at most `_TESTED` members spread over all."""
    from evals.measure.memorization.extraction import extract
    from evals.run.models import open_model
    from evals.table.measured import measure_share
    from surgery.record.measured import BASE

    loaded = open_model(model, **request.run.running)
    some = rows.spread(rows.trained_on, _TESTED)
    exact = extract(loaded.model, some, batch_size=request.run.batch_size).exact
    return measure_share("recited", exact, of=BASE).model_dump(mode="json")


def _measure_heldout(texts: Sequence[str], tokenizer: Any, length: int) -> dict[str, int]:
    """Characters read, and the windows cut from them, `wanted` at most."""
    from evals.data.windows import MOST_WINDOWS, cut_windows

    try:
        windows = len(cut_windows(texts, tokenizer, length))
    except SamplesError as error:  # too short: how much is missing is the answer
        if tokenizer is None:
            raise
        say(f"warning: {error}")
        windows = 0
    return {"characters": sum(map(len, texts)), "windows": windows, "wanted": MOST_WINDOWS}


def _measure_calibration(text: Text, tokenizer: Any, dimensions: Dimensions) -> dict[str, int]:
    """Tokens read, and how many are `wanted` for a model of this width."""
    from surgery.fitting.calibration import FEWEST_TOKENS, TOKENS_PER_WIDTH

    try:
        tokens = text.tokenize(tokenizer, dimensions).windows.size
    except SamplesError as error:
        if tokenizer is None:
            raise
        say(f"warning: {error}")
        tokens = 0
    return {"tokens": tokens, "wanted": max(FEWEST_TOKENS, TOKENS_PER_WIDTH * dimensions.d)}


def _open_passages(
    named: str, request: ProposalRequest
) -> tuple[PassageSource, tuple[str, ...], str | None]:
    """The passages, with their column; all columns of the table; and the one with the ids."""
    from evals.data import open_samples
    from evals.data.columns import find_columns

    given: Any = request.passages.model_dump(include={"prefix_length", "suffix_length", "secret"})
    samples, columns, ids = find_columns(named, request.passages.id_column)
    try:
        return open_samples(samples, **given, id_column=ids, cut=False), columns, ids
    except SamplesError:
        if ids is None or ids == request.passages.id_column:
            raise
    # it was a guess by the first rows, which others do not confirm
    return open_samples(samples, **given, cut=False), columns, None


def _propose_lengths(
    request: ProposalRequest, passages: PassageSource, parts: np.ndarray[Any, Any]
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
        min(LENGTH, fit - fit % 4 if fit >= FEWEST else fit) for fit in fits
    )
    prefix, suffix = (
        request.passages.prefix_length or own[0],
        request.passages.suffix_length or own[1],
    )
    for name, length in (("prefix_length", prefix), ("suffix_length", suffix)):
        if getattr(request.passages, name) is not None and length < FEWEST:
            raise SamplesError(
                "too few tokens for a test",
                where=f"`{name}`",
                expected=f"{FEWEST} or more",
                got=length,
            )
    enough = (parts >= (prefix, suffix)).all(axis=1) if pair else lengths >= prefix + suffix
    if min(prefix, suffix) < FEWEST or not enough.any():
        raise SamplesError(
            "the passages are too short",
            where=request.passages.samples,
            expected=f"at least {2 * FEWEST} tokens, or the lengths that you give",
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
