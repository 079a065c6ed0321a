"""The whole way, by the real client in fresh processes and caches: from a model on the Hub to an
edited one on it, and to its use by id.

- A source that is sharded, or pickled, or at a revision, is exported, pushed, and loaded by id:
  stock without a flag, compact with trust_remote_code, and without it loudly or not at all. Every
  byte is that of the folder.
- lm-eval runs by id, `inspect` shows the whole history without weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from hub_commands import TOKEN, Commands, environment_of, session
from hub_uploads import UploadHub
from local_tasks import write_tasks
from tiny_tokenizer import tiny_tokenizer

from surgery.checkpoint import hash_file

pytestmark = pytest.mark.slow

# what a user runs, who has transformers and not attn-surgery
LOAD = """
import json, sys
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
name, trusted = sys.argv[1], sys.argv[2] == "trusted"
flags = {"trust_remote_code": True} if trusted else {}
assert "surgery" not in sys.modules
model, info = AutoModelForCausalLM.from_pretrained(
    name, output_loading_info=True, dtype=torch.float32, **flags
)
assert not info["missing_keys"] and not info["mismatched_keys"], info
tokenizer = AutoTokenizer.from_pretrained(name, **flags)
ids = tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model.eval()(ids).logits
print(json.dumps([type(model).__name__, logits[0, -1, :8].tolist(), snapshot_download(name)]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def hub(work: Path) -> Iterator[UploadHub]:
    """Sources on the Hub: `base/neox` sharded, with `step1` pickled; `base/neo` pickled shards."""
    card = b"---\nlicense: apache-2.0\nlanguage: en\n---\n# The source\n"
    with UploadHub() as server:
        server.users[TOKEN] = "me"
        small = {"vocab_size": 400, "torch_dtype": "float32", "max_position_embeddings": 64}
        for id, config, weights, num_shards, branch in (
            ("base/neox", neox_config(**small, num_hidden_layers=3), "safetensors", 2, "main"),
            ("base/neox", neox_config(**small, num_hidden_layers=3), "bin", 1, "step1"),
            ("base/neo", neo_config(**small), "bin", 3, "main"),
        ):
            folder = work / f"{id.replace('/', '-')}-{branch}"
            write_checkpoint(folder, config, weights=weights, num_shards=num_shards)
            tiny_tokenizer().save_pretrained(folder)
            (folder / "README.md").write_bytes(card)
            repository = server.repositories.get(id) or server.create(id)
            repository.commit(folder, branch=branch, whole=True)
        yield server


@pytest.fixture(scope="module")
def run(hub: UploadHub, work: Path) -> Iterator[Commands]:
    with session(work, hub.url) as run:
        yield run


@pytest.fixture(scope="module")
def published(hub: UploadHub, run: Commands) -> dict[str, str]:
    """Edited models on the Hub → their folders, made and pushed by commands."""
    made = {
        "me/stock": "base/neox --drop-attn 1,2.0 --layout stock",
        "me/pickled": "base/neox --revision step1 --drop-attn last:1 --layout compact",
        "me/neo": "base/neo --drop-attn 0,3 --variant identity",
        "me/twice": "me/stock --drop-attn 0 --variant zero --layout compact",
    }
    for id, how in made.items():
        folder = id.replace("/", "-")
        lines = (f"export {how} --output {folder}", f"push {folder} {id}")
        for result in run(*lines, token=TOKEN):
            assert result.code == 0, result.err
    return {id: id.replace("/", "-") for id in made}


def python(
    work: Path, hub: UploadHub, cache: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python in an empty cache, where attn-surgery is not imported."""
    environment = environment_of(cache, hub.url, HF_TOKEN=TOKEN, PYTHONSAFEPATH="1")
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(
        command, cwd=cache, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("id", ["me/stock", "me/pickled", "me/neo", "me/twice"])
def test_a_published_model_loads_by_id(
    hub: UploadHub, published: dict[str, str], work: Path, tmp_path: Path, id: str
) -> None:
    folder = work / published[id]
    stock = id == "me/stock"
    trust = "plain" if stock else "trusted"
    done = python(work, hub, tmp_path, "-c", LOAD, id, trust)
    assert done.returncode == 0, done.stderr[-3000:]
    name, logits, snapshot = json.loads(done.stdout.splitlines()[-1])
    assert name.startswith("GPTNeoX" if stock else "AttentionFreeGPTNeo")
    recorded = json.loads((folder / "surgery.json").read_text())["files"]
    for file in recorded:
        assert hash_file(Path(snapshot, file)) == recorded[file]["sha256"], file
    assert hash_file(Path(snapshot, "surgery.json")) == hash_file(folder / "surgery.json")
    script = LOAD.replace(", snapshot_download(name)", "")
    local = python(work, hub, tmp_path, "-c", script, str(folder), trust)
    assert local.returncode == 0, local.stderr[-3000:]
    assert json.loads(local.stdout.splitlines()[-1]) == [name, logits]
    if not stock:
        plain = python(work, hub, tmp_path, "-c", LOAD, id, "plain")
        assert plain.returncode != 0
        assert "trust_remote_code" in plain.stderr or "attention_free" in plain.stderr


def test_lm_eval_runs_by_id(
    hub: UploadHub, published: dict[str, str], work: Path, tmp_path: Path
) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    scores = {}
    for model in ("me/pickled", str(work / published["me/pickled"])):
        output = tmp_path / Path(model).name
        done = python(
            work, hub, tmp_path, "-m", "lm_eval", "--model", "hf", "--device", "cpu",
            "--model_args", f"pretrained={model},trust_remote_code=True,dtype=float32",
            "--tasks", "local_continuation", "--include_path", str(tasks),
            "--output_path", str(output),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (results,) = output.rglob("results*.json")
        found = json.loads(results.read_text())["results"]["local_continuation"]
        scores[model] = found["perplexity,none"]
    assert len(set(scores.values())) == 1


def test_a_published_card_tells_where_it_comes_from(
    hub: UploadHub, published: dict[str, str]
) -> None:
    twice = hub.repositories["me/twice"]
    card = twice.commits[twice.branches["main"]].files["README.md"].data.decode()
    for text in ("base_model: me/stock", "trust_remote_code=True", "| `base/neox` | 1,2.0 |"):
        assert text in card
    assert "# The source" not in card
    assert "license: apache-2.0" in card, "carried through both edits"
