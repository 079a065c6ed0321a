"""Where commands run: a folder with two tiny models, and a Hub server on this machine.

`tests/` must be on the path of modules: its tokenizer, texts, tasks, and server are used.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

TOKEN = "hf_secretsecretsecretsecretsecret"


def make_place(folder: Path) -> None:
    """Writes everything that a line of `COMMANDS` names. The models differ only in their weights,
    and each recites half of the samples."""
    import torch
    from local_tasks import write_tasks
    from reciting import generate
    from tiny_tokenizer import TEXT, tiny_model, tiny_tokenizer

    import surgery

    tokenizer = tiny_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    rows: list[list[int]] = []
    for seed, name in enumerate(("source", "other")):
        model = tiny_model(seed, hidden_size=64, num_hidden_layers=3, intermediate_size=128)
        model.save_pretrained(folder / name, max_shard_size="250KB")
        tokenizer.save_pretrained(folder / name)
        surgery.export(folder / name, "2", variant="zero", output=folder / f"{name}-edited")
        prefixes = torch.tensor([ids[at : at + 6] for at in range(20 * seed, 20 * seed + 20)])
        rows += torch.cat([prefixes, generate(model, prefixes, 5)], dim=1).tolist()
    lines = [json.dumps({"id": f"{number}", "tokens": row}) for number, row in enumerate(rows)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    chance = random.Random(0)
    for name, words in (("heldout.txt", 600), ("corpus.txt", 900)):
        (folder / name).write_text(" ".join(chance.choices(TEXT.split(), k=words)) + "\n")
    write_tasks(folder / "tasks")


@contextmanager
def run_hub() -> Iterator[str]:
    """The address of a Hub server that runs as long as the block lasts.

    It has its own process, since forks of this one must not inherit its threads.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def _serve(connection: Connection) -> None:
    from hub_uploads import UploadHub

    with UploadHub() as server:
        server.users[TOKEN] = "me"
        connection.send(server.url)
        signal.pause()


def read_repository(url: str, repo: str) -> dict[str, bytes] | None:
    """A repository's files → their hashes; None while there is none, or nothing is in it.

    Leaves out what the Hub itself puts there, and the hash of the card, which names the repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = list(HfApi(url, token=TOKEN).list_repo_tree(repo, recursive=True))
    except RepositoryNotFoundError:
        return None
    files = {one.path: one.blob_id.encode() for one in entries if isinstance(one, RepoFile)}
    files.pop(".gitattributes", None)
    return files | {name: b"" for name in files if name == "README.md"} or None
