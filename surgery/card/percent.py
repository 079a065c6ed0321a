"""Writes shares for people."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal


def format_percent(share: float) -> str:
    """A share in percent, without the sign: to a digit after the point, or to more where that would
    make nothing of something."""
    digits = 1
    while share and digits < 9 and not round(100 * abs(share), digits):
        digits += 1
    return f"{100 * share:.{digits}f}"


def format_bound(share: float) -> str:
    """The same, rounded up: "at most" must hold."""
    text = format_percent(share)
    up = (100 * Decimal(str(share))).quantize(Decimal(text), ROUND_CEILING)
    return f"{min(up, Decimal(100).quantize(Decimal(text)))}"
