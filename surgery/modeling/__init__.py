"""The compact layout's model classes: one file per family, which travels with the checkpoint."""

from __future__ import annotations

from surgery.modeling.files import MODELING_FILES, ModelingFile
from surgery.modeling.registration import register

__all__ = ["MODELING_FILES", "ModelingFile", "register"]
