"""Takes all of one model's measurements while it is in memory: passages, text, attacks, tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals.data import Samples, Tokens
from evals.data.inputs import warn_of_bare_rows
from evals.data.never import add_never, split_never
from evals.data.windows import cut_documents
from evals.jobs.materials import Materials
from evals.measure.attacks.trying import AttackPlan, AuditedModel, try_attacks
from evals.measure.memorization.protocol import (
    ExtractionResults,
    Protocol,
    measure,
    measure_text,
)
from evals.measure.memorization.summary import ControlLoss
from evals.run.batching import keep_rows_per_batch
from evals.run.console import show_progress
from evals.run.lm_eval.running import TaskRun
from evals.run.models import LoadedModel, check_precision, hash_settings, open_model
from surgery.errors import MeasurementError, SamplesError
from surgery.hub.resolved import ResolvedModel
from surgery.record.report import MeasuredModel

WINDOW = 64
"""Tokens of a held-out window if there are no samples to take the length from."""


@dataclass(frozen=True)
class Questions:
    """What every model is asked, in the tokens of the first one, and, once that one was loaded, in
    its precision and in batches of one size."""

    tokenizer: Any
    protocol: Protocol | None
    windows: Tokens | None
    attacked: AttackPlan | None
    dtype: str | None = None

    @property
    def samples(self) -> Samples | None:
        return self.protocol.samples if self.protocol else None


@dataclass(frozen=True)
class ModelResults:
    """One model's results, without the model."""

    model: MeasuredModel
    asked: Questions
    runs: dict[str, TaskRun]
    from_cache: bool
    test: ExtractionResults | None
    control: ControlLoss | None
    audited: AuditedModel | None


def measure_model(
    model: ResolvedModel,
    materials: Materials,
    asked: Questions,
    base: ModelResults | None = None,
    *,
    cut: tuple[int, ...] | None = None,
    tries_control: bool = True,
) -> ModelResults:
    """Measures the first model or, with what that one was `asked`, another one in the same way.

    - `base`: the results of the base, if the model is an edit of it. `cut`: as for `try_attacks`.
    - `tries_control`: whether attacks are also tried on what no model was trained on.

    Raises `MeasurementError` if the models cannot be compared.
    """
    loaded = open_model(model, **materials.request.run.running)
    name = loaded.name
    if asked.dtype is None:
        asked = _settle(asked, materials, loaded)
    check_precision(asked.dtype or loaded.dtype, loaded.dtype, name)
    if loaded.tokenizer is None:
        loaded = replace(loaded, tokenizer=asked.tokenizer)
    identity = {**loaded.provenance, **hash_settings(loaded)}
    test = control = audited = None
    if (protocol := asked.protocol) is not None:
        with show_progress(f"extraction, {name}", protocol.rows) as advance:
            test = measure(loaded, protocol, advance=advance)
        control = test.control
        asked = replace(asked, protocol=replace(protocol, batch_size=test.test.batch_size))
    elif asked.windows is not None:
        _, documents = cut_documents(materials.heldout, asked.tokenizer, WINDOW)
        size = materials.request.run.batch_size
        control = measure_text(loaded.model, asked.windows, documents, batch_size=size)
    if asked.attacked is not None:
        audited = _attack(loaded, asked, materials, base, cut, tries_control=tries_control)
    ran = {"batch_size": test.test.batch_size} if test else {}
    return ModelResults(
        MeasuredModel(name=name, provenance={**identity, **ran}),
        asked,
        *_run_benchmarks(loaded, materials, base),
        test,
        control,
        audited,
    )


def _settle(asked: Questions, materials: Materials, loaded: LoadedModel) -> Questions:
    """What is asked, as the first model runs. An earlier run's batches go on, whatever memory is
    free."""
    size, store = materials.request.run.batch_size, loaded.narrow(materials.store)
    protocol = asked.protocol
    if protocol is not None:
        length = protocol.samples.tokens.shape[1]
        size = size or keep_rows_per_batch(store, loaded.model, length)
        protocol = replace(protocol, batch_size=size)
    return replace(asked, protocol=protocol, dtype=loaded.dtype)


def _attack(
    loaded: LoadedModel,
    asked: Questions,
    materials: Materials,
    base: ModelResults | None,
    cut: tuple[int, ...] | None,
    *,
    tries_control: bool,
) -> AuditedModel:
    """Attacks a model. All passages of all models have batches of one size; free memory may change
    on the way."""
    assert asked.attacked is not None
    assert asked.protocol is not None
    plan, known = asked.attacked, base.audited if base else None
    plan = replace(plan, batch_size=asked.protocol.batch_size)
    store = loaded.narrow(materials.store, materials.request.run.batch_size)
    with show_progress(f"attacks, {loaded.name}", len(plan.tried)) as advance:
        control = tries_control and len(plan.control) > 0
        given: dict[str, Any] = {"with_control": control, "advance": advance}
        return try_attacks(loaded, plan, known, cut=cut, store=store, **given)


def tokenize(
    materials: Materials, tokenizer: Any
) -> tuple[Protocol | None, Tokens | None, AttackPlan | None]:
    """What is measured, and what is attacked, in a model's tokens.

    Raises `SamplesError` for unusable passages or texts, and for a limit on the form of passages
    without others of their form, and `MeasurementError` for a limit on an
    attack that cannot be tried on them.
    """
    request, passages = materials.request, materials.passages
    samples = passages.tokenize(tokenizer) if passages else None
    if passages is not None and samples is not None:
        warn_of_bare_rows(passages, samples, tokenizer)
        if materials.never is not None:
            samples = add_never(samples, split_never(materials.never, samples, tokenizer)[1])
        if request.extraction.max_form is not None and samples.trained_on.all():
            raise SamplesError(
                "`max_form` needs records of the passages' form that no model was trained on",
                where=samples.source,
                fix="give them with `never`, or with member: false among the samples",
            )
    length, windows = samples.tokens.shape[1] if samples else WINDOW, None
    documents = None
    if materials.heldout and (request.texts.heldout or tokenizer is not None):
        windows, documents = cut_documents(materials.heldout, tokenizer, length)
    protocol = attacked = None
    if samples is not None:
        full = request.metrics == "full"
        protocol = Protocol(samples, windows, full, request.run.batch_size, documents)
        if request.attack_names:
            text = np.empty((0, length), dtype=np.int32) if windows is None else windows
            attacked = AttackPlan(
                *(samples, text, request.attack_names, request.run.batch_size, request.attacks.max),
                *(request.attacks.draws, materials.sibling),
                has_base=request.baseline is not None,
            )
    return protocol, windows, attacked


def _run_benchmarks(
    loaded: LoadedModel, materials: Materials, base: ModelResults | None
) -> tuple[dict[str, TaskRun], bool]:
    """Benchmark results by task, and whether all of them come from an earlier run."""
    tasks, runs = materials.benchmarks, dict[str, TaskRun]()
    if tasks is None:
        return {}, False
    if loaded.tokenizer is None:
        raise MeasurementError(
            "benchmarks need a tokenizer",
            where=loaded.name,
            fix="put the tokenizer's files into the model's folder, or measure no benchmarks",
        )
    asked, new = materials.request.run.batch_size, []
    store = loaded.narrow(materials.store)  # for ten edits, the base runs once
    for name in tasks.tasks:

        def run(name: str = name) -> TaskRun:
            new.append(name)
            size = base.runs[name]["batch_size"] if base else asked
            size = size or tasks.batch_size(name, loaded)
            with show_progress(f"{name}, {loaded.name}", None) as advance:
                return tasks.run(name, loaded, batch_size=size, advance=advance)

        runs[name] = store.get(tasks.name_run(name, asked), run)
    return runs, not new
