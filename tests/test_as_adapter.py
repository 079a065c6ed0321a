"""`erase --as-adapter`: what was learned as a folder of peft's, beside weights that did not change.

- peft loads it on the base, which then gives what the student gave, to the bit. So it is of linear
  layers, of fused experts, and of the layers beside these.
- `verify` compares its files with the record, and proves no more.
- Its card says how to load it. Commands that take a model say what it is.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT, Outcome, attn_surgery
from decoders import write_decoder
from forging import edit_json, seal
from reciting import recited_rows, write_rows
from safetensors.torch import load_file
from tiny_tokenizer import TEXT, tiny_tokenizer
from transformers import AutoModelForCausalLM

import surgery
from surgery.card.text import read_metadata
from surgery.errors import SourceError
from surgery.loading import load_model
from surgery.record.manifest import ErasingRecord, Manifest, read_manifest
from surgery.training import erasing
from surgery.training.losses import find_recited

LENGTHS = ("--prefix-length", 8, "--suffix-length", 8)
ROWS, STEPS, RANK = 20, 8, 4
SIZE = {"vocab_size": 400, "max_position_embeddings": 32, "num_hidden_layers": 2}
KINDS = ("gpt_neox", "llama", "qwen3_moe")
DECODER = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
DECODER |= {"torch_dtype": "bfloat16", "mlp_only_layers": [1], "num_experts": 2}
WEIGHTS = "adapter_model.safetensors"


class Work:
    """A model that recites rows, and an adapter that was taught to forget them.

    `model`, `adapter`: their folders; `student`: the model with the adapter as training left it.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.model, self.adapter = folder, folder / "base", folder / "adapter"
        if kind == "gpt_neox":
            write_checkpoint(self.model, neox_config(**SIZE))
        else:
            write_decoder(self.model, kind, **DECODER, **SIZE)
        tiny_tokenizer().save_pretrained(self.model)
        loaded = load_model(self.model, dtype=torch.float32)
        self.rows = recited_rows(loaded, ROWS, 8, 8)
        write_rows(folder / "samples.jsonl", self.rows)
        words = np.random.default_rng(0).choice(TEXT.split(), 3000)
        (folder / "text.txt").write_text(" ".join(words))
        made, train = [], erasing.teach

        def keep(*given: Any, **options: Any) -> Any:
            made.append(train(*given, **options))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(erasing, "teach", keep)
            self.done = self.erase(self.adapter)
        assert self.done.code == 0, self.done.stderr
        self.student = made[0].student.model

    def erase(self, output: Path, *more: object) -> Outcome:
        given = ("--samples", self.folder / "samples.jsonl", *LENGTHS)
        cut = ("--drop-attn", "0", "--variant", "zero", "--steps", STEPS, "--output", output)
        made = ("--text", self.folder / "text.txt", "--as-adapter", "--adapters", RANK)
        return attn_surgery("erase", self.model, *given, *cut, *made, *more)

    @property
    def manifest(self) -> Manifest:
        manifest = read_manifest(self.adapter)
        assert manifest is not None
        return manifest

    @property
    def record(self) -> ErasingRecord:
        record = self.manifest.step.erasing
        assert record is not None
        return record


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Work]:
    made: dict[str, Work] = {}

    def find(kind: str) -> Work:
        if kind not in made:
            made[kind] = Work(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return find


@pytest.fixture
def work(works: Callable[[str], Work]) -> Work:
    return works("gpt_neox")


def load(base: Path, adapter: Path, dtype: Any = "auto") -> Any:
    """As anyone would."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what peft calls in transformers
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        return PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_anyone_loads_what_was_learned(works: Callable[[str], Work], kind: str) -> None:
    work = works(kind)
    assert sorted(path.name for path in work.adapter.iterdir()) == [
        *("README.md", "adapter_config.json", WEIGHTS, "surgery.json")
    ]
    loaded, before = load(work.model, work.adapter, work.student.dtype), load_model(work.model)
    ids = torch.tensor([row["tokens"] for row in work.rows])
    with torch.no_grad():
        expected, found = work.student(ids).logits, loaded(ids).logits
        assert torch.equal(found, expected)
        assert not torch.allclose(before(ids).logits.float(), found.float(), atol=0.1)
        stored = load(work.model, work.adapter)(ids).logits
    assert stored.dtype == before.dtype
    assert torch.allclose(stored.float(), expected.float(), atol=0.05), "in the stored dtype"
    record, rows = work.record, ids.numpy().astype(np.int32)
    assert (record.rank, record.kept, len(record.losses)) == (RANK, 1.0, STEPS)
    assert record.looks
    assert record.recital is not None
    assert record.recital.passages == ROWS
    assert record.recital.recited == int(find_recited(loaded, rows, 8, 24).sum()) < ROWS / 2
    assert f"{ROWS} passages taught in {STEPS} steps" in work.done.stdout
    assert "To measure a result here, erase without --as-adapter" in work.done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_it_stands_beside_every_layer_and_all_experts(
    works: Callable[[str], Work], kind: str
) -> None:
    work = works(kind)
    config = json.loads((work.adapter / "adapter_config.json").read_text())
    assert set(config) - {"target_parameters"} == {
        *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r"),
        *("lora_alpha", "target_modules"),
    }
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("base", 4, 8)
    model = load_model(work.model)
    head = model.get_output_embeddings()
    layers = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    fused = {name for name, weight in model.named_parameters() if weight.ndim == 3}
    named = {*config["target_modules"], *config.get("target_parameters", ())}
    assert {name.removesuffix(".weight") for name in named} == layers | fused
    assert bool(fused) == (kind == "qwen3_moe")
    tensors = load_file(work.adapter / WEIGHTS)
    assert len(tensors) == 2 * len(named)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    grown = [bool(one.any()) for name, one in tensors.items() if "lora_B" in name]
    assert all(grown), "each learned something"
    for path in work.adapter.iterdir():
        written = path.read_bytes()
        assert not [one for one in (work.folder, ROOT) if str(one).encode() in written], path


def test_verify_compares_files_with_the_record(work: Work, tmp_path: Path) -> None:
    def fail(folder: Path, **options: Any) -> str:
        failed = surgery.verify(folder, **options).failed
        assert failed is not None
        return f"{failed.name}: {failed.detail}"

    done = attn_surgery("verify", work.adapter, "--source", work.model)
    assert done.code == 0, done
    assert "contents: an adapter, and no code; what it holds is not checked" in done.stdout
    assert "but none proves what erasing did to the weights" in done.stdout
    damaged = shutil.copytree(work.adapter, tmp_path / "damaged")
    with (damaged / WEIGHTS).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x00\x00")
    assert fail(damaged) == f"files: {WEIGHTS} differs from its recorded SHA-256"
    beside = shutil.copytree(work.adapter, tmp_path / "beside")
    (beside / "model.py").write_text("import os")
    assert fail(beside) == "files: model.py is not in the manifest"
    edit_json(
        beside / "surgery.json",
        lambda manifest: manifest["files"].update({"model.py": manifest["files"][WEIGHTS]}),
    )
    seal(beside)
    assert fail(beside) == "contents: model.py is not part of an adapter"
    other = write_checkpoint(tmp_path / "other", neox_config(**SIZE), seed=1)
    told = fail(work.adapter, source=other)
    assert told == "source: the source is not one that the manifest records"


def test_a_training_that_fails_leaves_nothing(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are not finite are found while they are written."""
    train = erasing.teach

    def spoil(*given: Any, **options: Any) -> Any:
        taught = train(*given, **options)
        learned = taught.student.model.named_parameters()
        weight = next(one for name, one in learned if "lora_B" in name)
        with torch.no_grad():
            weight[0, 0] = float("nan")
        return taught

    monkeypatch.setattr(erasing, "teach", spoil)
    done = work.erase(tmp_path / "out", "--steps", 1)
    assert (done.code, "is not finite after training" in done.stderr) == (1, True), done
    assert not any(tmp_path.iterdir())


def test_commands_that_take_a_model_say_what_it_is(work: Work, tmp_path: Path) -> None:
    folder, samples = work.adapter, ("--samples", work.folder / "samples.jsonl", *LENGTHS)
    for command in (
        ("inspect", folder),
        ("export", folder, "--drop-attn", "0", "--output", tmp_path / "out"),
        ("erase", folder, "--drop-attn", "0", "--output", tmp_path / "out", *samples,
         "--text", work.folder / "text.txt"),
        ("extract", folder, *samples),
        ("audit", folder, *samples),
        ("evaluate", folder, "--baseline", work.model, "--output", tmp_path / "out"),
    ):  # fmt: skip
        attn_surgery(*command).assert_error(
            "is an adapter, which is no model without its base",
            "merge the two with peft; only `erase --as-adapter` keeps them apart",
        )
    assert not any(tmp_path.iterdir())
    with pytest.raises(SourceError, match="is an adapter"):
        load_model(folder)


def test_what_cannot_be_an_adapter_is_one_line(work: Work, tmp_path: Path) -> None:
    for command in ("export", "mitigate"):
        other = attn_surgery(command, work.model, "--as-adapter")
        assert (other.code, "No such option" in other.stderr) == (2, True)


def test_what_an_earlier_edit_set_stays(work: Work, tmp_path: Path) -> None:
    """No adapter stands beside its constants, and the card loads the edited model as the base."""
    cut = surgery.export(work.model, "1", variant="zero", output=tmp_path / "cut").output
    out = tmp_path / "out"
    rows = [row["tokens"] for row in work.rows]
    told: dict[str, Any] = {"text": [work.folder / "text.txt"], "steps": 1, "adapters": RANK}
    surgery.erase(cut, "0", rows, 8, variant="zero", as_adapter=True, output=out, **told)
    assert surgery.verify(out, source=cut).ok
    assert surgery.verify(out, source=work.model).failed is not None
    named = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert "gpt_neox.layers.0.attention.dense" in named
    assert not [name for name in named if name.startswith("gpt_neox.layers.1.attention")]
    card = (out / "README.md").read_text()
    assert (
        "`cut`, trained to predict 20 listed passages as a model that does not know them." in card
    )
    assert "Attention that earlier edits replaced (below) stays replaced." in card


def read_code(card: str) -> str:
    return card.partition("```python\n")[2].partition("```")[0]


def test_its_card_says_how_to_load_it(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (work.adapter / "README.md").read_text()
    assert f"`base`, trained to predict {ROWS} listed passages as" in card
    assert "What it learned is an adapter of rank 4. Only the adapter is here" in card
    metadata = read_metadata(card)
    assert (metadata["library_name"], "base_model" in metadata) == ("peft", False)
    recited = work.record.recital
    assert recited is not None
    assert f"the model recites {recited.recited} of the {ROWS} passages" in card
    for name in ("base", "adapter"):
        (tmp_path / name).symlink_to(work.folder / name)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(read_code(card), found)  # of this test's own folder
    ids = torch.tensor([work.rows[0]["tokens"]])
    with torch.no_grad():
        close = found["model"](ids).logits.float() - work.student(ids).logits
    assert close.abs().max() < 0.05
    assert "pretrained=base,peft=adapter" in card
