"""One model of an evaluation: everything that is measured while it is in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from evals.attacks.audit import AttackPlan, AuditedModel, try_attacks
from evals.benchmarks.running import SEEDS, TaskRun
from evals.evaluation.plan import Plan, Progress
from evals.evaluation.report import Size
from evals.memorization.comparison import Measured, Protocol, measure, measure_control
from evals.memorization.summary import Control
from evals.models import LoadedModel, check_precision, open_model
from evals.running.forward import cache_bytes, hidden_states
from evals.samples import Samples, Tokens
from evals.samples.windows import control_windows
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import versions

WINDOW = 64
"""Tokens of a held-out window where no samples say how long."""

_TOKENS = 8  # after which a cache is measured


@dataclass(frozen=True)
class ModelResults:
    """One model's results, without the model.

    The other is measured with the last five as well: the tokenizer, the passages, the held-out
    windows and what is attacked, as the first made them, and the precision.
    """

    runs: dict[str, TaskRun]
    from_cache: bool
    test: Measured | None
    control: Control | None
    audited: AuditedModel | None
    size: Size
    identity: dict[str, Any]
    tokenizer: Any
    protocol: Protocol | None
    windows: Tokens | None
    attacked: AttackPlan | None
    dtype: str

    @property
    def samples(self) -> Samples | None:
        return self.protocol.samples if self.protocol else None


def measure_model(
    model: ResolvedModel,
    plan: Plan,
    base: ModelResults | None = None,
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> ModelResults:
    """Measures the first model; or, with its results as `base`, the second in the same way.

    Raises `MeasurementError` where that cannot be.
    """
    loaded = open_model(
        model, dtype=plan.dtype, device=plan.device, device_map=plan.device_map, say=say
    )
    if base is None:
        protocol, windows, attacked = _tokenized(plan, loaded.tokenizer)
    else:
        protocol, windows, attacked = base.protocol, base.windows, base.attacked
        check_precision(base.dtype, loaded.dtype, loaded.name)
        if loaded.tokenizer is None:
            loaded = replace(loaded, tokenizer=base.tokenizer)
    identity = {**plan.processes.once(lambda: loaded.provenance), **hashes_of(loaded)}
    test = control = audited = None
    sharing = {"processes": plan.processes}
    if protocol is not None:
        total = len(protocol.samples) + (0 if windows is None else len(windows))
        with progress(f"extraction, {loaded.name}", total) as advance:
            test = measure(loaded, protocol, advance=advance, **sharing)
        control, protocol = test.control, replace(protocol, batch_size=test.test.batch_size)
    elif windows is not None:
        control = measure_control(loaded.model, windows, batch_size=plan.batch_size, **sharing)
    if attacked is not None:
        with progress(f"attacks, {loaded.name}", len(attacked.attacks)) as advance:
            audited = try_attacks(
                loaded, attacked, with_control=base is not None, advance=advance, **sharing
            )
    return ModelResults(
        *_runs(loaded, plan, identity, progress, base),
        test,
        control,
        audited,
        size_of(loaded),
        identity,
        loaded.tokenizer,
        protocol,
        windows,
        attacked,
        loaded.dtype,
    )


def _tokenized(
    plan: Plan, tokenizer: Any
) -> tuple[Protocol | None, Tokens | None, AttackPlan | None]:
    samples = plan.samples.tokenized(tokenizer) if plan.samples else None
    length = samples.tokens.shape[1] if samples else WINDOW
    windows = control_windows(plan.heldout, tokenizer, length) if plan.heldout else None
    protocol = Protocol(samples, windows, batch_size=plan.batch_size) if samples else None
    attacked = None
    if plan.attacks and samples and windows is not None:
        attacked = AttackPlan(samples, windows, plan.attacks, plan.batch_size)
    return protocol, windows, attacked


def tool_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), **{name: version(name) for name in ("lm-eval", "datasets")}}


def _runs(
    loaded: LoadedModel,
    plan: Plan,
    identity: dict[str, Any],
    progress: Progress,
    base: ModelResults | None,
) -> tuple[dict[str, TaskRun], bool]:
    """Benchmark results by task, and whether all of them are an earlier run's."""
    tasks, runs, cached = plan.benchmarks, {}, []
    sharing = {"processes": plan.processes}
    if tasks is None:
        return {}, False
    if loaded.tokenizer is None:
        raise MeasurementError("benchmarks need a tokenizer", where=loaded.name)
    for name in tasks.tasks:
        key = {
            "task": name,
            "fingerprint": tasks.fingerprint(name),
            "model": {k: v for k, v in identity.items() if k != "model" or identity["commit"]},
            "batch_size": plan.batch_size or "auto",
            "num_fewshot": tasks.num_fewshot,
            "limit": tasks.limit,
            "seeds": SEEDS,
            "versions": tool_versions(),
        }
        run = plan.processes.once(plan.cache.get, key) if base is None else None
        cached.append(run is not None)
        if run is None:
            size = base.runs[name]["batch_size"] if base else plan.batch_size
            size = size or plan.processes.once(tasks.batch_size, name, loaded)
            with progress(f"{name}, {loaded.name}", None) as advance:
                run = tasks.run(name, loaded, batch_size=size, advance=advance, **sharing)
            if base is None and plan.processes.is_main:
                plan.cache.put(key, run)
        runs[name] = run
    return runs, all(cached)


def hashes_of(loaded: LoadedModel) -> dict[str, Any]:
    """Hashes of what weights alone do not tell: configuration and tokenizer."""
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


def size_of(loaded: LoadedModel) -> Size:
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=loaded.model.device)
    with torch.inference_mode():
        _, cache = hidden_states(loaded.model, ids, use_cache=True)
    return Size(
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        weight_bytes=loaded.found.inventory.nbytes,
        cache_bytes_per_token=cache_bytes(cache) // _TOKENS if cache is not None else 0,
    )
