"""What a compact checkpoint and its config.json call the modeling file and its classes."""

from __future__ import annotations

from pathlib import Path

from surgery.families import Family

MODELING_FILE = Path(__file__).with_name("modeling_attention_free.py")
"""The file to copy beside a compact checkpoint of any family."""

MODULE = f"{__package__}.{MODELING_FILE.stem}"
"""Name under which its code is imported from this package."""


def class_names(family: Family) -> dict[str, str]:
    """Auto class → the class of a family's compact checkpoints."""
    stem = "AttentionFree" + family.architecture.removesuffix("ForCausalLM")
    kinds = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    return {auto: stem + kind for auto, kind in kinds.items()}


def auto_map(family: Family) -> dict[str, str]:
    """The value of `auto_map` in config.json: auto class → file.Class."""
    return {auto: f"{MODELING_FILE.stem}.{name}" for auto, name in class_names(family).items()}
