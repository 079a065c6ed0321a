"""Attention-free variants, one file each. A new one is a new file and a line here."""

from __future__ import annotations

from surgery.errors import UnsupportedError
from surgery.variants import identity, linear, mean, zero
from surgery.variants.affine import Affine, Fit, Kind, Sources, Variant

__all__ = ["VARIANTS", "Affine", "Fit", "Kind", "Sources", "Variant", "variant_of"]

_ALL: tuple[Variant, ...] = (identity, zero, mean, linear)
VARIANTS: dict[str, Variant] = {variant.NAME: variant for variant in _ALL}


def variant_of(name: str) -> Variant:
    """The variant of that name. Raises `UnsupportedError` for an unknown one."""
    if name not in VARIANTS:
        raise UnsupportedError(f"unknown variant {name!r}", expected=" or ".join(VARIANTS))
    return VARIANTS[name]
