"""Where passages are cut, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.terminal import echo, note


def print_cuts(cuts: Sequence[dict[str, Any]], given_numbers: int) -> None:
    """Prints where prefix and suffix of some passages stand, with their text if there is any.

    Warns of passages whose prefix holds a number that no other passage has.
    """
    for cut in cuts:
        (begin, seam), (_, end) = cut["prefix"], cut["suffix"]
        prefix, suffix = cut["tokens"]
        echo(
            f"  {cut['id']}: prefix of {prefix} tokens, {cut['unit']} {begin} to {seam}; suffix of "
            f"{suffix}, {seam} to {end}"
        )
        for name, text in zip(("prefix", "suffix"), cut.get("text", ()), strict=False):
            echo(f"    {name}: {text!r}")
    if given_numbers:
        passages = "passage" if given_numbers == 1 else "passages"
        note(
            f"warning: in {given_numbers:,} {passages}, the prefix, which a model is given, holds "
            "a number that no other passage has; if it must not come out, mark it with --secret"
        )
