"""Takes all of one model's measurements while it is in memory: passages, text, attacks, tasks."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.data import Samples, Tokens
from evals.data.inputs import warn_of_bare_rows
from evals.data.samples import hash_row
from evals.data.windows import cut_windows
from evals.jobs.materials import Materials
from evals.measure.attacks.trying import AttackPlan, AuditedModel, try_attacks
from evals.measure.memorization.protocol import (
    ExtractionResults,
    Protocol,
    measure,
    measure_text,
)
from evals.measure.memorization.summary import ControlLoss
from evals.run.batching import rows_per_batch
from evals.run.console import show_progress
from evals.run.forward import cache_bytes, hidden_states
from evals.run.lm_eval.running import SEEDS, TaskRun
from evals.run.models import LoadedModel, check_precision, open_model
from evals.run.predictions import Sampling
from surgery.checkpoint.content import save_to_cache
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.processes import current_processes
from surgery.record.manifest import list_versions
from surgery.record.report import MeasuredModel

WINDOW = 64
"""Tokens of a held-out window if there are no samples to take the length from."""

_TOKENS = 8  # after which a cache is measured
_BROKEN = (OSError, EOFError, ValueError, RecursionError, LookupError, TypeError, zlib.error)


@dataclass(frozen=True)
class Questions:
    """What every model is asked, in the tokens of the first one, and in its precision."""

    tokenizer: Any
    protocol: Protocol | None
    windows: Tokens | None
    attacked: AttackPlan | None
    dtype: str

    @property
    def samples(self) -> Samples | None:
        return self.protocol.samples if self.protocol else None


@dataclass(frozen=True)
class ModelResults:
    """One model's results, without the model. `sizes`: figure → number."""

    model: MeasuredModel
    asked: Questions
    runs: dict[str, TaskRun]
    from_cache: bool
    test: ExtractionResults | None
    control: ControlLoss | None
    audited: AuditedModel | None
    sizes: dict[str, int]


def measure_model(
    model: ResolvedModel,
    materials: Materials,
    first: ModelResults | None = None,
    base: ModelResults | None = None,
    *,
    cut: tuple[int, ...] | None = None,
    inspect: Callable[[Questions], Questions] = lambda asked: asked,
    tries_control: bool = True,
) -> ModelResults:
    """Measures the first model or, given its results as `first`, another one in the same way.

    - `base`: the results of the base, if the model is an edit of it. `cut`: as for `try_attacks`.
    - `inspect`: gets what the first model will be asked, and may change it.
    - `tries_control`: whether attacks are also tried on what no model was trained on.

    Raises `MeasurementError` if the models cannot be compared.
    """
    loaded = open_model(model, **materials.request.running)
    name = loaded.name
    asked = first.asked if first else inspect(_ask(materials, loaded))
    check_precision(asked.dtype, loaded.dtype, name)
    if loaded.tokenizer is None:
        loaded = replace(loaded, tokenizer=asked.tokenizer)
    identity = {**current_processes().once(lambda: loaded.provenance), **hash_settings(loaded)}
    test = control = audited = None
    if (protocol := asked.protocol) is not None:
        with show_progress(f"extraction, {name}", protocol.rows) as advance:
            test = measure(loaded, protocol, advance=advance)
        control = test.control
        asked = replace(asked, protocol=replace(protocol, batch_size=test.test.batch_size))
    elif asked.windows is not None:
        control = measure_text(loaded.model, asked.windows, batch_size=materials.request.batch_size)
    if asked.attacked is not None:
        audited = _attack(loaded, asked, materials, base, cut, tries_control=tries_control)
    ran = {"batch_size": test.test.batch_size} if test else {}
    return ModelResults(
        MeasuredModel(name=name, provenance={**identity, **ran}),
        asked,
        *_run_benchmarks(loaded, materials, identity, base),
        test,
        control,
        audited,
        measure_size(loaded),
    )


def _ask(materials: Materials, loaded: LoadedModel) -> Questions:
    """What to ask in a model's tokens. An earlier run's batches go on, whatever memory is free."""
    size = materials.request.batch_size or materials.journals.recall("batch_size", ".1")
    protocol, windows, attacked = tokenize(materials, loaded.tokenizer)
    if protocol is not None:
        size = size or rows_per_batch(loaded.model, protocol.samples.tokens.shape[1])
        protocol = replace(protocol, batch_size=size)
    return Questions(loaded.tokenizer, protocol, windows, attacked, loaded.dtype)


def _attack(
    loaded: LoadedModel,
    asked: Questions,
    materials: Materials,
    base: ModelResults | None,
    cut: tuple[int, ...] | None,
    *,
    tries_control: bool,
) -> AuditedModel:
    """Attacks a model. A journal keeps each attack until the result is there.

    All passes of all models have batches of one size; free memory may change on the way.
    """
    assert asked.attacked is not None
    assert asked.protocol is not None
    plan, known = asked.attacked, base.audited if base else None
    plan = replace(plan, batch_size=asked.protocol.batch_size)
    cut = loaded.cut if cut is None else cut
    describe = partial(describe_attacked, plan, loaded, [known.provenance] if known else [], cut)
    journals = materials.journals
    journal = journals.open(describe, loaded, f".{journals.number + 1}")
    with show_progress(f"attacks, {loaded.name}", len(plan.tried)) as advance:
        control = tries_control and len(plan.control) > 0
        given: dict[str, Any] = {"with_control": control, "advance": advance}
        return try_attacks(loaded, plan, known, cut=cut, journal=journal, **given)


def describe_attacked(
    plan: AttackPlan, loaded: LoadedModel, before: list[dict[str, Any]], cut: tuple[int, ...]
) -> dict[str, Any]:
    """What decides the outcome of an attack on a model. `before`: the base, if it is an edit."""
    return {
        "passages": plan.passages.sha256,
        "control": plan.control.sha256,
        "prefix_length": plan.samples.prefix_length,
        "draws": plan.draws,
        "batch_size": plan.batch_size,
        "heldout": hash_row(plan.unrelated),
        "sibling": plan.sibling and plan.sibling.identified.model_dump(mode="json"),
        "models": [*before, loaded.provenance],
        "settings": hash_settings(loaded),
        "cut": cut,
        "versions": list_versions(),
    }


def tokenize(
    materials: Materials, tokenizer: Any
) -> tuple[Protocol | None, Tokens | None, AttackPlan | None]:
    """What is measured, and what is attacked, in a model's tokens.

    Raises `SamplesError` for unusable passages or texts, and `MeasurementError` for a limit on an
    attack that cannot be tried on them.
    """
    request, passages = materials.request, materials.passages
    samples = passages.tokenize(tokenizer) if passages else None
    if passages is not None and samples is not None:
        warn_of_bare_rows(passages, samples, tokenizer)
    length, windows = samples.tokens.shape[1] if samples else WINDOW, None
    if materials.heldout and (request.heldout or tokenizer is not None):
        windows = cut_windows(materials.heldout, tokenizer, length)
    protocol = attacked = None
    if samples is not None:
        sampling = Sampling(request.top_k, request.temperature)
        full = request.metrics == "full"
        protocol = Protocol(samples, windows, full, sampling, request.batch_size)
        if request.attacks:
            text = np.empty((0, length), dtype=np.int32) if windows is None else windows
            attacked = AttackPlan(
                *(samples, text, request.attacks, request.batch_size, request.max),
                *(request.draws, materials.sibling),
                has_base=request.baseline is not None,
            )
    return protocol, windows, attacked


def list_tool_versions() -> dict[str, str]:
    from importlib.metadata import version

    return list_versions() | {name: version(name) for name in ("lm-eval", "datasets", "matplotlib")}


def _run_benchmarks(
    loaded: LoadedModel, materials: Materials, identity: dict[str, Any], base: ModelResults | None
) -> tuple[dict[str, TaskRun], bool]:
    """Benchmark results by task, and whether all of them come from an earlier run."""
    tasks, runs, cached = materials.benchmarks, {}, []
    processes, asked_size = current_processes(), materials.request.batch_size
    folder = materials.cache  # for ten edits, the base runs once; a job that stopped goes on
    if tasks is None:
        return {}, False
    if loaded.tokenizer is None:
        raise MeasurementError(
            "benchmarks need a tokenizer",
            where=loaded.name,
            fix="put the tokenizer's files into the model's folder, or measure no benchmarks",
        )
    for name in tasks.tasks:
        key = {
            "task": name,
            "fingerprint": tasks.fingerprint(name),
            "model": {k: v for k, v in identity.items() if k != "model" or identity["commit"]},
            "batch_size": asked_size or "auto",
            "num_fewshot": tasks.count_shots(name),
            "limit": tasks.limit,
            "seeds": SEEDS,
            "versions": list_tool_versions(),
        }
        run = processes.once(find_run, folder, key) if folder else None
        cached.append(run is not None)
        if run is None:
            size = base.runs[name]["batch_size"] if base else asked_size
            size = size or processes.once(tasks.batch_size, name, loaded)
            with show_progress(f"{name}, {loaded.name}", None) as advance:
                run = tasks.run(name, loaded, batch_size=size, advance=advance)
            if folder and processes.is_main:
                keep_run(folder, key, run)
        runs[name] = run
    return runs, all(cached)


def find_run(folder: Path, key: dict[str, Any]) -> TaskRun | None:
    """The result that the cache in `folder` keeps under exactly this key, which is plain JSON.

    The key holds everything that a result depends on: weights, configuration, tokenizer, task,
    documents, settings, device, dtype, and versions. None if it is missing or damaged.
    """
    with suppress(*_BROKEN), gzip.open(_name_run(folder, key), "rt", encoding="utf-8") as file:
        stored = json.load(file)
        if stored["key"] == key:
            return dict(stored["record"])
    return None


def keep_run(folder: Path, key: dict[str, Any], run: TaskRun) -> None:
    """Keeps a result if it can. A missing one only has to be computed again."""
    text = json.dumps({"key": key, "record": run})
    place = _name_run(folder, key)
    save_to_cache(place, lambda path: path.write_bytes(gzip.compress(text.encode())))


def _name_run(folder: Path, key: dict[str, Any]) -> Path:
    text = json.dumps(key, sort_keys=True)
    return folder / "benchmarks" / f"{hashlib.sha256(text.encode()).hexdigest()}.json.gz"


def hash_settings(loaded: LoadedModel) -> dict[str, Any]:
    """Hashes of what the weights do not cover: configuration and tokenizer."""
    config = loaded.model.config.to_dict()
    config = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    described = json.dumps(config, sort_keys=True, default=str)
    tokenizer, text = loaded.tokenizer, None
    if tokenizer is not None:
        fast = getattr(tokenizer, "backend_tokenizer", None)
        text = fast.to_str() if fast is not None else json.dumps(sorted(tokenizer.get_vocab()))
    return {
        f"{name}_sha256": None if made is None else hashlib.sha256(made.encode()).hexdigest()
        for name, made in (("config", described), ("tokenizer", text))
    }


def measure_size(loaded: LoadedModel) -> dict[str, int]:
    """Parameters, bytes on disk, and bytes of the cache for each token."""
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=loaded.model.device)
    with torch.inference_mode():
        _, cache = hidden_states(loaded.model, ids, use_cache=True)
    return {
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "weight_bytes": loaded.found.inventory.nbytes,
        "cache_bytes_per_token": cache_bytes(cache) // _TOKENS if cache is not None else 0,
    }
