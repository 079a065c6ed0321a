"""Which of a lab model's planted records does `collect` find again in a corpus, and how fast?

    python -m benchmarks.collect --model pythia

The corpus is text of the standard library that the model was trained on, one document a file, and
every planted record once: as a document of its own, or in the middle of another (between two
end-of-text tokens, as in training, but at no particular offset). What there is to find is what
`extract` says the model recites of each record at the same prefix and suffix length.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.lab.training_texts import training_texts
from evals.lab import LAB_MODELS, model_path
from evals.memorization.collecting import Cut, collect
from evals.memorization.extraction import extract
from evals.models import open_model
from evals.samples import load_samples
from surgery.reading.corpus import open_corpus

SEED = 1
END = "<|endoftext|>"
Encode = Callable[[str], list[int]]
RUNS = (
    ("documents of their own", False, Cut(32, 32, stride=16)),
    ("inside other documents", True, Cut(32, 32, stride=16)),
    ("inside other documents", True, Cut(32, 32, stride=4)),
    ("inside other documents", True, Cut(32, 32, stride=1)),
)


def documents(records: list[str], inside: bool, characters: int) -> list[str]:
    """The corpus. `inside`: records are put into the texts, otherwise they come after them."""
    rng = random.Random(SEED)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pythia", choices=LAB_MODELS)
    parser.add_argument("--characters", type=int, default=100_000, help="of text around them")
    arguments = parser.parse_args()
    loaded = open_model(str(model_path(arguments.model)), device="cpu", dtype="float32")
    samples = load_samples(f"lab:{arguments.model}")
    samples = samples.select(samples.counts > 0)
    recited = {
        name
        for name, exact in zip(samples.hashes, extract(loaded.model, samples).exact, strict=True)
        if exact
    }
    texts = loaded.tokenizer.batch_decode(samples.tokens.tolist())
    print(f"lab:{arguments.model}: recites {len(recited)} of {len(samples)} planted records")
    for label, inside, cut in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            path, output = Path(folder) / "corpus.jsonl", Path(folder) / "found.jsonl"
            lines = (
                json.dumps({"text": text})
                for text in documents(texts, inside, arguments.characters)
            )
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            begun = time.perf_counter()
            result = collect(loaded.model, loaded.tokenizer, open_corpus([path]), output, cut)
            seconds = time.perf_counter() - begun
            kept = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        found = {row["hash"] for row in kept} & recited
        overlapping = {
            name
            for name, record in zip(samples.hashes, samples.tokens, strict=True)
            if any(shares(row["tokens"], record, cut.length // 2) for row in kept)
        }
        print(
            f"  {label}, stride {cut.stride:2}: {len(found) / len(recited):6.1%} of the recited "
            f"records found whole, {len(overlapping & recited) / len(recited):6.1%} at least half; "
            f"{result.windows:,} windows, {result.tokens_read / seconds:,.0f} tokens per second"
        )


def shares(window: list[int], record: np.ndarray, length: int) -> bool:
    """Does the window hold `length` or more tokens of the record's beginning or end?"""
    mine = record.tolist()
    for shift in range(len(mine) - length + 1):
        if (
            window[shift:] == mine[: len(mine) - shift]
            or window[: len(mine) - shift] == mine[shift:]
        ):
            return True
    return False


if __name__ == "__main__":
    main()
