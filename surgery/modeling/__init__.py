"""The compact layout's model classes: one file for all families, which travels with checkpoints."""

from __future__ import annotations

from surgery.modeling.names import MODELING_FILE, MODULE, auto_map, class_names
from surgery.modeling.registration import register

__all__ = ["MODELING_FILE", "MODULE", "auto_map", "class_names", "register"]
