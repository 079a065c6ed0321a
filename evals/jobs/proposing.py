"""A first configuration: looks at a model and at passages, and proposes what fits them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from evals.data.cutting import FEWEST
from evals.run.request import CalibrationText, Cutting, Fraction, HeldoutText, Option
from surgery.errors import SamplesError
from surgery.output import check_output, recognize_mark, write_text
from surgery.record.manifest import LENGTH

if TYPE_CHECKING:
    from evals.data import Passages

PROPOSED = recognize_mark("a proposal", b"# What `attn-surgery mitigate` should do.")
SOUND = 16
"""From so many tokens of prefix and suffix on, a test says something: fewer are easily guessed."""
_FITTING = 0.9
"""The share of passages that a proposed length fits at least."""


class ProposalRequest(Cutting):
    """What is known before the first run. Lengths and columns that are None are proposed."""

    model: str
    skip_short: bool = True  # as the file says that mitigate leaves them out
    samples: Annotated[str | None, "Passages, as for extract.", Option("input", "SAMPLES")] = None
    heldout: HeldoutText = ()
    calibration: CalibrationText = ()
    show_text: Annotated[
        bool, "Show the text of three passages, and where each is cut.", Option("output")
    ] = False
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
    - `suffix_length`: of secrets that are marked, that of the longest that is tested, None for any;
      `secrets`: their least and most tokens, None if none is marked.
    - `cuts`: where three passages are cut (`evals.data.showing`). `given_numbers`: passages whose
      prefix holds a number that no other passage has.
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
    suffix_length: int | None
    secrets: tuple[int, int] | None
    cuts: tuple[dict[str, Any], ...]
    given_numbers: int
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
    from evals.data import count_longer, measure_lengths
    from evals.data.held_back import deal_passages
    from evals.data.showing import count_given_numbers, show_cuts
    from evals.run.statistics import count_needed
    from evals.table.limits import SHARES, find_smallest
    from surgery.editing.loading import load_tokenizer
    from surgery.hub.embedded import find_lab
    from surgery.hub.finding import find_model

    named = request.samples or find_lab(request.model)
    if named is None:
        raise SamplesError(
            "brings no passages of its own", where=request.model, fix="give `samples`"
        )
    found = find_model(request.model, request.revision)
    passages, columns, ids = _open_passages(named, request)
    tokenizer = load_tokenizer(found.folder) if passages.is_text else None
    parts = np.array(passages.measure(tokenizer))
    prefix, suffix = (
        _propose_prefix(request, passages, tokenizer)
        if passages.marks_secrets
        else _propose_lengths(request, passages, parts)
    )
    lengths = parts.sum(axis=1)
    cut = replace(passages, prefix=prefix, suffix=suffix, skip_short=True)
    rows = cut.tokenize(tokenizer)
    longer = count_longer(rows.select(rows.trained_on))
    usable, sizes = int(rows.trained_on.sum()), measure_lengths(rows.suffixes)
    needed = count_needed(request.max_extraction)
    left = {share: len(deal_passages(rows, 0, share)[1]) for share in SHARES}
    enough = next((share for share, rest in left.items() if rest >= (needed or 0)), None)
    choose = enough or SHARES[0]
    held_back = left[choose]
    proposal = Proposal(
        request,
        samples=passages.source,
        columns=columns,
        id_column=ids,
        number=len(lengths),
        usable=usable,
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        prefix_length=prefix,
        suffix_length=suffix,
        secrets=(int(sizes.min()), int(sizes.max())) if passages.marks_secrets else None,
        cuts=tuple(show_cuts(cut, rows, tokenizer, text=request.show_text)),
        given_numbers=count_given_numbers(cut, rows, tokenizer),
        longer=longer["passages"],
        most_untested=longer["most_tokens"],
        choose=choose,
        held_back=held_back,
        supported=find_smallest(held_back),
        needed=None if needed is None else math.ceil(needed / (1 - (enough or min(SHARES)))),
    )
    write_text(output, proposal.text, overwrite=overwrite, owned=PROPOSED)
    return proposal


def _open_passages(
    named: str, request: ProposalRequest
) -> tuple[Passages, tuple[str, ...], str | None]:
    """The passages, with their column; all columns of the table; and the one with the ids."""
    from evals.data import open_samples
    from evals.data.columns import find_columns

    given: Any = request.model_dump(include={"prefix_length", "suffix_length", "secret"})
    samples, columns, ids = find_columns(named, request.id_column)
    try:
        return open_samples(samples, **given, id_column=ids, cut=False), columns, ids
    except SamplesError:
        if ids is None or ids == request.id_column:
            raise
    # it was a guess by the first rows, which others do not confirm
    return open_samples(samples, **given, cut=False), columns, None


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
        min(LENGTH, one - one % 4 if one >= FEWEST else one) for one in fits
    )
    prefix, suffix = request.prefix_length or own[0], request.suffix_length or own[1]
    for name, length in (("prefix_length", prefix), ("suffix_length", suffix)):
        if getattr(request, name) is not None and length < FEWEST:
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
            where=request.samples,
            expected=f"at least {2 * FEWEST} tokens, or the lengths that you give",
            got=f"{int(lengths.min())} to {int(lengths.max())}, median {np.median(lengths):g}",
        )
    return prefix, suffix


def _propose_prefix(
    request: ProposalRequest, passages: Passages, tokenizer: Any
) -> tuple[int, int | None]:
    """The length of the prefix before secrets that are marked, and of the longest to test.

    What was asked for, else tokens that most passages have before their secret, as in
    `_propose_lengths`.
    """
    from evals.data.secrets import compile_secret, find_secrets
    from surgery.reading.corpus import find_opening

    opening = len(find_opening(tokenizer)) if passages.is_text else 0
    found = find_secrets(passages.table, tokenizer, compile_secret(request.secret))
    before = np.array([opening + one.first for one in found if one is not None])
    fits = before[before >= SOUND] if 2 * (before >= SOUND).sum() >= len(before) else before
    own = int(np.quantile(fits, 1 - _FITTING, method="lower")) if len(fits) else 0
    prefix = request.prefix_length or min(LENGTH, own - own % 4)
    if prefix < FEWEST:
        raise SamplesError(
            "too few tokens stand before the secrets" if len(before) else "no passage has a secret",
            where=request.samples,
            expected=f"at least {FEWEST} tokens before a secret" if len(before) else None,
            fix=None if len(before) else "mark them with a column secret, or with `secret`",
        )
    return prefix, request.suffix_length


def _write_yaml(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    import yaml

    plain = [str(one) for one in value] if isinstance(value, tuple | list) else value
    plain = str(plain) if isinstance(plain, Path) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**9)
    return str(text).removesuffix("\n...\n").strip()
