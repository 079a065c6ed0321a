"""The modeling file that a compact checkpoint of each family carries, and what its config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["MODELING_FILES", "ModelingFile"]


@dataclass(frozen=True)
class ModelingFile:
    """One family's compact classes: where their code is and what config.json calls them.

    - `model_type`: of the compact checkpoint; its own, so that no other class can load it.
    - `prefix`: what the names of the classes begin with.
    """

    model_type: str
    prefix: str

    @property
    def module(self) -> str:
        """Name under which the code is imported from this package."""
        return f"{__package__}.{self.path.stem}"

    @property
    def path(self) -> Path:
        """The file to copy beside the checkpoint."""
        return Path(__file__).with_name(f"modeling_{self.model_type}.py")

    @property
    def architecture(self) -> str:
        """The entry of `architectures` in config.json."""
        return f"{self.prefix}ForCausalLM"

    @property
    def auto_map(self) -> dict[str, str]:
        """The value of `auto_map` in config.json: auto class -> file.Class."""
        return {
            "AutoConfig": f"{self.path.stem}.{self.prefix}Config",
            "AutoModel": f"{self.path.stem}.{self.prefix}Model",
            "AutoModelForCausalLM": f"{self.path.stem}.{self.architecture}",
        }


MODELING_FILES: Mapping[str, ModelingFile] = MappingProxyType(
    {
        "gpt_neox": ModelingFile("attention_free_gpt_neox", "AttentionFreeGPTNeoX"),
        "gpt_neo": ModelingFile("attention_free_gpt_neo", "AttentionFreeGPTNeo"),
    }
)
"""Model type of the source -> what its compact checkpoint carries."""
