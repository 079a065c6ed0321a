"""attn-surgery: rewrite chosen transformer blocks into attention-free variants.

    import surgery

    surgery.export("EleutherAI/pythia-1.4b", "20-23", output="out")   # on disk, streamed
    edited = surgery.apply(model, "20-23", "identity")                # a loaded model
    with surgery.short_circuit(model, "last:4"):                      # for a while
        ...

Importing this package imports neither torch nor transformers until a function needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.errors import SurgeryError
    from surgery.exporting import Export, export
    from surgery.in_memory import apply, short_circuit
    from surgery.inspection import Inspection, inspect
    from surgery.publishing.upload import Push, push
    from surgery.training.erasing import erase
    from surgery.training.healing import heal
    from surgery.verification import Verification, verify

_HOMES = {
    "surgery.in_memory": ("apply", "short_circuit"),
    "surgery.errors": ("SurgeryError",),
    "surgery.exporting": ("Export", "export"),
    "surgery.inspection": ("Inspection", "inspect"),
    "surgery.verification": ("Verification", "verify"),
    "surgery.publishing.upload": ("Push", "push"),
    "surgery.training.erasing": ("erase",),
    "surgery.training.healing": ("heal",),
}

__all__ = [
    "Export",
    "Inspection",
    "Push",
    "SurgeryError",
    "Verification",
    "apply",
    "erase",
    "export",
    "heal",
    "inspect",
    "push",
    "short_circuit",
    "verify",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
