"""Loads a folder through transformers, strictly: a missing weight is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as _logging

from surgery.checkpoint import HEADS, Checkpoint, encode_json, open_checkpoint, open_tokenizer
from surgery.compact import is_compact, name_classes
from surgery.config import check_alone, check_config, check_tokenizer, find_method
from surgery.errors import (
    CheckpointError,
    SamplesError,
    SourceError,
    SurgeryError,
    UnsupportedError,
)
from surgery.families import family_of
from surgery.plan import check_attention, is_buffer
from surgery.privacy import check_link
from surgery.untrusted import parse_json, read_bytes, read_json, reraise_as

if TYPE_CHECKING:
    from surgery.hub.resolved import ResolvedModel

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
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
    folder = checkpoint.folder
    check_config(checkpoint.config)  # before the library fails on it
    check_attention(checkpoint.config, checkpoint.tensors)
    check_alone(folder)
    check_link(folder / "generation_config.json", folder)  # which the library reads, too
    asked = {"device_map": device_map, "attn_implementation": attn_implementation}
    safe = all(shard.verbatim for shard in checkpoint.shards)
    with reraise_as(CheckpointError, "cannot be loaded", folder), _silence():
        auto: Any = AutoModelForCausalLM
        new, info = auto.from_pretrained(
            folder,
            config=make_config(checkpoint.config),
            use_safetensors=safe,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{name: value for name, value in asked.items() if value is not None},
        )
    _check_loaded(info, folder)
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


def make_config(config: dict[str, Any]) -> Any:
    """The library's configuration of a parsed config.json.

    Raises `UnsupportedError` for quantized weights, and `CheckpointError` if the library would use
    another size than config.json says.
    """
    if (method := find_method(config)) is not None:
        raise UnsupportedError(
            f"weights are quantized by {method}, and only models with plain weights are run",
            where="config.json",
            fix="load or measure the model before it was quantized",
        )
    if is_compact(config):
        register_compact(config)
    kept = {key: deepcopy(value) for key, value in config.items() if key != "_name_or_path"}
    made = CONFIG_MAPPING[config["model_type"]].from_dict(kept)
    family = family_of(config)
    if family.dimensions(made.to_dict()) != (ours := family.dimensions(config)):
        raise CheckpointError(
            "the library would use other sizes",
            where="config.json",
            expected=ours,
            got=family.dimensions(made.to_dict()),
        )
    return made


def register_compact(config: dict[str, Any]) -> None:
    """Lets the auto classes load compact checkpoints of a family with this tool's own code."""
    from surgery import modeling_attention_free as modeling

    family = family_of(config)
    classes = {auto: getattr(modeling, name) for auto, name in name_classes(family).items()}
    made = classes.pop("AutoConfig")
    transformers.AutoConfig.register(family.compact_model_type, made, exist_ok=True)
    for auto, model in classes.items():
        getattr(transformers, auto).register(made, model, exist_ok=True)


def _check_loaded(info: dict[str, Any], folder: Path) -> None:
    """Raises `CheckpointError` unless the library loaded all that the files hold, and no more."""
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise CheckpointError(
            f"the library finds no weights for {missing[0]!r}",
            where=folder,
            fix="download it again; experts that are merged need transformers 5 or later",
        )
    more = {name for name in info["unexpected_keys"] if not is_buffer(name) and name not in HEADS}
    if more:
        raise CheckpointError(
            f"tensor {min(more)!r} is not one of such a model, and the library leaves it out",
            where=folder,
            fix="check that config.json belongs to these weights",
        )


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
        return one.dimensions.vocabulary == other.dimensions.vocabulary
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
    check_tokenizer(Path(folder))
    with (
        open_tokenizer(Path(folder)) as copy,
        reraise_as(SourceError, "the tokenizer cannot be loaded", folder),
        _silence(),
    ):
        config = read_json(copy / "config.json")
        if is_compact(config):
            register_compact(config)
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
