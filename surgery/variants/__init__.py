"""Attention-free variants, one file each. A new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from surgery.errors import UnsupportedError
from surgery.variants import identity, linear, mean, zero
from surgery.variants.affine import Affine, Fit, Kind, Sources, Variant

__all__ = ["VARIANTS", "Affine", "Fit", "Kind", "Sources", "Variant", "needs_text", "variant_of"]

_ALL: tuple[Variant, ...] = (identity, zero, mean, linear)
VARIANTS: dict[str, Variant] = {variant.NAME: variant for variant in _ALL}


def needs_text(names: Iterable[str]) -> UnsupportedError:
    """What to say where fitted variants have no calibration text."""
    return UnsupportedError(
        f"variant {' and '.join(sorted(set(names)))} needs calibration text",
        fix="name text files that resemble the model's use with `calibration`",
    )


def variant_of(name: str) -> Variant:
    """The variant of that name. Raises `UnsupportedError` for an unknown one."""
    if name not in VARIANTS:
        raise UnsupportedError(f"unknown variant {name!r}", expected=" or ".join(VARIANTS))
    return VARIANTS[name]
