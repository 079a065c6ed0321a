"""attn-surgery: rewrite chosen transformer blocks into attention-free variants.

    import surgery

    surgery.export("EleutherAI/pythia-1.4b", "20-23", output="out")   # on disk, streamed
    edited = surgery.apply(model, "20-23", "identity")                # a loaded model
    with surgery.short_circuit(model, "last:4"):                      # for a while
        ...

Importing this package lets transformers load compact checkpoints without remote code. It imports
neither torch nor transformers until a function needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surgery.modeling import register

if TYPE_CHECKING:
    from surgery.errors import SurgeryError
    from surgery.exporting import Export, export
    from surgery.in_memory import apply, short_circuit
    from surgery.inspection import Inspection, inspect
    from surgery.publishing import Push, push
    from surgery.verification import Verification, verify

_HOMES = {
    "Export": "surgery.exporting",
    "Inspection": "surgery.inspection",
    "Push": "surgery.publishing",
    "SurgeryError": "surgery.errors",
    "Verification": "surgery.verification",
    "apply": "surgery.in_memory",
    "export": "surgery.exporting",
    "inspect": "surgery.inspection",
    "push": "surgery.publishing",
    "short_circuit": "surgery.in_memory",
    "verify": "surgery.verification",
}

__all__ = [
    "Export",
    "Inspection",
    "Push",
    "SurgeryError",
    "Verification",
    "apply",
    "export",
    "inspect",
    "push",
    "short_circuit",
    "verify",
]

register()


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
