"""The inputs of a search: a loaded model, units to choose from, and both halves of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evals.choose.grid import EditPoint
from evals.choose.search.request import SearchRequest
from evals.choose.units import list_sets, merge_units, open_units
from evals.data import Samples, Tokens
from evals.data.held_back import Half, check_unlisted, split_halves, warn_of_earlier_choice
from evals.data.inputs import (
    find_calibration_text,
    make_fitter,
    open_passages,
    require_heldout_texts,
    tokenize_passages,
)
from evals.data.windows import cut_alike, cut_documents
from evals.measure.attacks.attack import Target
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.names import hash_code, is_own
from evals.measure.attacks.sibling import find_sibling
from evals.measure.attacks.trying import AttackPlan
from evals.measure.edits.engine import Engine
from evals.measure.edits.sharing import FitEdit
from evals.measure.healing import (
    check_apart,
    find_healing_text,
    take_members,
    warn_of_shared,
)
from evals.measure.memorization.recovery import NAMES, Recovery, is_recovery, make_recovery
from evals.run.batching import keep_rows_per_batch
from evals.run.console import say, show_progress
from evals.run.groups import HEAL_STEPS, list_tool_versions
from evals.run.keep import ASIDE, KEEP_NOTHING, Store, hash_program, hash_question
from evals.run.lm_eval.scores import Scores
from evals.run.lm_eval.tasks import SUITES
from evals.run.models import LoadedModel, open_model
from evals.table.limits import check_limited_tasks, find_limit
from surgery.errors import SamplesError, UnsupportedError
from surgery.fitting.calibration import Calibration
from surgery.fitting.fitter import Fitter
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.lab import find_lab
from surgery.selection import EditedHeads, Selection
from surgery.training.distillation import TaughtRows
from surgery.training.training import MOST_READS, ROWS, WINDOW, Schedule

if TYPE_CHECKING:
    from evals.data.loading import PassageSource
    from evals.run.lm_eval.running import Benchmarks
    from surgery.fitting.calibration import Text

TaskScores = dict[str, Scores]
"""The scores of a task, by metric."""


@dataclass(frozen=True)
class Healing:
    """How edits are healed. `passages`: those that must not come back; None: nothing is done about
    them."""

    text: Calibration
    schedule: Schedule
    passages: TaughtRows | None = None


@dataclass(frozen=True)
class OpenedSearch:
    """A request with its inputs opened.

    - `windows`: int32 [M, T] held-out text, each of one of the `documents`, [M].
    - `variants`: what a block or a head may become. `offered`: the units to choose from.
    - `fitter`: None if no variant needs one. `healing`: the text to heal edits on; None: do not.
    - `sibling`: what an attacker may copy attention from. `benchmarks`: the tasks with a limit.
    - `warnings`: which units are left out, and why. `store`: of work on the model.
    """

    request: SearchRequest
    loaded: LoadedModel
    samples: Samples
    windows: Tokens
    documents: npt.NDArray[np.int64]
    variants: tuple[str, ...]
    offered: tuple[EditedHeads, ...]
    fitter: Fitter | None
    healing: Calibration | None
    warnings: tuple[str, ...] = field(metadata=ASIDE)
    sibling: ResolvedModel | None = None
    benchmarks: Benchmarks | None = None
    store: Store = field(default=KEEP_NOTHING, metadata=ASIDE)

    @cached_property
    def key(self) -> str:
        """Names the question that the search answers: all that the answer depends on."""
        own = [hash_code(name) for name in self.request.limits if is_own(name)]
        return hash_question(list_tool_versions(), hash_program(), own, self)

    @cached_property
    def batch_size(self) -> int:
        """Rows at a time, the same when the search goes on, whatever memory is free by then."""
        length = self.samples.tokens.shape[1]
        return self.request.run.batch_size or keep_rows_per_batch(
            self.store, self.loaded.model, length
        )

    @cached_property
    def measure(self) -> Recovery:
        """What counts as recovering a passage, for the estimates."""
        return make_recovery(next(iter(self.request.limits), self.request.extraction.measure))

    @property
    def others(self) -> dict[str, float]:
        """The limits beside the goal, on attacks and on benchmarks, as `EditPoint.excess` takes
        them."""
        drops = {f"task.{task}": most for task, most in self.drop_limits.items()}
        return self.attack_limits | drops

    @property
    def drop_limits(self) -> dict[str, float]:
        """Task → the most that it may lose."""
        found = {task: find_limit(self.request.benchmarks.max_drop, task) for task in self.tasks}
        return {task: most for task, most in found.items() if most is not None}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.benchmarks.tasks) if self.benchmarks else ()

    @property
    def attack_limits(self) -> dict[str, float]:
        """The limits beside the goal; with healing, all, since they are for the healed model."""
        healed = self.healing is not None
        return {
            name: most
            for name, most in self.request.limits.items()
            if healed or name != self.measure.name
        }

    def keeps(self, point: EditPoint) -> bool:
        """Whether an edit meets the goal and exceeds no limit that was measured."""
        return self.request.goal.met(point) and not point.excess(self.others)

    @property
    def slow(self) -> tuple[str, ...]:
        """The limited attacks that one pass over the edit does not decide."""
        healed = self.healing is not None
        return tuple(name for name in self.attack_limits if healed or not is_recovery(name))

    @property
    def late(self) -> tuple[str, ...]:
        """The names of all limits that only few edits are tried for."""
        return (*self.slow, *(f"task.{task}" for task in self.drop_limits))

    @property
    def names(self) -> tuple[str, ...]:
        """The measures that a point has rates for, that of the goal first."""
        return tuple(
            dict.fromkeys([self.measure.name, *NAMES, *filter(is_recovery, self.attack_limits)])
        )

    @cached_property
    def targets(self) -> tuple[Target, Target]:
        """The passages of each half in the unedited model. No attack on one sees the other.

        Raises `MeasurementError` if an attack with a limit cannot be tried on them.
        """
        loaded, text, rows = self.loaded, self.windows, self.batch_size
        # raises for what cannot be tried
        AttackPlan(self.samples, text, self.slow, rows, self.slow, sibling=self.sibling)
        first, second = (
            Target(
                loaded.model,
                loaded.tokenizer,
                half.samples,
                half.windows,
                rows,
                draws=1,
                of=int(self.samples.trained_on.sum()),
                cut=loaded.cut,
                sibling=self.sibling,
            )
            for half in self.halves
        )
        return first, second

    def foresee(self) -> Iterator[str]:
        """Says whether the passages that are held back can decide the limits."""
        every = int(self.samples.trained_on.sum())
        return foresee(self.request.limits.items(), self.halves[1].samples.independent, every)

    @cached_property
    def halves(self) -> tuple[Half, Half]:
        """What to choose on, and what is held back. Raises `SamplesError` for too little."""
        choice = self.request.choice
        return split_halves(self.samples, self.windows, choice.seed, choice.choose, self.documents)

    @cached_property
    def guarded_passages(self) -> TaughtRows:
        """The passages that healing keeps from coming back: none that is held back."""
        return take_members(self.halves[0].samples, self.loaded.dimensions)

    @cached_property
    def asked_healing(self) -> Healing | None:
        """How edits are healed before they are attacked, if that was asked for."""
        if self.healing is None:
            return None
        asked = self.request.healing
        schedule = Schedule(asked.steps or HEAL_STEPS, rank=asked.adapters)
        return Healing(self.healing, schedule, self.guarded_passages)

    @cached_property
    def short_healing(self) -> tuple[Healing, Tokens]:
        """How the best edits are healed before one is chosen, and the windows of the half that
        chooses that this does not train on, int32 [M, T].

        Nothing keeps the passages from coming back: that shows what an edit only hid. Raises
        `SamplesError` if the search has too little text.
        """
        steps, windows = self.request.choice.judge_steps, self.halves[0].windows
        texts = [(windows[1::2], windows[::2])]
        if self.fitter is not None:
            fitted = self.fitter.calibration.windows
            length = min(WINDOW, fitted.shape[1])
            texts.insert(0, (cut_alike(fitted, self.loaded.tokenizer, length), windows))
        needed = -(-steps * ROWS // MOST_READS)
        for rows, others in texts:
            if len(rows) >= needed:
                return Healing(Calibration(rows, (), spread=True), Schedule(steps)), others
        raise SamplesError(
            f"too little text to heal on for {steps} steps",
            expected=f"{4 * needed:,} windows of held-out text, or calibration text",
            got=f"{len(self.windows):,}",
        )

    def score(self, store: Store, task: str, make: Callable[[], Any]) -> TaskScores:
        """Runs a benchmark on the model that `make` makes. `store`: of work on that one."""
        benchmarks, loaded, asked = self.benchmarks, self.loaded, self.request.run.batch_size
        assert benchmarks is not None

        def run() -> Any:
            size = asked or benchmarks.batch_size(task, loaded)
            return benchmarks.run(task, replace(loaded, model=make()), batch_size=size)

        return benchmarks.scores(task, store.get(benchmarks.name_run(task, asked), run))

    @cached_property
    def base_scores(self) -> dict[str, TaskScores]:
        """What the unedited model scores, by task."""
        base = self.loaded.model
        return {task: self.score(self.store, task, lambda: base) for task in self.drop_limits}

    def find_units(self, selection: Selection) -> frozenset[int] | None:
        """The units that make this edit; None if it is not on offer."""
        chosen: set[int] = set()
        for part in selection:
            whole = [i for i, unit in enumerate(self.offered) if unit == part]
            chosen |= set(
                whole
                or (
                    i
                    for i, unit in enumerate(self.offered)
                    if (unit.block, unit.variant) == (part.block, part.variant)
                    and len(unit.heads) == 1
                    and set(unit.heads) <= set(part.heads)
                )
            )
        made = merge_units(self.offered[i] for i in chosen)
        return frozenset(chosen) if made == selection else None

    @cached_property
    def exhaustive(self) -> bool:
        """Whether the search can measure every set of units."""
        most = self.request.choice.max_evaluations
        return len(list(islice(list_sets(self.offered), most + 1))) <= most

    def engines(
        self, fit: FitEdit | None = None, how: str = "as exported"
    ) -> tuple[Engine, Engine]:
        """One for each half. `how`: the part of a store's key by which fits of one text differ."""
        store = self.store.narrow(fit and [self.fitter, how])
        first, second = (self.make_engine(half, fit=fit, store=store) for half in self.halves)
        return first, second

    def make_engine(self, half: Half, **options: Any) -> Engine:
        """`options`: as for `Engine`."""
        return Engine(
            self.loaded.model,
            half.samples,
            half.windows,
            costs=True,
            documents=half.documents,
            batch_size=self.batch_size,
            layout=self.request.choice.layout,
            editable=self.loaded.editable,
            **options,
        )


def open_search(request: SearchRequest) -> OpenedSearch:
    """Opens the inputs of a request, texts before the model.

    Raises `SurgeryError` for inputs that it cannot use.
    """
    lab = find_lab(request.model)
    variants = request.choice.list_variants(fits=bool(request.texts.calibration) or lab is not None)
    passages = open_passages(request.passages, lab, leave_out=request.passages.leave_out)
    texts = require_heldout_texts(request.texts.heldout, request.model)
    calibrated = find_calibration_text(request.texts.calibration, request.model, variants)
    text = find_healing_text(request.heal) if request.heal else None
    benchmarks = _load_limited(request) if request.benchmarks.max_drop else None
    found = find_model(request.model, request.revision)
    held = request.choice.layout
    sibling = find_sibling(request.attacks.sibling, [found])
    loaded = open_model(found, **request.run.running)
    rows = tokenize_passages(passages, loaded.tokenizer)
    if request.passages.leave_out is not None and found.manifest is not None:
        check_unlisted([found.manifest], rows)
    windows, documents = cut_documents(texts, loaded.tokenizer, rows.tokens.shape[1])
    healing = _read_healing(request, text, loaded, passages, rows)
    offered, warnings = open_units(loaded, request.choice.grain, variants, held)
    plans = [loaded.editable.plan((unit,), layout=held) for unit in offered]
    fitter = make_fitter(plans, calibrated, loaded, layout=held)
    fitted = None if fitter is None else fitter.calibration
    for warning in (shared := warn_of_shared(windows, (fitted, healing))):
        say(f"warning: {warning}")
    opened = OpenedSearch(
        request=request,
        loaded=loaded,
        samples=rows,
        windows=windows,
        documents=documents,
        variants=variants,
        offered=offered,
        fitter=fitter,
        healing=healing,
        warnings=(*warnings, *shared),
        sibling=sibling,
        benchmarks=benchmarks,
        store=loaded.narrow(request.run.store),
    )
    _check_can_be_tried(opened)
    if opened.slow:
        assert opened.targets  # raises if one cannot be tried
    for warning in (more := warn_of_earlier_choice(found.manifest, opened.halves[0].samples)):
        say(f"warning: {warning}")
    return replace(opened, warnings=(*opened.warnings, *more)) if more else opened


def _check_can_be_tried(opened: OpenedSearch) -> None:
    """Raises `UnsupportedError` if limits need a copy of the model with an edit, and none can be
    made."""
    if opened.late and (why := opened.loaded.editable.find_obstacle()) is not None:
        raise UnsupportedError(
            f"{', '.join(opened.late)} cannot be tried on an edit: {why}",
            where=opened.loaded.name,
            fix="leave out `device=all`, or give only limits that one pass decides, and no `heal`",
        )


def _read_healing(
    request: SearchRequest,
    text: Text | None,
    loaded: LoadedModel,
    passages: PassageSource,
    rows: Samples,
) -> Calibration | None:
    """The text in the model's tokens. Raises `SamplesError` if it holds any of the passages."""
    if text is None:
        return None
    healing = Schedule(request.healing.steps or HEAL_STEPS).tokenize(
        text, loaded.tokenizer, loaded.dimensions
    )
    check_apart(passages.add_others(rows, loaded.tokenizer), healing)
    return healing


def _load_limited(request: SearchRequest) -> Benchmarks:
    """The tasks that have a limit. Raises `UnknownNameError` for a limit without a task."""
    from evals.run.lm_eval.running import Benchmarks

    asked = request.benchmarks
    plain = [task for task in asked.max_drop if not set("*?[") & set(task)]
    suite = SUITES["lab" if find_lab(request.model) else "standard"]
    with show_progress("loading tasks", None):
        found = Benchmarks.load(
            asked.names or (tuple(suite) if len(plain) < len(asked.max_drop) else plain),
            include_paths=asked.include_path,
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
        )
    check_limited_tasks(asked.max_drop, list(found.tasks))
    limited = (name for name in found.tasks if find_limit(asked.max_drop, name) is not None)
    return replace(found, tasks={name: found.tasks[name] for name in limited})
