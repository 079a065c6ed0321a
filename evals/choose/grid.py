"""A grid of measured edits, as `sweep` and `search` write it: an edit is a set of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evals.data import Samples, Tokens, hash_row
from evals.data.samples import record_samples
from evals.measure.edits.costs import COUNTED, find_worst
from evals.measure.edits.engine import Engine, MeasuredEdit
from evals.measure.memorization.recovery import NAMES, make_recovery
from evals.measure.naming import HEALED, name_figures
from evals.table.measured import measure_mean, measure_share, measure_value
from surgery.record.manifest import Record, Word, list_versions
from surgery.record.measured import BASE, EDITED, Details, Measured, On, Text
from surgery.record.report import Long, MeasuredModel, Result, SamplesRecord
from surgery.selection import EditedHeads, Selection, blocks_of, format_selection, variant_name

if TYPE_CHECKING:
    from evals.run.models import LoadedModel

Kind = Literal["block", "last", "range", "group", "head"]


@dataclass(frozen=True)
class EditPoint:
    """A measured edit, on one half of the passages and of the held-out text.

    - `figures`: what one pass shows, at least what `measure_edit` gives. `tried`: what only few
      edits are tried for: longer attacks, benchmarks, and, where these are of the healed edit, its
      rise of held-out loss.
    - `measure`: what counts as recovered. `refitted`: whether blocks with fits have them as an
      export would, after the edits below them, and not those of the unedited model.
    """

    selection: Selection
    figures: tuple[Measured, ...]
    measure: str = "any"
    tried: tuple[Measured, ...] = ()
    refitted: bool = True

    @cached_property
    def values(self) -> dict[str, float]:
        """Figure → its value; of a task, what it loses."""
        found = {}
        for figure in (*self.figures, *self.tried):
            value = figure.details.get("drop", figure.value)
            found[figure.name.removeprefix(HEALED)] = float(value or 0.0)
        return found

    @cached_property
    def plain(self) -> dict[str, float]:
        """The same of the edit before it is healed, without what only few are tried for."""
        return {figure.name: float(figure.value or 0.0) for figure in self.figures}

    @property
    def recovered(self) -> float:
        """The share of passages that the goal's measure recovers."""
        return self.plain[f"recovered.{self.measure}"]

    @property
    def next_token_accuracy(self) -> float:
        """The mean share of suffix tokens that are right, teacher-forced."""
        return self.plain["next_token_accuracy"]

    @property
    def heldout_kl(self) -> float:
        """KL(base || edited), nats per token."""
        return self.plain["kl"]

    @property
    def healed_rise(self) -> float | None:
        """The held-out loss of the healed edit over the base's, in nats per token."""
        return self.values.get("heldout_rise")

    @property
    def worst(self) -> tuple[str, float]:
        """The largest measure of the cost that counts, by name and in nats."""
        return find_worst({name: self.plain[name] for name in COUNTED if name in self.plain})

    @property
    def cost(self) -> float:
        """What the edit costs, in nats per token."""
        return self.worst[1]

    @cached_property
    def attacked(self) -> dict[str, float]:
        """Longer attack → the share that it recovers, in the order of the trials."""
        found = ((one.name.removeprefix(HEALED), one.value or 0.0) for one in self.tried)
        return {
            name.removeprefix("recovered."): share
            for name, share in found
            if name.startswith("recovered.")
        }

    @cached_property
    def known(self) -> dict[str, float]:
        """Attack → the share that it recovers, where that was measured."""
        names = (name for name in self.values if name.startswith("recovered."))
        return {name.removeprefix("recovered."): self.values[name] for name in names}

    @cached_property
    def late(self) -> set[str]:
        """The attacks and tasks that it was tried for."""
        tasks = (
            one.name for one in self.tried if one.name.removeprefix(HEALED).startswith("task.")
        )
        return {*self.attacked, *(name.removeprefix(HEALED) for name in tasks)}

    def excess(self, limits: Mapping[str, float]) -> float:
        """By how much, in all, the shares and losses that were measured exceed `limits`: attack, or
        task with "task." before it, → the most."""
        known = self.known | {name: self.values[name] for name in self.late if "task." in name}
        return sum(max(known.get(name, 0.0) - most, 0.0) for name, most in limits.items())


def measure_edit(
    measured: MeasuredEdit,
    base: MeasuredEdit | None,
    on: On,
    names: Iterable[str] = NAMES,
    documents: npt.NDArray[np.int64] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> Iterator[Measured]:
    """The figures of an edit, over all rows and windows. `names`: of the measures of recovery.

    `base`: for the change of the held-out loss. `documents`: as for `Engine`.
    `groups`: those of `Samples`.
    """
    yield measure_share("recited", measured.exact, on=on, groups=groups)
    seen = measured.evidence
    for name in names:
        flags = make_recovery(name).recovered(seen)
        yield measure_share(f"recovered.{name}", flags, on=on, groups=groups)
    yield _average("next_token_accuracy", measured.next_token_accuracy, on, unit="share")
    yield _average("suffix_nll", measured.nll, on)
    yield _average("completion_entropy", measured.entropy, on)
    loss = _average("heldout", measured.heldout_nll, on, kind="text")
    if base is not None:
        given: Any = {"base": base.heldout_nll, "documents": documents}
        rise = measure_mean("heldout", measured.heldout_nll, on=on, **given)
        loss = loss.model_copy(update={"change": rise.change})
    yield loss
    yield _average("kl", measured.heldout_kl, on)
    for name, nats in measured.costs.items():
        if name != "kl":
            n = len(measured.heldout_kl)
            yield measure_value(name, nats, on=on, n=n, unit="nats")


def _average(name: str, values: Any, on: On, unit: Any = "nats", **known: Any) -> Measured:
    """A mean without an interval: a grid has thousands of them."""
    value = float(values.mean())
    return measure_value(name, value, on=on, n=len(values), unit=unit, **known)


def measure_points(
    engine: Engine,
    selections: Sequence[Selection],
    on: On,
    names: Iterable[str] = NAMES,
    rows: npt.NDArray[np.bool_] | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> list[EditPoint]:
    """Measures edits, in order; () is the unedited model.

    `names`: of the measures of recovery, the first of which is the goal's. `rows`: which passages
    count, bool [N]; None: all do. `advance`: as for `Engine.measure`.
    """
    names = tuple(names)
    measured = engine.measure([(), *selections], advance=advance)
    base, *edits = measured if rows is None else (one.select(rows) for one in measured)
    groups = engine.groups if rows is None or engine.groups is None else engine.groups[rows]
    given: Any = on, names, engine.documents, groups
    return [
        EditPoint(
            edit.selection,
            tuple(measure_edit(edit, base if edit.selection else None, *given)),
            names[0],
        )
        for edit in edits
    ]


def pareto_front(points: Iterable[EditPoint]) -> list[EditPoint]:
    """The points that no other equals or beats in both `recovered` and `cost`, cheapest first.

    Of points equal in both, the one with the smaller selection stays.
    """
    front: list[EditPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, p.recovered, size_of(p.selection))):
        if not front or point.recovered < front[-1].recovered:
            front.append(point)
    return front


def size_of(selection: Selection) -> tuple[int, Selection]:
    """The number of edited heads, then the selection itself: a total order."""
    return sum(len(part.heads) for part in selection), selection


class GridEdit(Record):
    """`of`: its name in the figures.

    `spec`: blocks and heads, as `--drop-attn` takes them; `parts`: the same, with a variant each.
    `kind`: in a sweep, which blocks or heads it is. Of a search, `tried`: figures that only few
    edits are tried for; `refitted`: whether blocks with fits have them as an export would.
    """

    of: Word
    spec: Long
    variant: Word
    blocks: list[int]
    parts: list[EditedHeads]
    kind: Kind | None = None
    refitted: bool = True
    tried: list[Text] = Field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.spec} {self.variant}"

    @property
    def selection(self) -> Selection:
        return tuple(self.parts)


def describe_edit(of: str, selection: Selection, num_heads: int, **more: Any) -> GridEdit:
    return GridEdit(
        of=of,
        spec=format_selection(selection, num_heads),
        variant=variant_name(selection),
        blocks=list(blocks_of(selection)),
        parts=list(selection),
        **more,
    )


class GridResult(Result):
    """What `sweep` and `search` print and write: the figures of the base and of every edit.

    `heldout`: the windows of held-out text and their hash, for each part of it. `calibration`: the
    text that variants were fitted on.
    """

    model: MeasuredModel
    family: Word
    num_blocks: int
    num_heads: int
    edits: list[GridEdit]
    samples: SamplesRecord
    heldout: dict[Word, Details]
    calibration: dict[str, Any] | None
    warnings: list[Text]
    provenance: dict[Word, Any]

    @cached_property
    def table(self) -> dict[tuple[str, str, On | None], Measured]:
        return {row.key: row for row in self.figures}

    @cached_property
    def _first(self) -> dict[tuple[str, str], Measured]:
        found: dict[tuple[str, str], Measured] = {}
        for row in self.figures:
            found.setdefault((row.of, row.name), row)
        return found

    def find(self, name: str, of: str, on: On | None = None) -> Measured | None:
        """As `Result.find`, for thousands of edits."""
        return self._first.get((of, name)) if on is None else self.table.get((name, of, on))

    def read(self, name: str, of: str, on: On | None = None) -> float | None:
        """The value of a figure, if it was measured."""
        row = self.find(name, of, on)
        return None if row is None else row.value

    def rise(self, of: str, on: On | None = None) -> float:
        """The held-out loss of an edit over that of the base, in nats per token."""
        after, before = (self.read("heldout", model, on) or 0.0 for model in (of, BASE))
        return after - before

    def find_edit(self, of: str) -> GridEdit:
        return next(edit for edit in self.edits if edit.of == of)


def describe_grid(
    loaded: LoadedModel, samples: Samples, figures: list[Measured], batch_size: int
) -> dict[str, Any]:
    """What every result holds of its model, passages, and figures."""
    return {
        "names": name_figures(figures),
        "figures": figures,
        "model": MeasuredModel(
            name=loaded.name, provenance={**loaded.provenance, "batch_size": batch_size}
        ),
        "family": loaded.family.model_type,
        "num_blocks": loaded.dimensions.num_blocks,
        "num_heads": loaded.dimensions.num_heads,
        "samples": record_samples(samples),
        "provenance": {"versions": list_versions()},
    }


def describe_windows(windows: Tokens) -> dict[str, int | str]:
    """How much held-out text there was, and its hash."""
    return {"windows": len(windows), "tokens": int(windows.size), "sha256": hash_row(windows)}


def take_point(result: GridResult, edit: GridEdit | None, on: On, measure: str) -> EditPoint:
    """An edit of a search, or the base, as it was when it was measured."""
    edit = edit or GridEdit(of=BASE, spec="", variant="none", blocks=[], parts=[])
    of_edit = [row for row in result.figures if (row.of, row.on) == (edit.of, on)]
    rows = rename(of_edit, EDITED)
    tried = tuple(row for row in rows if row.name in edit.tried)
    figures = tuple(row for row in rows if not row.name.startswith(HEALED) and row not in tried)
    return EditPoint(edit.selection, figures, measure, tried, edit.refitted)


def rename(rows: Iterable[Measured], of: str) -> list[Measured]:
    """The same figures, of another model."""
    return [row.model_copy(update={"of": of}) for row in rows]
