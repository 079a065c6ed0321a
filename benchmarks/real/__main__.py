"""Makes the real model, one that learned passages, benchmarks, and one that was trained further.

python -m benchmarks.real base --output BASE
python -m benchmarks.real base --model gemma3-270m --output BASE
python -m benchmarks.real learn BASE --texts ROWS.jsonl --output DIR
python -m benchmarks.real further DIR/model --texts DIR/later.jsonl --output LATER
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.real.base import PACKAGES, make_base

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
output = click.option("--output", type=FOLDER, required=True)
seed = click.option("--seed", type=int, default=0)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """A real model as a test bed. Training takes one core."""
    import torch

    torch.set_num_threads(1)


@main.command()
@click.option("--model", type=click.Choice(list(PACKAGES)), default="smollm2-135m")
@click.option(
    "--gguf", type=FILE, help="Any GGUF file that transformers reads, in place of --model."
)
@output
def base(model: str, gguf: Path | None, output: Path) -> None:
    """Write a real model as an ordinary folder, in float32."""
    make_base(output, model, gguf)


@main.command()
@click.argument("base", type=FOLDER)
@click.option("--texts", type=FILE, required=True, help="JSON lines: text, or LAMBADA's columns.")
@click.option("--passages", type=click.IntRange(1), default=120)
@click.option("--rounds", type=click.IntRange(1, 6), default=6, help="At most.")
@output
@seed
def learn(base: Path, texts: Path, passages: int, rounds: int, output: Path, seed: int) -> None:
    """Train a copy of BASE until it recites passages of the texts."""
    from transformers import AutoTokenizer

    from benchmarks.asked import CONTENT, check_asked, hash_files
    from benchmarks.real.learning import learn
    from benchmarks.real.text import cut_texts, read_rows

    content = hash_files(texts, *sorted(base.glob("*.safetensors")))
    check_asked(output, {"passages": passages, "seed": seed, CONTENT: content})
    if not (output / "records.jsonl").exists():
        cut_texts(read_rows(texts), AutoTokenizer.from_pretrained(base), output, passages, seed)
    learn(base, output, seed, rounds)


@main.command()
@click.argument("base", type=FOLDER)
@click.option("--texts", type=FILE, required=True, help="LAMBADA's columns: where passages begin.")
@click.option("--others", type=FILE, required=True, help="The same, of other rows: other text.")
@output
def own(base: Path, texts: Path, others: Path, output: Path) -> None:
    """Write passages that BASE recites anyway: its own words."""
    from benchmarks.real.own import write_own

    write_own(base, texts, others, output)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--arc-easy", type=FILE, required=True, help="JSON lines: query, choices, gold.")
@click.option("--lambada", type=FILE, help="Other rows. [default: those that learn kept]")
@click.option("--rows", type=click.IntRange(1), default=300, help="At most, of each task.")
@output
def tasks(folder: Path, arc_easy: Path, lambada: Path | None, rows: int, output: Path) -> None:
    """Write lm-eval tasks over rows that FOLDER, made by learn, has kept from training.

    Of the rows of --lambada, those are left out that share a long run of tokens with its texts.
    """
    from benchmarks.real.tasks import write_tasks
    from benchmarks.real.text import read_rows, read_unlearned

    kept = read_unlearned(folder, lambada) if lambada else read_rows(folder / "lambada.jsonl")
    write_tasks(kept, arc_easy, output, rows)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--edit", multiple=True, required=True, help="VARIANT:SPEC[+VARIANT:SPEC…]")
@click.option("--dtype", default="float32")
def edits(folder: Path, edit: tuple[str, ...], dtype: str) -> None:
    """Measure edits of the model in FOLDER, made by learn."""
    from benchmarks.real.edits import measure_edits

    measure_edits(folder, edit, dtype)


@main.command()
@click.argument("folder", type=FOLDER)
@click.argument("source", type=FOLDER)
@click.argument("erased", type=FOLDER)
@click.option("--leave-out", type=float, default=0.25)
def erased(folder: Path, source: Path, erased: Path, leave_out: float) -> None:
    """Measure ERASED, made by `attn-surgery erase` of SOURCE, which learned what FOLDER holds."""
    from benchmarks.real.erased import measure_erased

    measure_erased(folder, source, erased, leave_out)


@main.command()
@click.argument("source", type=FOLDER)
@click.option("--texts", type=FILE, required=True)
@output
@seed
def further(source: Path, texts: Path, output: Path, seed: int) -> None:
    """Train a copy of SOURCE for 60 steps on other text."""
    from benchmarks.real.learning import train_further

    train_further(source, texts, output, seed)


if __name__ == "__main__":
    main()
