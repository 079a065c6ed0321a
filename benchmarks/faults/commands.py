"""The commands that are struck, one line each."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "--samples samples.jsonl --prefix-length 6 --suffix-length 5 --device cpu"
TAUGHT = "--text corpus.txt --steps 2 --device cpu"
ERASE = f"erase {{model}} {MEASURED} --drop-attn 0-1 --variant zero --text corpus.txt --steps 2"
HELD_OUT = "--heldout heldout.txt"
SHARD = "model-00002-of-00003.safetensors"


@dataclass(frozen=True)
class Command:
    """One command, or a chain of some, run in a fresh copy of the place.

    `line`: the words after `attn-surgery`, with && between commands. {model} is `source`, or
    `other` for an old result; {repo} is a new repository. `source`: the file that changes midway;
    None: none does. `output`: where the result appears; None: on the Hub, in {repo}. `also`: a
    folder that gets the result, too. `over_old`: half of the runs replace an old result.
    """

    line: str
    source: str | None
    output: str | None = "out"
    also: str | None = None
    over_old: bool = True

    @property
    def lines(self) -> list[str]:
        return self.line.split(" && ")

    @property
    def is_of_steps(self) -> bool:
        """Whether a finished result stays if the command is run again."""
        return all(line.startswith(("export ", "erase ", "heal ")) for line in self.lines)


UNSTRUCK = {
    "demo": "its export, search, and report are those of the commands above",
    **dict.fromkeys(("init", "extract"), "one small file, which is renamed into place"),
}
"""Commands that write, too, and why they have no row."""
COMMANDS = {
    "export": Command("export {model} --drop-attn 0 --output out", f"source/{SHARD}"),
    "erase": Command(f"{ERASE} --output out", f"source/{SHARD}"),
    "heal": Command(
        f"heal {{model}}-edited --source {{model}} {TAUGHT} --output out", f"source-edited/{SHARD}"
    ),
    "search": Command(
        f"search {{model}} {MEASURED} {HELD_OUT} --grain blocks --max-evaluations 6 "
        "--max-extraction 0.2 --output out",
        f"source/{SHARD}",
    ),
    "sweep": Command(
        f"sweep {{model}} {MEASURED} {HELD_OUT} --output out",
        f"source/{SHARD}",
    ),
    "collect": Command(
        "collect {model} --corpus corpus.txt --prefix-length 6 --suffix-length 5 --stride 1 "
        "--min-score 0.01 --batch-size 16 --device cpu --output out.jsonl",
        "corpus.txt",
        output="out.jsonl",
    ),
    "evaluate": Command(
        f"evaluate {{model}}-edited --baseline {{model}} {MEASURED} --heldout heldout.txt "
        "--tasks local_choice,local_continuation --include-path tasks --no-cache --output out",
        f"source-edited/{SHARD}",
        also="source-edited",
    ),
    "audit": Command(
        f"audit {{model}}-edited --baseline {{model}} {MEASURED} --heldout heldout.txt "
        "--attack cheap --attack quantized:4 --output out",
        f"source-edited/{SHARD}",
    ),
    "mitigate": Command(
        f"mitigate {{model}} {MEASURED} {HELD_OUT} --grain blocks --max-evaluations 4 "
        "--measure greedy --max-extraction 0.2 --attack greedy --tasks local_choice "
        "--include-path tasks --allow-undecided --output out",
        f"source/{SHARD}",
    ),
    "push": Command(
        "push {model}-edited {repo}", f"source-edited/{SHARD}", output=None, over_old=False
    ),
}
"""The commands of the command line, by name."""
CHAINS = {
    "chain": Command(
        f"{ERASE} --output erased && export erased --drop-attn 0 --output cut && "
        f"heal cut {TAUGHT} --output out",
        f"source/{SHARD}",
        over_old=False,
    ),
    "recipes": Command(
        f"mitigate {{model}} {MEASURED} {HELD_OUT} --grain blocks --max-evaluations 4 "
        "--measure greedy --max-extraction 0.2 --attack greedy --draws 1 --no-benchmarks --erase "
        "--erase-steps 2 --heal corpus.txt --heal-steps 2 --allow-undecided --output out",
        None,
        over_old=False,
    ),
}
"""Other rows: commands one after the other, and with other options."""
