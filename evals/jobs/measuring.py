"""Takes all of one model's measurements while it is in memory."""

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
    measure_control,
)
from evals.measure.memorization.summary import ControlLoss
from evals.report.figures import ModelSize, SizedModel
from evals.run.console import show_progress
from evals.run.forward import cache_bytes, hidden_states
from evals.run.lm_eval.running import SEEDS, TaskRun
from evals.run.models import LoadedModel, check_precision, open_model
from surgery.checkpoint.content import save_to_cache
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.processes import current_processes
from surgery.record.manifest import list_versions

WINDOW = 64
"""Tokens of a held-out window if there are no samples to take the length from."""

_TOKENS = 8  # after which a cache is measured
_BROKEN = (OSError, EOFError, ValueError, RecursionError, LookupError, TypeError, zlib.error)


@dataclass(frozen=True)
class ModelResults:
    """One model's results, without the model.

    The last five fields (tokenizer, passages, held-out windows, attacks and precision) come from
    the first model and also apply to the others.
    """

    runs: dict[str, TaskRun]
    from_cache: bool
    test: ExtractionResults | None
    control: ControlLoss | None
    audited: AuditedModel | None
    model: SizedModel
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
    materials: Materials,
    base: ModelResults | None = None,
    *,
    cut: tuple[int, ...] | None = None,
    inspect: Callable[[Samples | None, Tokens | None], None] = lambda samples, windows: None,
) -> ModelResults:
    """Measures the first model or, given its results as `base`, another one in the same way.

    `cut`: as for `try_attacks`. `inspect`: gets the first model's passages and held-out windows
    before it is measured. Raises `MeasurementError` if the models cannot be compared.
    """
    loaded = open_model(model, **materials.request.running)
    name = loaded.name
    if base is None:
        protocol, windows, attacked = tokenize(materials, loaded.tokenizer)
        inspect(protocol.samples if protocol else None, windows)
    else:
        protocol, windows, attacked = base.protocol, base.windows, base.attacked
        check_precision(base.dtype, loaded.dtype, loaded.name)
        if loaded.tokenizer is None:
            loaded = replace(loaded, tokenizer=base.tokenizer)
    identity = {**current_processes().once(lambda: loaded.provenance), **hash_settings(loaded)}
    test = control = audited = None
    if protocol is not None:
        with show_progress(f"extraction, {name}", protocol.rows) as advance:
            test = measure(loaded, protocol, advance=advance)
        control, protocol = test.control, replace(protocol, batch_size=test.test.batch_size)
    elif windows is not None:
        control = measure_control(loaded.model, windows, batch_size=materials.request.batch_size)
    if attacked is not None:
        size = protocol.batch_size if protocol else None
        audited = _attack(loaded, attacked, materials, base, cut, size)
    return ModelResults(
        *_run_benchmarks(loaded, materials, identity, base),
        test,
        control,
        audited,
        SizedModel(name=loaded.name, size=measure_size(loaded), provenance=identity),
        loaded.tokenizer,
        protocol,
        windows,
        attacked,
        loaded.dtype,
    )


def _attack(
    loaded: LoadedModel,
    plan: AttackPlan,
    materials: Materials,
    base: ModelResults | None,
    cut: tuple[int, ...] | None,
    batch_size: int | None,
) -> AuditedModel:
    """Attacks a model. A journal keeps each attack until the report is there.

    `batch_size`: that of all passes of all models; free memory may change on the way.
    """
    known = base.audited if base else None
    cut = loaded.cut if cut is None else cut
    describe = partial(describe_attacked, plan, loaded, [known.provenance] if known else [], cut)
    journals = materials.journals
    journal = journals.open(describe, loaded, f".{journals.number + 1}")
    with show_progress(f"attacks, {loaded.name}", len(plan.tried)) as advance:
        given: dict[str, Any] = {"with_control": known is not None, "advance": advance}
        sized = replace(plan, batch_size=batch_size)
        return try_attacks(loaded, sized, known, cut=cut, journal=journal, **given)


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
    passages, size = materials.passages, materials.request.batch_size
    samples = passages.tokenize(tokenizer) if passages else None
    if passages is not None and samples is not None:
        warn_of_bare_rows(passages, samples, tokenizer)
    length = samples.tokens.shape[1] if samples else WINDOW
    windows = cut_windows(materials.heldout, tokenizer, length) if materials.heldout else None
    protocol = Protocol(samples, windows, batch_size=size) if samples else None
    attacked = None
    if materials.request.attacks and samples and windows is not None:
        request = materials.request
        attacked = AttackPlan(
            samples, windows, request.attacks, size, request.max, request.draws, materials.sibling
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


def measure_size(loaded: LoadedModel) -> ModelSize:
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=loaded.model.device)
    with torch.inference_mode():
        _, cache = hidden_states(loaded.model, ids, use_cache=True)
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        weight_bytes=loaded.found.inventory.nbytes,
        cache_bytes_per_token=cache_bytes(cache) // _TOKENS if cache is not None else 0,
    )
