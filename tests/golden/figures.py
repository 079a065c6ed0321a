"""What commands measure on the built-in models: every figure, by its name, model, and passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import attn_surgery

from evals.lab import samples_path

from .models import HERE

LICENSE = HERE.parent.parent / "LICENSE"
LABS = ("pythia", "gpt-neo")
FAST: dict[str, str] = {
    "extract {lab}": "extract lab:{lab} --samples few.jsonl --heldout heldout.txt --metrics full",
    "audit {lab}": "audit cut-{lab} --baseline lab:{lab} --samples few.jsonl --heldout heldout.txt"
    " --attack any --attack hints:8 --attack prefix --attack sampling:100 --attack membership"
    " --output audit-{lab}",
}
SLOW: dict[str, str] = {
    "sweep {lab}": "sweep lab:{lab} --samples few.jsonl --heldout heldout.txt --variant identity"
    " --variant zero --output sweep-{lab}",
    "attacks {lab}": "audit cut-{lab} --baseline lab:{lab} --samples few.jsonl"
    " --heldout heldout.txt --attack in-context --attack quantized:4 --output attacks-{lab}",
    "evaluate {lab}": "evaluate cut-{lab} --baseline lab:{lab} --samples few.jsonl"
    " --heldout heldout.txt --attack any --suite lab --output evaluate-{lab}",
    "erase {lab}": "erase lab:{lab} --samples few.jsonl --text text.txt --by context:8 --steps 3"
    " --output erased-{lab}",
    "extract erased {lab}": "extract erased-{lab} --samples few.jsonl --heldout heldout.txt",
    "heal {lab}": "heal cut-{lab} --text text.txt --steps 3 --output healed-{lab}",
    "extract healed {lab}": "extract healed-{lab} --samples few.jsonl --heldout heldout.txt",
}


def prepare(folder: Path) -> None:
    """Samples, texts, and cut models that the commands take; the current folder must be `folder`.

    The texts are parts of LICENSE: they are the same on every machine.
    """
    text = LICENSE.read_text()
    (folder / "heldout.txt").write_text(text[:6000])
    (folder / "text.txt").write_text(text[6000:])
    records = samples_path("pythia").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(records[::4]))
    for lab, variant in (("pythia", "identity"), ("gpt-neo", "zero")):
        out = f"cut-{lab}"
        call = f"export lab:{lab} --drop-attn 4-5 --variant {variant} --output {out}"
        assert attn_surgery(*call.split()).code == 0


def figures(command: str) -> dict[str, Any]:
    """Runs a command here: {"NAME of MODEL on PASSAGES": [n, value, low, high]}."""
    outcome = attn_surgery(*command.split(), "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.stderr
    rows: dict[str, Any] = {}
    for row in outcome.json.get("figures", ()):
        name = f"{row['name']} of {row['of']} on {row['on']}"
        rows[name] = [row["n"], row["value"], *(row["ci95"] or ())]
    return json.loads(json.dumps(rows))
