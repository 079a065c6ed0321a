"""The commands that are struck, a line for each, and what of theirs can be taken away."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "--samples samples.jsonl --prefix-length 6 --suffix-length 5 --device cpu"
HELD_OUT = "--corpus heldout.txt"


@dataclass(frozen=True)
class Command:
    """One command, run in a fresh copy of the place.

    `line`: what stands after `attn-surgery`; {model} is `source`, or `other` for an old result, and
    {repo} a repository of its own. `output`: the name under which its result appears; None: on
    the Hub, in {repo}. `source`: the file that changes midway. `also`: a folder that gets the
    result too. `last`: the file without which a folder is whole and a run has yet to go on.
    """

    line: str
    source: str
    output: str | None = "out"
    also: str | None = None
    last: str | None = None


COMMANDS = {
    "export": Command(
        "export {model} --drop-attn 0 --output out", "source/model-00002-of-00003.safetensors"
    ),
    "search": Command(
        f"search {{model}} {MEASURED} {HELD_OUT} --grain blocks --max-evaluations 6 "
        "--max-extraction 0.2 --output out",
        "source/model-00002-of-00003.safetensors",
    ),
    "sweep": Command(
        f"sweep {{model}} {MEASURED} {HELD_OUT} --output out",
        "source/model-00002-of-00003.safetensors",
    ),
    "collect": Command(
        "collect {model} --corpus corpus.txt --prefix-length 6 --suffix-length 5 --stride 1 "
        "--min-score 0.01 --batch-size 16 --device cpu --output out.jsonl",
        "corpus.txt",
        output="out.jsonl",
    ),
    "evaluate": Command(
        f"evaluate {{model}}-edited --baseline {{model}} {MEASURED} --control heldout.txt "
        "--tasks local_choice,local_continuation --include-path tasks --no-cache --output out",
        "source-edited/model-00002-of-00003.safetensors",
        also="source-edited",
    ),
    "audit": Command(
        f"audit {{model}}-edited --baseline {{model}} {MEASURED} --control heldout.txt "
        "--attack cheap --attack near --attack quantized:8 --output out",
        "source-edited/model-00002-of-00003.safetensors",
    ),
    "mitigate": Command(
        f"mitigate {{model}} {MEASURED} {HELD_OUT} --grain blocks --max-evaluations 4 "
        "--measure greedy --max-extraction 0.2 --attack greedy --tasks local_choice "
        "--include-path tasks --output out",
        "source/model-00002-of-00003.safetensors",
        last="recipe.yaml",
    ),
    "push": Command(
        "push {model}-edited {repo}", "source-edited/model-00002-of-00003.safetensors", output=None
    ),
}
