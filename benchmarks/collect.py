"""Which of a lab model's planted records does `collect` find again in a corpus, and how fast?

    python benchmarks/collect.py --model pythia

The corpus is text of the standard library that the model was trained on, one document a file, and
every planted record once: as a document of its own, or in the middle of another (between two
end-of-text tokens, as in training, but at no particular offset). What there is to find is what
`extract` says the model recites of each record at the same prefix and suffix length.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from evals.lab import LAB_MODELS, samples_path
from evals.lab.corpus import training_texts

END = "<|endoftext|>"
RUNS = (
    ("documents of their own", 16),
    ("inside other documents", 16),
    ("inside other documents", 4),
    ("inside other documents", 1),
)


def make_documents(records: list[str], inside: bool, characters: int) -> list[str]:
    """The corpus. `inside`: records are put into the texts, otherwise they come after them."""
    rng = random.Random(1)
    texts: list[str] = []
    for text in rng.sample(training_texts(), len(training_texts())):
        if sum(map(len, texts)) >= characters:
            break
        texts.append(text)
    if not inside:
        return texts + records
    places = sorted(
        ((index := rng.randrange(len(texts)), rng.randrange(len(texts[index])), record))
        for record in records
    )
    for index, cut, record in reversed(places):  # from the end, so that none is cut
        texts[index] = f"{texts[index][:cut]}{END}{record}{END}{texts[index][cut:]}"
    return texts


def run(*arguments: object) -> Any:
    """The JSON that a command prints."""
    command = [sys.executable, "-m", "cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shares(window: list[int], record: list[int]) -> bool:
    """Does the window hold at least half of the record, from its beginning or to its end?"""
    return any(
        window[shift:] == record[: len(record) - shift]
        or window[: len(record) - shift] == record[shift:]
        for shift in range(len(record) // 2 + 1)
    )


@click.command()
@click.option("--model", type=click.Choice(LAB_MODELS), default="pythia")
@click.option("--characters", default=100_000, help="Of text around the records.")
def main(model: str, characters: int) -> None:
    """Look for the records of a lab model in a corpus."""
    name = f"lab:{model}"
    with tempfile.TemporaryDirectory() as temporary:
        rows, corpus, found = (
            Path(temporary, one) for one in ("rows.jsonl", "corpus.jsonl", "found.jsonl")
        )
        run("extract", name, "--samples", name, "--rows", rows)
        exact = {row["id"] for row in read_lines(rows) if row["exact"]}
        records = [one for one in read_lines(samples_path(model)) if one["count"]]
        recited = [one["tokens"] for one in records if one["id"] in exact]
        click.echo(f"{name}: recites {len(recited)} of {len(records)} planted records")
        for label, stride in RUNS:
            texts = [one["text"] for one in records]
            documents = make_documents(texts, label.startswith("inside"), characters)
            corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
            result = run("collect", name, "--corpus", corpus, "--stride", stride, "--output", found)
            kept = [row["tokens"] for row in read_lines(found)]
            found.unlink()
            half = sum(any(shares(row, record) for row in kept) for record in recited)
            whole = sum(record in kept for record in recited)
            click.echo(
                f"  {label}, stride {stride:2}: {whole / len(recited):6.1%} of the recited "
                f"records found whole, {half / len(recited):6.1%} at least half; {result}"
            )


if __name__ == "__main__":
    main()
