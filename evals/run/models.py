"""Finds and opens models in a known precision on a known device, and identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from evals.run.console import say
from evals.run.groups import Run
from evals.run.keep import Store, identify
from surgery.compact import MODELING_FILE, is_compact
from surgery.config import find_method
from surgery.errors import CheckpointError, MeasurementError
from surgery.families import Dimensions, Family
from surgery.fitting.fitter import Fitter
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.in_memory import Editable
from surgery.loading import (
    choose_device,
    has_arithmetic,
    has_tokenizer,
    load_model,
    load_tokenizer,
)
from surgery.processes import by_one, current_processes
from surgery.torch_tensors import TAGS
from surgery.untrusted import describe_error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, where it was `found`, and its tokenizer, if it has one."""

    found: ResolvedModel
    model: PreTrainedModel
    tokenizer: Any

    @property
    def name(self) -> str:
        return self.found.source.model

    @property
    def identity(self) -> dict[str, Any]:
        """The model's name, and the fingerprint of its content."""
        return self.found.identified.model_dump()

    def narrow(self, store: Store, *given: Any) -> Store:
        """A store of work on the model."""
        return store.narrow(self, *given)

    @property
    @by_one
    def provenance(self) -> dict[str, Any]:
        """The model's identity, and how it runs: precision, device, attention. Of the current
        processes, one hashes the weights: each must call this."""
        return {
            **self.identity,
            "dtype": self.dtype,
            "device": self.device,
            "attn_implementation": self.model.config._attn_implementation,
        }

    @property
    def cut(self) -> tuple[int, ...]:
        """As `ResolvedModel.cut`."""
        return self.found.cut

    @cached_property
    def editable(self) -> Editable:
        """The model for temporary edits; plans are made once."""
        return Editable(self.model, stored_dtype=self.found.dtype)

    @property
    def family(self) -> Family:
        return self.found.family

    @property
    def dimensions(self) -> Dimensions:
        return self.found.dimensions

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """Type and product name of the device with the first weights."""
        device = self.model.device
        is_gpu = device.type == "cuda"
        return f"cuda ({torch.cuda.get_device_name(device)})" if is_gpu else device.type


@identify.register
def _(loaded: LoadedModel) -> dict[str, Any]:
    """By its content, and how it runs. Not by its name."""
    names = {"model", "revision", "commit"}
    known = {key: value for key, value in loaded.provenance.items() if key not in names}
    return {**known, **hash_settings(loaded)}


@identify.register
def _(found: ResolvedModel) -> str | None:
    return found.identified.content


@identify.register
def _(fitter: Fitter) -> Any:
    return identify(fitter.calibration.windows)


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


def open_model(
    source: str | ResolvedModel,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
) -> LoadedModel:
    """Finds and loads `source`: a folder, an embedded model, a Hub id, or a model that was found.

    - `dtype`: "auto" (as stored, but float32 where a CPU has no arithmetic for it), or a name in
      `DTYPES`.
    - `device`: by default that of the current process, else a GPU, if there is one. `device_map`:
      "auto" spreads the model over all devices instead.
    """
    place = None if device_map else find_device(device)
    found = find_model(source, revision)
    _check_code(found)
    model: Any = load_model(
        found.checkpoint, dtype=DTYPES.get(dtype, "auto"), device=place, device_map=device_map
    )
    if dtype == "auto" and not has_arithmetic(model.dtype, model.device):
        stored = str(model.dtype).removeprefix("torch.")
        say(f"{found.source.model}: {stored} weights are measured in float32 on this CPU")
        model = model.float()
    tokenizer = load_tokenizer(found.folder) if has_tokenizer(found.folder) else None
    return LoadedModel(found, model, tokenizer)


def _find_dtype(found: ResolvedModel, dtype: str, place: torch.device) -> torch.dtype:
    """The dtype that the model will have there: that of config.json, else that of the weights."""
    if dtype in DTYPES:
        return DTYPES[dtype]
    config = found.checkpoint.config
    named = DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))))
    stored = named or next(one for one, tag in TAGS.items() if tag == found.dtype)
    return stored if has_arithmetic(stored, place) else torch.float32


def _check_code(found: ResolvedModel) -> None:
    """Raises `CheckpointError` if others would run modeling code other than the measured one.

    Only attn-surgery's own code ever runs. Says so if a Hub model's code is not here to compare.
    """
    file = found.folder / MODELING_FILE.name
    if not is_compact(found.checkpoint.config):
        return
    if not file.is_file() and found.source.commit:
        say(
            f"{found}: runs with attn-surgery's modeling code; the repository's own was not "
            "fetched and may differ"
        )
    if file.is_file() and file.read_bytes() != MODELING_FILE.read_bytes():
        raise CheckpointError(
            "its modeling code is not that of this attn-surgery version, so users who trust it "
            "would run another model than the measured one",
            where=found.folder,
            fix="export it again, or remove auto_map from config.json",
        )


def check_precision(base: str, other: str, name: str) -> None:
    """Raises `MeasurementError` unless two compared models run in one precision.

    `base`, `other`: their dtypes; `name`: of the other model.
    """
    if other != base:
        raise MeasurementError(
            "the models would run in different precisions",
            expected=f"{base}, as the baseline",
            got=f"{other} for {name}",
            fix="choose one with `dtype`",
        )


def check_precisions(models: Sequence[ResolvedModel], run: Run) -> None:
    """Raises `MeasurementError`, before any is loaded, if models would not run as the first does.

    Tells nothing of quantized weights, for which the library decides.
    """
    place = find_device(run.placing["device"])
    plain = [model for model in models if find_method(model.checkpoint.config) is None]
    names = [str(_find_dtype(one, run.dtype, place)).removeprefix("torch.") for one in plain]
    for one, name in zip(plain, names, strict=True):
        check_precision(names[0], name, one.source.model)


def find_device(name: str | None) -> torch.device:
    """By default that of the current process, else a GPU, if there is one.

    Of several devices of a type, the current process has its own.
    """
    own = current_processes().device
    if own is not None and name in (None, own.type):
        return torch.device(own)
    if name is None:
        return choose_device()
    if name == "all":
        raise MeasurementError("this runs on one device", where="`device`", got=name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        got = f"{name}: {describe_error(error)}"
        raise MeasurementError("no such device", where="`device`", got=got) from error
    return device
