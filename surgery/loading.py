"""Loading a folder through transformers, strictly: a model with a missing weight is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as _logging

from surgery.errors import CheckpointError, SourceError


def load_model(
    folder: str | Path,
    *,
    dtype: Any = "auto",
    device: Any = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
) -> Any:
    """A causal language model in eval mode, from a local folder. Runs no code of the folder.

    **Arguments:** `dtype`: "auto" (as stored) or a torch dtype; `device` moves the whole model,
    `device_map` spreads it; `attn_implementation`: eager, sdpa, … (default: the library's choice).

    **Raises:** `SourceError` when the folder holds no model, `CheckpointError` when the library
    would have to invent a weight.
    """
    if not (Path(folder) / "config.json").is_file():
        raise SourceError("config.json is missing", where=folder)
    optional: dict[str, Any] = {}
    if device_map is not None:
        optional["device_map"] = device_map
    if attn_implementation is not None:
        optional["attn_implementation"] = attn_implementation
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True, **optional
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError("cannot be loaded", where=folder, got=reason[0][:200]) from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"weight {missing[0]!r} is missing, and the library would fill it with random numbers",
            where=folder,
        )
    if device is not None:
        model = model.to(device)
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the library's report on stored buffers that it no longer uses, and its bar."""
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


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder. Raises `SourceError` when it holds none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:  # older libraries look for protobuf
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError("holds no tokenizer", where=folder, got=reason[0][:200]) from error
