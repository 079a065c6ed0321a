"""Draws what every attack recovers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.drawing import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS: dict[str, dict[str, Any]] = {
    "base": {"color": "#8f2d00", "marker": "s"},
    "edited": {"color": "#000000", "marker": "o"},
    "control": {"color": "#4a9bd9", "marker": "|", "markersize": 9.0},
}


def draw_audit(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws audit.png and audit.svg from the object of `audit --json`.

    One line per attack holds its shares with 95 % intervals. A second panel holds the fine-tuning
    curves, if there are any.
    """
    rated = [attack for attack in result["attacks"] if "paired" in attack]
    curves = [attack for attack in rated if attack.get("curve")]

    def paint(figure: Figure) -> None:
        widths = [2, 1] if curves else [2]
        left, *others = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        for look, offset in zip(_LOOKS, (-0.2, 0.0, 0.2), strict=True):
            some = {i + offset: a[look] for i, a in enumerate(rated) if a[look] is not None}
            shares = [(share["rate"], *share["ci95"]) for share in some.values()]
            rates, *ends = 100 * np.reshape(shares, (-1, 3)).T
            known = {"linestyle": "none", "xerr": np.abs(ends - rates), **_LOOKS[look]}
            label = "never trained on" if look == "control" else look
            left.errorbar(rates, list(some), label=label, **known)
        left.set_yticks(range(len(rated)), [attack["name"] for attack in rated])
        left.invert_yaxis()
        left.set_xlabel("passages recovered, %")
        for right in others:
            for attack, style in zip(curves, ("-", "--", ":"), strict=False):
                curve, label = attack["curve"]["edited"], f"edited, {attack['name']}"
                looks = {"linestyle": style, "marker": "o", "color": "black"}
                shares = [100 * share for share in curve["any"]]
                right.plot(curve["stages"], shares, label=label, **looks)
            right.set_xlabel("steps of fine-tuning")
            right.set_ylabel("recovered (any), %")
            right.set_ylim(bottom=0)

    title = f"What an attacker recovers of {result['n']} passages (95 % intervals)"
    return draw(paint, folder, "audit", title=title, size=(9.0, 1.9 + 0.35 * len(rated)))
