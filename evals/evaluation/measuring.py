"""One model of an evaluation: everything that is measured while it is in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from evals.benchmarks.running import SEEDS, TaskRun
from evals.evaluation.plan import Plan, Progress
from evals.evaluation.report import Size
from evals.memorization.comparison import Measured, Protocol, measure, measure_control
from evals.memorization.summary import Control
from evals.models import LoadedModel, open_model
from evals.running.forward import cache_bytes, hidden_states
from evals.samples import Tokens
from evals.samples.windows import control_windows
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import versions

WINDOW = 64
"""Tokens of a held-out window where no samples say how long; the first half is given."""

_TOKENS = 8  # after which a cache is measured


@dataclass(frozen=True)
class Side:
    """One model's results, without the model. `shared`: what the other must be measured with."""

    runs: dict[str, TaskRun]
    from_cache: bool
    test: Measured | None
    control: Control | None
    size: Size
    identity: dict[str, Any]
    shared: Shared


@dataclass(frozen=True)
class Shared:
    """Text and passages as token ids, and the tokenizer that made them."""

    tokenizer: Any
    dtype: str
    protocol: Protocol | None
    windows: Tokens | None


def measure_base(
    model: ResolvedModel, plan: Plan, *, say: Callable[[str], None], progress: Progress
) -> Side:
    """The first model. Its batch sizes and its tokens are also those of the second."""
    loaded = _open(model, plan, say)
    protocol = windows = None
    if plan.samples is not None:
        samples = plan.samples.tokenized(loaded.tokenizer)
        windows = _windows(plan, loaded, samples.tokens.shape[1])
        protocol = Protocol(samples, windows, batch_size=plan.batch_size)
    else:
        windows = _windows(plan, loaded, WINDOW)
    shared = Shared(loaded.tokenizer, loaded.dtype, protocol, windows)
    return _side(loaded, plan, shared, progress, None)


def measure_edited(
    model: ResolvedModel,
    plan: Plan,
    base: Side,
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> Side:
    """The second model, as the first was. Raises `MeasurementError` where that cannot be."""
    loaded, shared = _open(model, plan, say), base.shared
    if loaded.dtype != shared.dtype:
        raise MeasurementError(
            "the models would run in different precisions",
            expected=f"{shared.dtype}, as the baseline",
            got=f"{loaded.dtype} for {loaded.name}",
            fix="choose one with `dtype`",
        )
    if loaded.tokenizer is None:
        loaded = replace(loaded, tokenizer=shared.tokenizer)
    if shared.protocol is not None and base.test is not None:
        protocol = replace(shared.protocol, batch_size=base.test.test.batch_size)
        shared = replace(shared, protocol=protocol)
    return _side(loaded, plan, shared, progress, base)


def tool_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), **{name: version(name) for name in ("lm-eval", "datasets")}}


def _open(model: ResolvedModel, plan: Plan, say: Callable[[str], None]) -> LoadedModel:
    return open_model(
        model,
        dtype=plan.dtype,
        device=plan.device,
        device_map=plan.device_map,
        say=say,
    )


def _windows(plan: Plan, loaded: LoadedModel, length: int) -> Tokens | None:
    return control_windows(plan.heldout, loaded.tokenizer, length) if plan.heldout else None


def _side(
    loaded: LoadedModel,
    plan: Plan,
    shared: Shared,
    progress: Progress,
    base: Side | None,
) -> Side:
    identity = {**loaded.provenance, **content_of(loaded)}
    test = control = None
    protocol, windows = shared.protocol, shared.windows
    if protocol is not None:
        total = len(protocol.samples) + (0 if windows is None else len(windows))
        with progress(f"extraction, {loaded.name}", total) as advance:
            test = measure(loaded, protocol, advance=advance)
        control = test.control
    elif windows is not None:
        control = measure_control(loaded.model, windows, WINDOW // 2, batch_size=plan.batch_size)
    runs, found = _runs(loaded, plan, identity, progress, base)
    return Side(
        runs,
        found,
        test,
        control,
        size_of(loaded),
        identity,
        shared,
    )


def _runs(
    loaded: LoadedModel,
    plan: Plan,
    identity: dict[str, Any],
    progress: Progress,
    base: Side | None,
) -> tuple[dict[str, TaskRun], bool]:
    """Benchmark results by task, and whether all of them are an earlier run's."""
    tasks, runs, cached = plan.benchmarks, {}, []
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
        run = plan.cache.get(key) if base is None else None
        cached.append(run is not None)
        if run is None:
            size = base.runs[name]["batch_size"] if base else plan.batch_size
            size = size or tasks.batch_size(name, loaded)
            with progress(f"{name}, {loaded.name}", None) as advance:
                run = tasks.run(name, loaded, batch_size=size, advance=advance)
            if base is None:
                plan.cache.put(key, run)
        runs[name] = run
    return runs, all(cached)


def content_of(loaded: LoadedModel) -> dict[str, Any]:
    """Hashes of what weights alone do not tell: configuration and tokenizer."""
    config = loaded.model.config.to_dict()
    config = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    tokenizer, text = loaded.tokenizer, None
    if tokenizer is not None:
        fast = getattr(tokenizer, "backend_tokenizer", None)
        text = fast.to_str() if fast is not None else json.dumps(sorted(tokenizer.get_vocab()))
    return {
        "config_sha256": _sha256(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer_sha256": None if text is None else _sha256(text),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def size_of(loaded: LoadedModel) -> Size:
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=loaded.model.device)
    with torch.inference_mode():
        _, cache = hidden_states(loaded.model, ids, use_cache=True)
    return Size(
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        weight_bytes=loaded.found.inventory.nbytes,
        cache_bytes_per_token=cache_bytes(cache) // _TOKENS if cache is not None else 0,
    )
