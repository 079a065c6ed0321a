"""The folder that commands run in: two tiny models, edits of both, passages, texts and tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path

TOKEN = "hf_secretsecretsecretsecretsecret"


def make_place(folder: Path) -> None:
    """Writes everything that a line of `COMMANDS` names. The models differ in their weights only.

    `tests/` must be on the path of modules: its tokenizer, texts and tasks are used.
    """
    import torch
    from local_tasks import write_tasks
    from reciting import generate
    from tiny_tokenizer import TEXT, tiny_tokenizer
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    import surgery

    tokenizer = tiny_tokenizer()
    rows: list[list[int]] = []  # each model recites a half of them
    for seed, name in enumerate(("source", "other")):
        torch.manual_seed(seed)
        config = GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=None,
            initializer_range=0.3,
        )
        model = GPTNeoXForCausalLM(config).eval()
        model.save_pretrained(folder / name, max_shard_size="250KB")
        tokenizer.save_pretrained(folder / name)
        surgery.export(folder / name, "2", variant="zero", output=folder / f"{name}-edited")
        ids = tokenizer(TEXT)["input_ids"]
        prefixes = torch.tensor([ids[at : at + 6] for at in range(20 * seed, 20 * seed + 20)])
        rows += torch.cat([prefixes, generate(model, prefixes, 5)], dim=1).tolist()
    lines = [json.dumps({"id": f"{number}", "tokens": row}) for number, row in enumerate(rows)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    chance = random.Random(0)
    for name, words in (("heldout.txt", 600), ("corpus.txt", 900)):
        (folder / name).write_text(" ".join(chance.choices(TEXT.split(), k=words)) + "\n")
    write_tasks(folder / "tasks")
