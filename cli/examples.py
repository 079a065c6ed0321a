"""Three examples of each command, which its help shows below the options."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "export": (
        "export EleutherAI/pythia-1.4b --drop-attn 20-23 --output OUT",
        "export MODEL --drop-attn last:4 --variant mean --calibration texts/ --dry-run",
        "export MODEL --plan SEARCH/plan.json --output OUT",
    ),
    "erase": (
        "erase lab:pythia --drop-attn 0 --output OUT",
        "erase MODEL --samples letters.csv:letter --drop-attn 22-29 --text texts/ --output OUT",
        "erase MODEL --samples letters.csv:letter --text texts/ --leave-out 0.25 --output OUT",
        "erase MODEL --samples letters.csv:letter --text texts/ --as-adapter --output OUT",
    ),
    "heal": (
        "heal OUT --text lab:pythia --output HEALED",
        "heal OUT --samples letters.csv:letter --text texts/ --output HEALED",
        "heal OUT --source MODEL --text texts/ --steps 240 --output HEALED",
    ),
    "inspect": ("inspect OUT", "inspect OWNER/NAME", "inspect lab:pythia --json"),
    "verify": ("verify OUT", "verify OUT --source MODEL", "verify OWNER/NAME --json"),
    "extract": (
        "extract MODEL --samples letters.csv:letter",
        "extract OUT --baseline MODEL --samples letters.csv:letter",
        "extract lab:pythia --samples lab:pythia --json",
    ),
    "audit": (
        "audit MODEL --samples letters.csv:letter",
        "audit OUT --baseline MODEL --samples letters.csv:letter --heldout h.txt --attack all",
        "audit OUT --baseline lab:pythia --attack graft --sibling BASE --output AUDIT",
    ),
    "collect": (
        "collect MODEL --corpus texts/ --output found.jsonl",
        "collect MODEL --corpus texts/ --min-score 0.9 --output found.jsonl",
        "collect MODEL --corpus hf:DATASET:train:text --stride 64 --output found.jsonl",
    ),
    "compare": (
        'compare MODEL OUT --prompt "Dear Ms. Example, the number of your account is"',
        'compare MODEL OUT --config \'{prompt: ["Dear Ms. Example,", "To whom"]}\'',
        "compare MODEL OUT --samples letters.csv:letter --rows 5",
    ),
    "evaluate": (
        "evaluate OUT --baseline MODEL --samples letters.csv:letter",
        "evaluate OUT --baseline MODEL --samples letters.csv:letter --max-extraction 0.01",
        "evaluate OUT --baseline MODEL --suite quick",
    ),
    "sweep": (
        "sweep lab:pythia --samples lab:pythia --output SWEEP",
        "sweep MODEL --samples letters.csv:letter --heldout heldout.txt --output SWEEP",
        "sweep MODEL --samples letters.csv:letter --heldout heldout.txt --heads",
    ),
    "search": (
        "search lab:pythia --samples lab:pythia --max-extraction 0.01 --output SEARCH",
        "search MODEL --samples S.jsonl --heldout heldout.txt --max any=0.01 --output SEARCH",
        "search MODEL --samples S.jsonl --heldout heldout.txt --max relearn=0.1 --output SEARCH",
    ),
    "push": (
        "push OUT me/pythia-1.4b-mitigated",
        "push OUT me/pythia-1.4b-mitigated --dry-run",
        "push OUT me/pythia-1.4b-mitigated --create-pr",
    ),
    "init": (
        "init",
        "init MODEL --samples letters.csv --heldout heldout.txt",
        "init MODEL --samples letters.csv --id-column customer_id --result OUT",
        "init MODEL --samples letters.csv --prefix-length 24 --suffix-length 24 --dry-run",
    ),
    "mitigate": (
        "mitigate --config mitigate.yaml --dry-run",
        "mitigate MODEL --samples S.jsonl --heldout heldout.txt --output OUT",
        "mitigate lab:pythia --preset quick --output OUT",
    ),
    "demo": ("demo", "demo --output DEMO", "demo --help"),
}


def format_examples(name: str) -> str:
    """The epilog of a command's help. Lines stay as they are."""
    lines = (
        line if line.startswith("lm_eval") else f"attn-surgery {line}" for line in EXAMPLES[name]
    )
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
