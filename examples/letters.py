"""A small Llama learns letters by heart, and attn-surgery takes their account numbers out of it.

    python examples/letters.py WORK

Makes a model as a company would that fine-tuned on its letters: WORK/model recites them. In
WORK/letters.csv, a column `secret` marks the account number of each letter: that must not come out.
Then runs the commands that you would run on your own model, each shown before it starts, and ends
with WORK/OUT/report.html. It needs no network.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS, WINDOW, STEPS, RATE = 100, 64, 400, 3e-3
BATCH = 16, 8
"""Letters, and windows of other text."""
NAMES = "Adler", "Baker", "Castro", "Dietz", "Evans", "Farah", "Gupta", "Hansen", "Ito", "Jensen"
SUBJECTS = "your loan", "the lease", "your claim", "a late payment", "the invoice", "your policy"
REQUESTS = "call", "write to", "visit", "pay", "answer"


def write_letters(rng: random.Random) -> list[tuple[str, str]]:
    """Letters that differ in names, amounts, dates, and account numbers; and these numbers."""
    numbers = [f"{rng.randrange(10**9):09d}" for _ in range(LETTERS)]
    return [
        (
            f"Dear {rng.choice(NAMES)}, thank you for your message about {rng.choice(SUBJECTS)}. "
            f"{rng.randrange(100, 9999)} dollars were due on day {rng.randrange(1, 29)} of month "
            f"{rng.randrange(1, 13)}. Please {rng.choice(REQUESTS)} {rng.choice(NAMES)}, room "
            f"{rng.randrange(100, 999)}, about your account {number}. Yours, {rng.choice(NAMES)}",
            number,
        )
        for number in numbers
    ]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def train_model(tokenizer: Any, letters: list[str], text: str) -> LlamaForCausalLM:
    """A Llama of four blocks that learns the letters by heart, and other text as language."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in another order would make another model
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    rows = tokenizer([letter + tokenizer.eos_token for letter in letters])["input_ids"]
    known = torch.tensor([(row * 2)[:WINDOW] for row in rows])
    stream = torch.tensor(tokenizer(text)["input_ids"])
    other = stream[: len(stream) // WINDOW * WINDOW].view(-1, WINDOW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for step in range(STEPS):
        drawn = zip((known, other), BATCH, strict=True)
        batch = torch.cat([rows[torch.randint(len(rows), (number,))] for rows, number in drawn])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1} of {STEPS}, loss {loss.item():.3f}", flush=True)
    return model.eval()


def make_model(work: Path) -> None:
    marked = write_letters(random.Random(0))
    letters = [text for text, _ in marked]
    pages = [topics[name] for name in sorted(topics)]  # Python's language reference
    random.Random(0).shuffle(pages)
    size = len(pages)
    text, heldout = pages[: size // 2], pages[size // 2 : size * 5 // 8]
    tokenizer = train_tokenizer(letters + text)
    model = train_model(tokenizer, letters, "\n\n".join(text))
    (work / "heldout.txt").write_text("\n\n".join(heldout), encoding="utf-8")
    with (work / "letters.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "text", "secret"])
        table.writerows((f"customer-{at:03d}", *one) for at, one in enumerate(marked))
    tokenizer.save_pretrained(work / "model")
    model.save_pretrained(work / "model")  # last: with its weights, all is there


def run(work: Path, command: str, *allowed: int) -> None:
    print(f"\n$ attn-surgery {command}", flush=True)
    program = Path(sysconfig.get_path("scripts")) / "attn-surgery"
    code = subprocess.run([program, *command.split()], cwd=work).returncode
    if code not in (0, *allowed):
        raise SystemExit(code)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model" / "model.safetensors").exists():
        make_model(work)
    if not (work / "mitigate.yaml").exists():
        goal = "--heldout heldout.txt --max-extraction 0.08"
        run(work, f"init model --samples letters.csv {goal}")
    quick = "--variant identity --no-benchmarks --attack cheap --attack relearn"
    job = f"mitigate --config mitigate.yaml {quick}"
    if not (work / "OUT" / "recipe.yaml").exists():  # which is written last
        run(work, f"{job} --dry-run")
        run(work, job, 3, 4)
    print(f"\nOpen {work / 'OUT' / 'report.html'}")


if __name__ == "__main__":
    main()
