"""Contract: whatever is wrong with a model or a target, the user reads one line; nothing changes.

Exit code 1, one line on stderr that begins with "error: " and says what is wrong, nothing on
stdout, no traceback, nothing written: neither beside the source nor where the output was to be.
Misuse of the command line exits with 2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config, write_checkpoint
from command_line import PROGRAM, ROOT, Outcome, attn_surgery, finish, snapshot, start
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import UnsupportedError

NEOX = neox_config(max_position_embeddings=64)
NEO = neo_config(max_position_embeddings=64)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Damage = Callable[[Path], None]
EXPORT = ("export", "lab:pythia", "--drop-attn", "1")
SWEEP = ("sweep", "lab:pythia", "--samples", "lab:pythia")
OWN = ("--samples", "s", "--heldout", "t", "--output", "o")
SEARCH = ("search", "lab:pythia", "--samples", "lab:pythia", "--max", "any=0.1")
EXTRACT = ("extract", "lab:pythia", "--samples", "lab:pythia")
COMPARE = ("compare", "lab:pythia", "lab:pythia", "--prompt", "one")
ERASE = ("erase", "me/m", "--samples", "s", "--text", "t", "--output", "o")
OTHER = ("evaluate", "me/m", "--baseline", "me/base", "--heldout", "t")
EVALUATE = ("evaluate", "lab:pythia", "--baseline", "lab:pythia", "--suite", "none")


def refuse(tmp_path: Path, source: object, *options: object, spec: str = "1") -> Outcome:
    """Runs an export that must fail, and proves that it left no trace."""
    before = snapshot(tmp_path)
    command = ["export", source, "--drop-attn", spec, "--output", tmp_path / "made" / "out"]
    outcome = attn_surgery(*command, *options)
    assert snapshot(tmp_path) == before
    return outcome


def set_config(**values: Any) -> Damage:
    """Sets keys of config.json, or removes them where the value is ..."""

    def damage(source: Path) -> None:
        config = {**json.loads((source / "config.json").read_text()), **values}
        config = {key: value for key, value in config.items() if value is not ...}
        (source / "config.json").write_text(json.dumps(config))

    return damage


def set_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(source: Path) -> None:
        tensors = load_file(source / SINGLE)
        change(tensors)
        save_file(tensors, source / SINGLE, metadata={"format": "pt"})

    return damage


def write(name: str, content: bytes) -> Damage:
    return lambda source: (source / name).write_bytes(content) and None


def remove(name: str) -> Damage:
    return lambda source: (source / name).unlink()


def folder_in_place_of(name: str) -> Damage:
    def damage(source: Path) -> None:
        (source / name).unlink(missing_ok=True)
        (source / name).mkdir()

    return damage


def truncate(name: str, nbytes: int) -> Damage:
    def damage(source: Path) -> None:
        content = (source / name).read_bytes()
        (source / name).write_bytes(content[:nbytes])

    return damage


KERNEL = "config.json chooses attention code"
CONFIGURATION: dict[str, tuple[Damage, str]] = {
    "missing": (remove("config.json"), "config.json is missing"),
    "damaged": (write("config.json", b'{"model_type": '), "config.json: not valid JSON"),
    "list": (write("config.json", b"[]"), "config.json: not a JSON object"),
    "folder": (folder_in_place_of("config.json"), "config.json"),
    "other architecture": (
        set_config(model_type="bloom"),
        "unsupported model_type bloom; supported: ",
    ),
    "no architecture": (set_config(model_type=...), "unsupported model_type None; supported: "),
    "odd architecture": (set_config(model_type=["gpt_neox"]), "model_type ['gpt_neox']; supported"),
    "quantized": (
        set_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "got gptq",
    ),
    "compressed": (
        set_config(compression_config={"quant_method": "compressed-tensors"}),
        "got compressed-tensors",
    ),
    "pipeline of its own": (
        set_config(custom_pipelines={"text-generation": {"impl": "evil.Pipe"}}),
        "brings its own modeling code (custom_pipelines), which is never run",
    ),
    "attention kernel, far inside": (
        set_config(task_specific_params={"a": [{"sub_attn_implementation": {"": "me/kernel"}}]}),
        f"sub_attn_implementation: {KERNEL}",
    ),
    "attention code by a name that the library may replace": (
        set_config(attn_implementation="flash_attention_2"),
        f"attn_implementation: {KERNEL}",
    ),
    "other weights": (
        set_config(transformers_weights="other.safetensors"),
        "transformers_weights: config.json names another file of weights",
    ),
    "blocks of other shapes": (
        set_config(per_layer_config={"1": {"num_attention_heads": 4}}),
        "per_layer_config: config.json gives single blocks their own shape",
    ),
    "attention-free blocks of a stock model": (
        set_config(attention_free_blocks={"2": "none"}),
        "remove it, or restore model_type attention_free_gpt_neox",
    ),
    "odd heads, rotated whole": (
        set_config(hidden_size=66, rotary_pct=1.0),
        "[198, 66] from config",
    ),
    "heads of another size": (set_config(head_dim=8), "expected [48, 64] from config.json"),
    "no size": (set_config(hidden_size=...), "'hidden_size' is not a positive whole number"),
    "uneven heads": (
        set_config(num_attention_heads=3),
        "hidden_size is not a multiple of the number of heads (got 64 and 3)",
    ),
    "absurdly many blocks": (
        set_config(num_hidden_layers=10**12),
        "more blocks than any model has (got 1,000,000,000,000)",
    ),
    "more blocks than weights": (
        set_config(num_hidden_layers=5),
        "tensor 'gpt_neox.layers.4.attention.query_key_value.weight' is missing",
    ),
    "other width": (set_config(hidden_size=128), "from config.json, got [192, 64]"),
    "biases that the library would ignore": (
        set_config(attention_bias=False),
        "'attention_bias' is off, and tensor 'gpt_neox.layers.0.attention.query_key_value.bias'",
    ),
}


@pytest.mark.parametrize("case", CONFIGURATION)
def test_configuration(tmp_path: Path, case: str) -> None:
    damage, text = CONFIGURATION[case]
    source = write_checkpoint(tmp_path / "source", NEOX)
    damage(source)
    refuse(tmp_path, source).assert_error(text)
    attn_surgery("inspect", source, "--json").assert_error(text)


@pytest.mark.parametrize("weights", [b"", b"not weights", None])
def test_architecture_comes_before_weights(tmp_path: Path, weights: bytes | None) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    if weights is not None:
        (source / SINGLE).write_bytes(weights)
        (source / "pytorch_model.bin").write_bytes(weights)
    refuse(tmp_path, source).assert_error("unsupported model_type gpt2; supported: ")


QKV = "gpt_neox.layers.1.attention.query_key_value.weight"
BIAS = "gpt_neox.layers.2.attention.dense.bias"
WEIGHTS: dict[str, tuple[Damage, str]] = {
    "no weights": (remove(SINGLE), "holds no weights"),
    "weights cut": (truncate(SINGLE, 100_000), "model.safetensors: is truncated or not valid"),
    "not weights": (
        write(SINGLE, b"version https://git-lfs"),
        "truncated or not valid safetensors",
    ),
    "missing weight": (set_tensors(lambda t: t.pop(QKV)), f"tensor {QKV!r} is missing"),
    "missing bias": (set_tensors(lambda t: t.pop(BIAS)), f"biases are missing, such as {BIAS!r}"),
    "wrong shape": (
        set_tensors(lambda t: t.update({QKV: t[QKV][:-1].clone()})),
        f"tensor {QKV!r} has the wrong shape (expected [192, 64] from config.json, got [191, 64])",
    ),
    "mixed dtypes": (set_tensors(lambda t: t.update({QKV: t[QKV].float()})), "got F32"),
    "8-bit weights": (
        set_tensors(lambda t: t.update({QKV: t[QKV].to(torch.int8)})),
        f"tensor {QKV!r} is quantized",
    ),
    "not finite": (
        set_tensors(lambda t: t[QKV].fill_(float("nan"))),
        f"the new content of {QKV!r} is not finite in F16",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(tmp_path: Path, case: str) -> None:
    damage, text = WEIGHTS[case]
    source = write_checkpoint(tmp_path / "source", NEOX)
    damage(source)
    refuse(tmp_path, source, "--layout", "stock").assert_error(text)


def test_overflow_of_a_product(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX)
    name = "gpt_neox.layers.1.attention.dense.weight"

    def enlarge(tensors: dict[str, torch.Tensor]) -> None:
        tensors[QKV].fill_(6e4)
        tensors[name].fill_(6e4)

    set_tensors(enlarge)(source)
    refuse(tmp_path, source, "--layout", "compact").assert_error(
        "the new content of 'gpt_neox.layers.1.attention.affine.weight' is not finite in F16"
    )


def edit_index(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(source: Path) -> None:
        index = json.loads((source / INDEX).read_text())
        change(index)
        (source / INDEX).write_text(json.dumps(index))

    return damage


def _place(where: object) -> Damage:
    return edit_index(lambda index: index["weight_map"].update({QKV: where}))


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
OUTSIDE = "names a file outside the folder"
INDEXES: dict[str, tuple[Damage, str]] = {
    "damaged": (write(INDEX, b"{"), f"{INDEX}: not valid JSON"),
    "list": (write(INDEX, b'{"weight_map": ["a"]}'), f"{INDEX}: has no weight_map"),
    "odd metadata": (
        edit_index(lambda index: index.update(metadata=["x"])),
        f"{INDEX}: has metadata that is not an object",
    ),
    "missing shard": (remove(SECOND), f"{INDEX}: names shard {SECOND}, which is missing"),
    "shard cut": (truncate(SECOND, 5000), f"{SECOND}: is truncated"),
    "above": (_place("../x.safetensors"), OUTSIDE),
    "absolute": (_place("/etc/passwd"), f"{OUTSIDE} (got '/etc/passwd')"),
    "nothing": (_place(""), "names shard , which is missing"),
    "zero byte": (_place("a\x00b"), f"{INDEX}: names shard a\\x00b, which is missing"),
    "list of files": (_place([FIRST]), f"{OUTSIDE} (got ['{FIRST}'])"),
    "null": (_place(None), f"{OUTSIDE} (got None)"),
    "config as shard": (_place("config.json"), "config.json: cannot be read as a pickled"),
    "wrong shard": (
        _place(SECOND),
        f"tensor {QKV!r} is not where the index says (expected {SECOND}, got {FIRST})",
    ),
    "listed but stored nowhere": (
        edit_index(lambda index: index["weight_map"].update(ghost=FIRST)),
        "tensor 'ghost' is not where the index says",
    ),
    "stored but not listed": (
        edit_index(lambda index: index["weight_map"].pop(QKV)),
        f"tensor {QKV!r} is not where the index says (expected no such tensor, got {FIRST})",
    ),
    "stored twice": (
        lambda source: save_file(
            {**load_file(source / FIRST), **load_file(source / SECOND)}, source / SECOND
        ),
        f"got {FIRST} and {SECOND}",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_indexes(tmp_path: Path, case: str) -> None:
    damage, text = INDEXES[case]
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    damage(source)
    outcome = refuse(tmp_path, source)
    outcome.assert_error(text)
    assert len(outcome.stderr) < 5_000


UNREADABLE = "pytorch_model.bin: cannot be read as a pickled"
PICKLES: dict[str, tuple[Any, ...]] = {
    "a list": ([1], "is not a state dict (got list)"),
    "nested": ({"state_dict": {}}, "'state_dict' is not a plain tensor (got dict)"),
    "complex": ({"x": torch.ones(2, dtype=torch.complex64)}, "'x' is not a plain"),
    # some versions of torch refuse these two before we do
    "sparse": ({"x": torch.ones(2, 2).to_sparse()}, "'x' is not a plain", UNREADABLE),
    "meta": ({"x": torch.ones(2, device="meta")}, "'x' is not a plain", UNREADABLE),
    "number as name": ({1: torch.ones(2)}, "is missing from the checkpoint"),
    "nothing": ({}, "is missing from the checkpoint"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(tmp_path: Path, case: str) -> None:
    content, *texts = PICKLES[case]
    source = write_checkpoint(tmp_path / "source", NEOX, weights="bin")
    torch.save(content, source / "pytorch_model.bin")
    outcome = refuse(tmp_path, source)
    outcome.assert_error()
    assert any(text in outcome.stderr for text in texts), outcome


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9999])
def test_truncated_pickles(tmp_path: Path, legacy: bool, share: float) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, weights="bin")
    path = source / "pytorch_model.bin"
    torch.save(make_tensors(NEOX), path, _use_new_zipfile_serialization=not legacy)
    truncate(path.name, int(path.stat().st_size * share))(source)
    refuse(tmp_path, source).assert_error(UNREADABLE)


def test_blocks(tmp_path: Path) -> None:
    """The rest of the messages are those of the parser: tests/test_blocks.py."""
    source = write_checkpoint(tmp_path / "source", NEOX)
    outcome = refuse(tmp_path, source, spec="last:5")
    text = "the model has 4 blocks, 0 to 3"
    outcome.assert_error("block specification", text, "'last:5' is out of range")


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "GPT-Neo, identity": (
        NEO,
        "gpt_neo has no rotary positions, so its own architecture cannot make",
    ),
    "no rotary dimensions": (neox_config(rotary_pct=0.0), "got no rotary dimensions"),
    "rotary positions that lie too close": (
        neox_config(rope_scaling={"type": "linear", "factor": 4.0}),
        "(expected a score gap above 351.1, got a gap of 110.4)",
    ),
    "scaled rotary positions": (
        neox_config(rope_scaling={"type": "dynamic", "factor": 4.0}),
        "rotary scaling 'dynamic' is not proved",
    ),
    "very long contexts": (
        neox_config(max_position_embeddings=400_000, rotary_emb_base=100),
        "one-hot over every offset up to max_position_embeddings 400000",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_combinations(tmp_path: Path, case: str) -> None:
    config, text = UNSUPPORTED[case]
    small = {**config, "max_position_embeddings": min(config["max_position_embeddings"], 64)}
    tensors = make_tensors(small)  # masks of the real length would fill the disk
    source = write_checkpoint(tmp_path / "source", config, tensors=tensors)
    refuse(tmp_path, source, "--layout", "stock").assert_error(text, "--variant zero")
    # what is refused is offered another way, and that way works
    for other in (("--layout", "compact"), ("--layout", "stock", "--variant", "zero"), ()):
        done = attn_surgery("export", source, "--drop-attn", "1", "--dry-run", "--json", *other)
        assert done.code == 0, done.stderr
        if not other:
            assert done.json["layout"] == "compact"
            assert done.json["reason"].startswith("the stock layout cannot: ")


def test_edited_blocks(tmp_path: Path) -> None:
    """Blocks that are attention-free already are refused; others add to the earlier edit."""
    source = write_checkpoint(tmp_path / "source", NEOX)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    common = ("--layout", "stock", "--output")
    assert attn_surgery("export", source, "--drop-attn", "1", *common, first).code == 0
    for spec in ("1", "0-2", "-3"):
        refuse(tmp_path, first, spec=spec).assert_error(
            "block 1 is already attention-free (identity)",
            "name other blocks to add to the earlier edit, or start from the original",
        )
    done = attn_surgery(
        "export", first, "--drop-attn", "3", "--variant", "zero", *common, second, "--json"
    )
    assert done.code == 0
    assert done.json["blocks"] == [3]
    found = attn_surgery("inspect", second, "--json").json
    assert found["attention_free"] == {"1": "identity", "3": "zero"}
    assert [edit["blocks"] for edit in found["edits"]] == [[1], [3]]
    refuse(tmp_path, second, spec="3").assert_error("block 3 is already attention-free (zero)")

    compact = ("export", second, "--drop-attn", "0", "--layout", "compact", "--output", third)
    assert attn_surgery(*compact).code == 0
    refuse(tmp_path, third, "--layout", "stock", spec="2").assert_error(
        "the source is a compact checkpoint", "use --layout compact"
    )
    refuse(tmp_path, third, spec="0").assert_error("block 0 is already attention-free (identity)")
    (third / "surgery.json").unlink()  # config.json alone still tells
    refuse(tmp_path, third, spec="0").assert_error("block 0 is already attention-free (affine)")


COMPACT_BLOCKS = [None, {"9": "affine"}, {"01": "affine"}, {"1": "soft"}]


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    source = write_checkpoint(tmp_path / "source", NEOX)
    return surgery.export(source, "1", layout="compact", output=tmp_path / "compact").output


@pytest.mark.parametrize("recorded", COMPACT_BLOCKS, ids=json.dumps)
def test_compact_configuration(tmp_path: Path, compact: Path, recorded: object) -> None:
    set_config(attention_free_blocks=recorded)(compact)
    refuse(tmp_path, compact, spec="2").assert_error(
        "config.json: 'attention_free_blocks' does not say what replaces the attention of each",
        "expected blocks below 4 → affine, constant, none",
    )


def test_a_compact_block_without_its_tensor(tmp_path: Path, compact: Path) -> None:
    name = "gpt_neox.layers.1.attention.affine.weight"
    set_tensors(lambda tensors: tensors.pop(name))(compact)
    refuse(tmp_path, compact, spec="2").assert_error(f"tensor {name!r} is missing")
    set_config(attention_free_blocks={"1": "none"})(compact)
    refuse(tmp_path, compact, spec="2").assert_error(
        "tensor 'gpt_neox.layers.1.attention.affine.bias' is of attention, which block 1 lacks"
    )


def test_unknown_models(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    refuse(tmp_path, missing).assert_error(
        f"{missing}: no such folder, and not a Hub id (owner/name)"
    )
    refuse(tmp_path, "nobody/there-is-no-such-model").assert_error(
        "Hub model nobody/there-is-no-such-model (no such folder here): offline mode is on, and "
        "there is no complete earlier download"
    )
    refuse(tmp_path, "lab:llama").assert_error(
        "no embedded model 'lab:llama' (expected lab:pythia or lab:gpt-neo)"
    )
    file = tmp_path / "file"
    file.write_text("")
    refuse(tmp_path, file).assert_error(f"{file}: is a file; expected a folder or a Hub id")
    refuse(tmp_path, "").assert_error("no model is named (expected a folder or a Hub id)")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(tmp_path, empty).assert_error("config.json is missing")
    source = write_checkpoint(tmp_path / "source", NEOX)
    refuse(tmp_path, source, "--revision", "step1000").assert_error(
        "--revision goes with a Hub id, and this is a folder (got step1000)"
    )


def test_a_lab_model_whose_files_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the installation had lost them."""
    monkeypatch.setattr("surgery.lab.LAB_MODELS", ("pythia", "lost"))
    refuse(tmp_path, "lab:lost").assert_error(
        "lab:lost: its files are missing (expected ", "lost); reinstall attn-surgery"
    )


def test_an_unknown_layout(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'other' \(expected auto, stock or compact\)"):
        surgery.export(source, "1", layout="other", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verify_of_what_was_not_exported(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX)
    attn_surgery("verify", source).assert_error("has no surgery.json", "`attn-surgery export`")
    alone = attn_surgery("verify", source, "--revision", "main")
    assert alone.code == 2
    assert "error: --revision needs --source, the model that has this" in alone.stderr
    attn_surgery("verify", tmp_path / "missing").assert_error("no such folder, and not a Hub id")
    attn_surgery("verify", source / "config.json").assert_error("is a file; expected a folder")


# --- targets


def export_to(source: Path, output: object, *options: object) -> Outcome:
    return attn_surgery("export", source, "--drop-attn", "1", "--output", output, *options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", NEOX)


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_an_output_over_the_source(
    tmp_path: Path, source: Path, overwrite: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source)
    before = snapshot(tmp_path)
    targets: list[object] = [
        source,
        source / "out",
        source / "deep" / "er",
        tmp_path,
        tmp_path / "link",
        tmp_path / "link" / "out",
        tmp_path / "source" / ".." / "source",
        ".",
        "..",
        "out",
    ]
    for target in targets:
        export_to(source, target, *overwrite).assert_error("overlap")
    assert snapshot(tmp_path) == before


def test_impossible_targets(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    before = snapshot(tmp_path)
    export_to(source, tmp_path / "file" / "out").assert_error("cannot write: ", "file")
    export_to(source, tmp_path / "loop" / "out").assert_error("cannot write: ", "loop")
    export_to(source, tmp_path / ("n" * 300)).assert_error("cannot write: file name too long")
    export_to(source, "/dev/null/out").assert_error("/dev/null/out: cannot write: ")
    assert snapshot(tmp_path) == before


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that others may enter, and rights that root would not be bound by."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    euid = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(euid)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def _drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_a_read_only_target(as_nobody: Path) -> None:
    source = write_checkpoint(as_nobody / "source", NEOX)
    (as_nobody / "shelf").mkdir(mode=0o555)
    (as_nobody / "shelf").chmod(0o555)
    closed = as_nobody / "closed"
    closed.mkdir()
    closed.chmod(0o000)
    (source / SINGLE).chmod(0o644)  # its writer makes it private
    before = snapshot(source)
    assert export_to(source, as_nobody / "warm").code == 0
    _drop_rights()
    for out in (as_nobody / "shelf" / "out", as_nobody / "shelf" / "deep" / "out"):
        export_to(source, out).assert_error(f"{out}: cannot write: permission denied")
    export_to(source, closed / "out").assert_error("cannot write: permission denied")
    assert snapshot(source) == before
    assert list((as_nobody / "shelf").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_a_source_that_may_not_be_read(as_nobody: Path, name: str) -> None:
    source = write_checkpoint(as_nobody / "source", NEOX)
    (source / name).chmod(0o000)
    (as_nobody / "free").mkdir()
    (as_nobody / "free").chmod(0o777)
    _drop_rights()
    attn_surgery("inspect", source).assert_error(f"{source / name}: ", "permission denied")
    out = as_nobody / "free" / "out"
    export_to(source, out).assert_error(f"{source / name}: ", "permission denied")


# --- usage and JSON


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["export", "lab:pythia"], "name the blocks with --drop-attn, or give a --plan"),
        (["export", "--drop-attn", "1", "--plan", "p"], "give --drop-attn or --plan, not both"),
        (["export", "--plan", "p", "--variant", "zero"], "--plan names the variants itself"),
        (["export", "--drop-attn", "1", "--variant", "soft"], "'soft' is not one of"),
        (["export", "--drop", "1"], "No such option"),
        (["inspect"], "Missing argument 'MODEL'"),
        # options that would do nothing
        ([*SEARCH, "--heal-steps", "9"], "heal-steps of --config needs --heal"),
        ([*COMPARE, "--rows", "9"], "--rows needs --samples"),
        ([*COMPARE, "--show-text"], "--show-text needs --samples"),
        ([*EXTRACT, "--show-text"], "--show-text needs --rows"),
        ([*EVALUATE, "--sibling", "lab:pythia"], "--sibling needs --attack"),
        ([*EVALUATE, "--draws", "2"], "draws of --config needs --attack"),
        ([*OTHER, "--prefix-length", "9"], "prefix-length of --config needs --samples"),
        ([*OTHER, "--skip-short"], "--skip-short needs --samples"),
        ([*SEARCH, "--measure", "hints:4"], "--measure hints:4 has no limit: give --max hints:4=X"),
        ([*ERASE, "--calibration", "t"], "leave it out, or name a cut with --drop-attn or --plan"),
        ([*EVALUATE, "--num-fewshot", "0"], "--suite none excludes num-fewshot of --config"),
        ([*EVALUATE, "--include-path", "."], "--suite none excludes include-path of --config"),
        ([*EVALUATE, "--tasks", "a"], "--tasks and --suite exclude each other"),
        # options that need or exclude others
        (
            ["export", "me/m", "--drop-attn", "1", "--push-to-hub", "me/x", "--dry-run"],
            "--push-to-hub and --dry-run exclude each other",
        ),
        (["mitigate", "me/m", *OWN, "--erase"], "--erase needs --text"),
        (["collect", "me/m", "--corpus", "t", "--output", "s.csv"], "must be a .jsonl file"),
        # values that an option does not take
        ([*EXTRACT, "--prefix-length", "0"], "0 is not in the range x>=1"),
        ([*EXTRACT, "--suffix-length", "-1"], "-1 is not in the range x>=1"),
    ],
)
def test_usage(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = attn_surgery(*arguments)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert text in outcome.stderr
    assert "Usage: " not in outcome.stderr, "the cause alone"
    assert list(tmp_path.iterdir()) == []


class OutOfMemoryError(RuntimeError):
    """As torch raises for a GPU."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("surgery.inspection.inspect", fail)
    outcome = attn_surgery("inspect", "lab:pythia", "--json")
    outcome.assert_error("out of memory", "use a machine with more memory")
    assert outcome.json["error"] == "out of memory"
    monkeypatch.setattr("evals.jobs.evaluating.run_measurement", fail)
    call = ("audit", "lab:pythia", "--baseline", "lab:pythia")
    ways = "take a smaller batch-size of --config or --config '{dtype: bfloat16}' or no --attack"
    attn_surgery(*call).assert_error("out of memory", ways)
    monkeypatch.setattr("cli.commands.edit.erase.open_erase", fail)
    attn_surgery("erase", "lab:pythia").assert_error("out of memory", "take --adapters 8")


def test_json_prints_one_object(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    dry = export_to(source, out, "--dry-run", "--json")
    assert dry.json["dry_run"] is True
    assert {"output", "family", "variant", "layout", "blocks", "rewritten"} <= dry.json.keys()
    assert not out.exists()
    done = export_to(source, out, "--json")
    assert done.json["output"] == str(out)
    assert set(done.json) >= {"output", "family", "variant", "layout", "blocks", "rewritten"}
    loading, unmeasured, later = done.stderr.splitlines()
    assert loading == f"To load it: AutoModelForCausalLM.from_pretrained('{out}')"
    assert unmeasured.startswith("Nothing measured yet. ")
    assert f"heal {out} --source {source}" in later
    found = attn_surgery("inspect", out, "--json")
    assert found.stderr == ""
    assert found.json["attention_free"] == {"1": "identity"}
    verified = attn_surgery("verify", out, "--source", source, "--json")
    assert (verified.code, verified.stderr) == (0, "")
    assert verified.json["ok"] is True
    assert {"name", "ok", "detail"} == set(verified.json["checks"][0])
    again = export_to(source, out, "--json")
    assert (again.code, again.json) == (0, done.json)
    assert again.stderr.startswith(f"{out}: already holds this result\n")
    attn_surgery("export", source, "--drop-attn", "0", "--output", out, "--json").assert_error(
        "already exists"
    )


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """A folder's name is bytes; what is no text is replaced, and JSON stays JSON."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xc3\xa9")
    write_checkpoint(folder, NEOX)
    printed = finish(start("inspect", folder, env={"PYTHONIOENCODING": "utf-8:strict"}))
    assert printed.code == 0, printed.stderr
    assert printed.stdout.startswith("caf\ufffd é\n")
    for encoding in ("utf-8:strict", "ascii:strict"):
        outcome = finish(start("inspect", folder, "--json", env={"PYTHONIOENCODING": encoding}))
        assert outcome.json["model"] == "caf\ufffd é"
    out = tmp_path / "out"
    assert attn_surgery("export", folder, "--drop-attn", "1", "--output", out).code == 0
    assert attn_surgery("verify", out, "--source", folder).code == 0


def test_a_full_stdout(source: Path) -> None:
    with Path("/dev/full").open("w") as full:
        outcome = finish(start("inspect", source, stdout=full))
    assert outcome.code == 1
    assert outcome.stderr == "error: no space left on device\n"


def test_a_closed_stdout(tmp_path: Path, source: Path) -> None:
    """The shell's `>&-`: there is nowhere to print to, and the work is done all the same."""
    out = tmp_path / "out"
    close = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, *PROGRAM]
    export = ["export", str(source), "--drop-attn", "1", "--output", str(out)]
    done = subprocess.run([*close, *export], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert attn_surgery("verify", out, "--source", source).code == 0
