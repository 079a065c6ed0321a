"""Contract: compact checkpoints load, save and reload without loss, and never load wrongly.

Under either name of the output embedding, on any device map, through the auto classes with remote
code trusted; without, loading is an error.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_compact import BLOCKS, CONFIGS, EDITS, VOCABULARY, family_of, record, write_compact
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import surgery
from surgery import modeling_attention_free as modeling
from surgery.compact import MODELING_FILE, auto_map, name_classes
from surgery.families import FAMILIES

NAMES = ("neox-parallel", "neo")
both_families = pytest.mark.parametrize("name", NAMES)
IDS = torch.arange(2, 26).reshape(2, 12)
KINDS = EDITS["mixed"]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(IDS).logits
    return result


# --- configuration --------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"4": "affine"}, "there is no block '4'; the model's blocks are 0 to 3"),
        ({"-1": "none"}, "there is no block '-1'; the model's blocks are 0 to 3"),
        ({"01": "none"}, "there is no block '01'; the model's blocks are 0 to 3"),
        ({"2": "linear"}, "block 2 has the unknown kind 'linear'; known: affine, constant, none"),
    ],
)
def test_unknown_blocks_and_kinds_are_errors(name: str, blocks: Any, message: str) -> None:
    config = getattr(modeling, name_classes(record(name))["AutoConfig"])
    with pytest.raises(ValueError, match=f"^attention_free_blocks: {message}$"):
        config(attention_free_blocks=blocks, **CONFIGS[name])


@both_families
def test_a_checkpoint_that_names_no_block_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_compact(name, KINDS, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["attention_free_blocks"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="attention_free_blocks is empty: the model would be a"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_the_modeling_file_stands_alone_and_holds_every_family() -> None:
    tree = ast.parse(MODELING_FILE.read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"__future__", "typing", "torch", "transformers"}
    for family in (FAMILIES["gpt_neox"], FAMILIES["gpt_neo"]):
        for auto, name in name_classes(family).items():
            made = getattr(modeling, name)
            assert made.__name__ == name, auto
            assert made.__module__ == modeling.__name__
        assert {name.split(".")[0] for name in auto_map(family).values()} == {MODELING_FILE.stem}


# --- loading and saving ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"), [("neox-parallel", "embed_out"), ("neox-parallel", "lm_head"), ("neo", "-")]
)
def test_every_stored_name_finds_its_place(name: str, head: str, tmp_path: Path) -> None:
    """Also no complaint about the buffers that older checkpoints carry for attention."""
    folder = write_compact(name, KINDS, tmp_path / "stored", head)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    other = AutoModelForCausalLM.from_pretrained(write_compact(name, KINDS, tmp_path / "usual"))
    assert torch.equal(logits(model), logits(other))
    stored = load_file(folder / "model.safetensors")
    matrix = stored["transformer.wte.weight" if name == "neo" else f"{head}.weight"]
    assert torch.equal(model.get_output_embeddings().weight, matrix)
    if name == "neo":
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@both_families
@pytest.mark.parametrize("edit", EDITS)
def test_saving_and_reloading_keeps_everything(name: str, edit: str, tmp_path: Path) -> None:
    family = record(name)
    source = write_compact(name, EDITS[edit], tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == family.compact_model_type
    assert config["architectures"] == [name_classes(family)["AutoModelForCausalLM"]]
    assert config["auto_map"] == auto_map(family)
    assert config["attention_free_blocks"] == {str(i): kind for i, kind in EDITS[edit].items()}
    assert (tmp_path / "saved" / MODELING_FILE.name).read_bytes() == MODELING_FILE.read_bytes()

    again, info = type(model).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for (key, value), (other_key, other) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == other_key
        assert torch.equal(value, other)
    body = AutoModel.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        hidden = again.eval()(IDS, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(body(IDS).last_hidden_state, hidden)


@both_families
def test_a_model_made_from_a_configuration_is_initialized(name: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(write_compact(name, KINDS, tmp_path / "source"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model = AutoModelForCausalLM.from_config(config)
    state = model.state_dict()
    (affine,) = (key for key in state if key.endswith("affine.weight"))
    assert state[affine].std() == pytest.approx(config.initializer_range, rel=0.1)
    assert not any(state[key].any() for key in state if key.endswith("affine.bias"))
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))


@both_families
def test_missing_tensors_are_reported_and_never_left_to_chance(name: str, tmp_path: Path) -> None:
    folder = write_compact(name, KINDS, tmp_path)
    stored = load_file(folder / "model.safetensors")
    missing = {key for key in stored if ".affine." in key}
    kept = {key: value for key, value in stored.items() if key not in missing}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == missing
    state = model.state_dict()
    assert not any(state[key].any() for key in missing if key.endswith("bias"))
    (weight,) = (state[key] for key in missing if key.endswith("weight"))
    assert weight.std() == pytest.approx(model.config.initializer_range, rel=0.1)


@both_families
def test_blocks_offloaded_to_disk(name: str, tmp_path: Path) -> None:
    """An attention-free block moves between devices whole, as any other block does."""
    folder = write_compact(name, KINDS, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    blocks = "transformer.h" if name == "neo" else "gpt_neox.layers"
    body = blocks.split(".", maxsplit=1)[0]
    head = {"lm_head": "cpu"} if hasattr(plain, "lm_head") else {"embed_out": "cpu"}
    parts = dict.fromkeys((f"{body}.{part}" for part, _ in getattr(plain, body).named_children()))
    del parts[blocks]
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        device_map={
            **dict.fromkeys(parts, "cpu"),
            **{f"{blocks}.{i}": "disk" if i in (0, 1) else "cpu" for i in range(BLOCKS)},
            **head,
        },
        offload_folder=tmp_path / "offload",
    )
    assert torch.equal(logits(model), logits(plain))
    assert torch.equal(
        model.generate(IDS, max_new_tokens=5, attention_mask=torch.ones_like(IDS)),
        plain.generate(IDS, max_new_tokens=5, attention_mask=torch.ones_like(IDS)),
    )


# --- tokenizers -----------------------------------------------------------------------------


def write_tokenizer(folder: Path, tokenizer_class: str | None) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    if tokenizer_class is not None:
        config["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "tokenizer_class"),
    [
        ("neox-parallel", "GPTNeoXTokenizerFast"),
        ("neox-parallel", "GPTNeoXTokenizer"),
        ("neox-parallel", None),
        ("neo", "GPT2Tokenizer"),
        ("neo", None),
    ],
)
def test_the_tokenizer_is_the_one_of_the_parent_type(
    name: str, tokenizer_class: str | None, tmp_path: Path
) -> None:
    compact = write_compact(name, KINDS, tmp_path / "compact")
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "config.json").write_text(json.dumps({**CONFIGS[name], "model_type": family_of(name)}))
    for folder in (compact, stock):
        write_tokenizer(folder, tokenizer_class)
    got, want = AutoTokenizer.from_pretrained(compact), AutoTokenizer.from_pretrained(stock)
    assert type(got) is type(want)
    assert got.is_fast
    text = "def f(x):\n    return x  # naïve"
    assert got(text)["input_ids"] == want(text)["input_ids"]
    assert got.decode(got(text)["input_ids"]) == text


# --- in another process ---------------------------------------------------------------------


def run(code: str, folder: Path, tmp_path: Path) -> Any:
    """Runs `code` in a fresh interpreter and gives back the JSON that it prints last."""
    root = str(Path(surgery.__file__).parents[1])
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),  # without this package
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


TRUSTED = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
model, info = AutoModelForCausalLM.from_pretrained(
    folder, trust_remote_code=True, output_loading_info=True
)
model.save_pretrained("saved")
again = AutoModelForCausalLM.from_pretrained("saved", trust_remote_code=True)
ids = torch.arange(2, 26).reshape(2, 12)
with torch.no_grad():
    same = torch.equal(model(ids).logits, again(ids).logits)
print(json.dumps({
    "surgery": "surgery" in sys.modules,
    "module": type(model).__module__.split(".")[0],
    "missing": sorted(info["missing_keys"]),
    "unexpected": sorted(info["unexpected_keys"]),
    "same": same,
    "tokens": model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    ).tolist(),
}))
"""

UNTRUSTED = """
import json, sys
from pathlib import Path
from transformers import AutoModel, AutoModelForCausalLM
folder = Path(sys.argv[1])
errors = []
def attempt():
    for auto in (AutoModel, AutoModelForCausalLM):
        try:
            auto.from_pretrained(folder)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        else:
            errors.append("loaded")
attempt()
config = json.loads((folder / "config.json").read_text())
del config["auto_map"]
(folder / "config.json").write_text(json.dumps(config))
attempt()
print()  # ends the line of the question whether to trust the code
print(json.dumps(errors))
"""


@pytest.mark.slow
@both_families
@pytest.mark.parametrize("earlier", [False, True])
def test_trusting_the_code_beside_the_checkpoint_is_enough(
    name: str, earlier: bool, tmp_path: Path
) -> None:
    """Also where an earlier version wrote it, under another name."""
    folder = write_compact(name, KINDS, tmp_path / "model")
    here = AutoModelForCausalLM.from_pretrained(folder)
    if earlier:
        stem = f"modeling_{record(name).compact_model_type}"
        (folder / MODELING_FILE.name).rename(folder / f"{stem}.py")
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace(MODELING_FILE.stem, stem))
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(here))
    got = run(TRUSTED, folder, tmp_path)
    assert (got["surgery"], got["module"]) == (False, "transformers_modules")
    assert got["missing"] == got["unexpected"] == []
    assert got["same"]
    want = here.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False
    )
    assert got["tokens"] == want.tolist()
    assert max(map(max, got["tokens"])) < VOCABULARY


@pytest.mark.slow
@both_families
def test_without_the_code_nothing_loads(name: str, tmp_path: Path) -> None:
    """Neither with the code present but not trusted, nor with every trace of it removed."""
    folder = write_compact(name, KINDS, tmp_path / "model")
    untrusted, untrusted_lm, unknown, unknown_lm = run(UNTRUSTED, folder, tmp_path)
    for error in (untrusted, untrusted_lm):
        assert error.startswith("ValueError")
        assert "trust_remote_code=True" in error
    for error in (unknown, unknown_lm):
        assert error.startswith("ValueError")
        assert f"model type `{record(name).compact_model_type}`" in error


def test_older_libraries_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.46.3")
    spec = importlib.util.spec_from_file_location("old", MODELING_FILE)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"need transformers 4\.57 or newer \(got 4\.46\.3\)"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_annotations_that_python_3_10_can_resolve() -> None:
    """The library resolves those of a model's class, and a plain ClassVar cannot be there."""
    tree = ast.parse(MODELING_FILE.read_text())
    names = [
        ast.unparse(node.annotation) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)
    ]
    assert any(name.startswith("ClassVar[") for name in names)
    assert "ClassVar" not in names
