"""Loads a folder through transformers, strictly: a missing weight is an error."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as _logging

from surgery.checkpoint.configuration import (
    check_alone,
    check_config,
    check_processors,
    find_method,
)
from surgery.checkpoint.inventory import check_complete, make_inventory
from surgery.checkpoint.source import (
    HEADS,
    Checkpoint,
    encode_json,
    open_checkpoint,
    open_tokenizer,
)
from surgery.checkpoint.torch_tensors import as_torch
from surgery.errors import (
    CheckpointError,
    SamplesError,
    SourceError,
    SurgeryError,
    UnsupportedError,
)
from surgery.families import Family, family_of
from surgery.privacy import check_link
from surgery.untrusted import parse_json, read_bytes, read_json, reraise_as

if TYPE_CHECKING:
    from surgery.hub.resolved import ResolvedModel

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_COMPARED = 1024  # numbers of each tensor
_PLACES = ("vocab", "merges")  # arguments that may be a path
_PROBE = "The quick brown fox jumps over the lazy dog."


def choose_device() -> torch.device:
    """Where to run if nothing else is asked for: on a GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_arithmetic(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies numbers of a dtype about as fast as it can.

    CPUs have no float16 arithmetic. Without AVX-512, bfloat16 takes 40 to 200 times as long as
    float32.
    """
    if device.type != "cpu" or dtype not in (torch.float16, torch.bfloat16):
        return True
    fast = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return fast and dtype == torch.bfloat16


def choose_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """In which dtype to run: as stored, but float32 where a device has no arithmetic for it."""
    return stored if has_arithmetic(stored, device) else torch.float32


def load_model(
    model: str | Path | Checkpoint,
    *,
    dtype: Any = "auto",
    device: Any = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
) -> Any:
    """Loads a causal language model, in eval mode, from a folder. Never runs code of the folder.

    **Arguments:** `dtype`: "auto" (as stored) or a torch dtype; `device` moves the whole model,
    `device_map` spreads it; `attn_implementation`: eager, sdpa, … (default: the library's choice).
    """
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(Path(model))
    folder, family = checkpoint.folder, family_of(checkpoint.config)
    check_config(checkpoint.config, family)  # before the library fails on it
    check_complete(make_inventory(checkpoint.config, checkpoint.infos))
    check_alone(folder)
    check_link(folder / "generation_config.json", folder)  # which the library reads, too
    asked = {"device_map": device_map, "attn_implementation": attn_implementation}
    safe = all(shard.verbatim for shard in checkpoint.shards)
    with reraise_as(CheckpointError, "cannot be loaded", folder), _silence():
        new: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=_make_config(checkpoint.config, family),
            use_safetensors=safe,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            **{name: value for name, value in asked.items() if value is not None},
        )
    _check_loaded(new, checkpoint, family)
    if device is not None:
        new = new.to(device)
    return new.eval()


def load_to_train(
    model: str | Path | Checkpoint,
    device: torch.device | None,
    dtype: torch.dtype | None,
    device_map: str | None = None,
) -> Any:
    """Loads a model where, and in the dtype in which, it is trained: by default on a GPU, if there
    is one, and as `choose_dtype` says."""
    place = None if device_map else device or choose_device()
    loaded = load_model(model, device=place, device_map=device_map)
    dtype = dtype or choose_dtype(loaded.dtype, loaded.device)
    return loaded if dtype == loaded.dtype else loaded.to(dtype)  # else buffers may be wider


def build_empty(config: dict[str, Any]) -> Any:
    """The library's model of a parsed config.json, without numbers."""
    with _silence(), warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made, auto = _make_config(config, family_of(config)), cast(Any, AutoModelForCausalLM)
        return auto.from_config(made, trust_remote_code=False)


def _make_config(config: dict[str, Any], family: Family) -> Any:
    """Makes the library's configuration from only the keys that the family knows.

    Raises `CheckpointError` if the library would use another size than config.json says.
    """
    known = deepcopy(family.known_config(config))
    if (method := find_method(known)) is not None:
        raise UnsupportedError(
            f"weights are quantized by {method}, and only models with plain weights are run",
            where="config.json",
            fix="load or measure the model before it was quantized",
        )
    made = CONFIG_MAPPING[config["model_type"]].from_dict(known)
    dimensions = family.dimensions(config)
    for field, key in family.config_keys.items():
        size, runs = getattr(dimensions, field), getattr(made, key, None)
        if runs not in (size, None):
            raise CheckpointError(
                "the library would use another size", where=key, expected=size, got=runs
            )
    return made


def _check_loaded(model: Any, checkpoint: Checkpoint, family: Family) -> None:
    """Raises `CheckpointError` unless the library loaded the tensors that we read.

    Compares names, and the first numbers of every tensor in memory.
    """
    loaded = {name: tensor.detach() for name, tensor in model.named_parameters()}  # tied ones once
    stored = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in HEADS}
    for head in HEADS:  # the library may give it another of its names
        if head in loaded:
            stored[head] = next(t for name, t in checkpoint.tensors.items() if name in HEADS)
    known = make_inventory(checkpoint.config, checkpoint.infos).parameters
    parameters = {name for name in stored if name in known or name in HEADS}
    _check_experts(set(loaded) - parameters, checkpoint, family)
    different = {
        name for name in parameters ^ set(loaded) if not _is_stored_otherwise(family, name)
    }
    for name in parameters & set(loaded):
        if not loaded[name].is_meta:  # else offloaded
            tensor = stored[name]
            ours = as_torch(tensor.read_first(_COMPARED), tensor.info.dtype).to(loaded[name].dtype)
            theirs = loaded[name].reshape(-1)[:_COMPARED].cpu()
            if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
                different.add(name)
    if different:
        raise CheckpointError(
            f"{min(different)!r} was loaded with other numbers than the folder holds",
            where=checkpoint.folder,
            fix="try again if the folder has just changed; otherwise report this",
        )


def _check_experts(unknown: set[str], checkpoint: Checkpoint, family: Family) -> None:
    """Raises `CheckpointError` for experts that the library holds one by one, and the files merged.

    Version 5 merges experts, and splits none. Version 4 would leave these random.
    """
    if random := [
        name for name in unknown if _EXPERT.search(name) and _is_stored_otherwise(family, name)
    ]:
        raise CheckpointError(
            f"{min(random)!r} was not loaded: the files hold all experts in one tensor",
            where=checkpoint.folder,
            fix="install transformers 5 or later",
        )


def _is_stored_otherwise(family: Family, name: str) -> bool:
    """Whether versions of the library differ in how they split such a tensor, as of experts."""
    match = family.match(name)
    return match is not None and match[0].instead_of is not None


def close_up(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows, int64 [B, T], with their negative tokens at the end, where no other token sees them;
    and where each token stands there, [B, T], None if all stay where they are."""
    none = tokens < 0
    if not (none[:, :-1] & ~none[:, 1:]).any():
        return tokens, None
    order = none.to(torch.int8).argsort(dim=1, stable=True)
    return tokens.gather(1, order), order.argsort(dim=1)


def take_places(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The states at some places of each row: [B, T, d], int64 [B, S] → [B, S, d]."""
    places = places.clamp(max=states.shape[1] - 1).to(states.device)
    return states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def place_ids(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Returns int64 token ids on the model's device. Negative ones, which stand after the end of a
    row, become some token: nothing before them sees it."""
    weight = model.get_input_embeddings().weight
    most = int(tokens.max()) if tokens.numel() else 0
    if most >= len(weight):
        raise SamplesError(
            "token ids are outside the model's vocabulary",
            expected=f"ids below {len(weight)}",
            got=most,
            fix="use the tokenizer of this model",
        )
    tokens = tokens.clamp(min=0)
    return tokens if weight.is_meta else tokens.to(weight.device)  # offloaded: it moves them itself


@contextmanager
def _silence() -> Iterator[None]:
    """Silences the library's progress bar and its report on unused buffers."""
    logging: Any = _logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a local folder has a tokenizer; without one the library makes one up."""
    return any((Path(folder) / name).is_file() for name in VOCABULARIES)


def share_tokens(one: ResolvedModel, other: ResolvedModel) -> bool:
    """Whether the same ids stand for the same tokens; either may have some more."""
    if not (has_tokenizer(one.folder) and has_tokenizer(other.folder)):
        return one.inventory.dimensions.vocabulary == other.inventory.dimensions.vocabulary
    if _read_files(one.folder) == _read_files(other.folder):
        return True
    few, many = sorted(
        (load_tokenizer(model.folder).get_vocab() for model in (one, other)), key=len
    )
    return bool(few.items() <= many.items())


def _read_files(folder: Path) -> list[bytes | None]:
    paths = [folder / name for name in VOCABULARIES]
    return [path.read_bytes() if path.is_file() else None for path in paths]


def _drop_paths_of_files(copy: Path) -> None:
    """Removes settings of a private copy that name files: a library may open them anywhere."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (copy / name).is_file():
            continue
        given = parse_json(read_bytes(copy / name, SourceError))
        kept = {
            key: value
            for key, value in given.items()
            if not (isinstance(value, str) and (key.endswith("_file") or key in _PLACES))
        }
        if kept != given:
            (copy / name).write_bytes(encode_json(kept))


def find_longest(folder: Path) -> int | None:
    """How many tokens the model in a folder reads, where its configuration says so."""
    with suppress(SurgeryError, OSError, ValueError):
        config = read_json(folder / "config.json")
        longest = config.get("max_position_embeddings")
        return longest if type(longest) is int and longest > 0 else None
    return None


def load_tokenizer(folder: str | Path) -> Any:
    """Loads the tokenizer of a local folder. Never runs code of the folder."""
    if not has_tokenizer(folder):
        raise SourceError("holds no tokenizer", where=folder, expected=" or ".join(VOCABULARIES))
    check_processors(Path(folder))
    with (
        open_tokenizer(Path(folder)) as copy,
        reraise_as(SourceError, "the tokenizer cannot be loaded", folder),
        _silence(),
    ):
        _drop_paths_of_files(copy)
        tokenizer = AutoTokenizer.from_pretrained(
            copy, local_files_only=True, trust_remote_code=False
        )
        tokenizer.name_or_path = str(folder)
        ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        if longest := find_longest(Path(folder)):
            tokenizer.model_max_length = longest
    if not ids:
        raise SourceError("the tokenizer gives no tokens for text", where=folder, got="none")
    return tokenizer
