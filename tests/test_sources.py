"""Contract: any source that a user has is read, and all that the edit leaves alone stays as it was.

Safetensors or pickled, single or sharded, of either family and every dtype: untouched tensors keep
their names and bytes, files that a user needs come along unchanged, stale weights, model cards and
code do not, and the result loads in transformers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config, write_checkpoint
from command_line import snapshot
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

import surgery
from surgery.loading import load_model

NEOX = neox_config(max_position_embeddings=64)
NEO = neo_config(max_position_embeddings=64)
CONFIGS = {"neox": NEOX, "neo": NEO}
FORMS = [("safetensors", 1), ("safetensors", 3), ("bin", 1), ("bin", 3)]
DTYPES = ["float32", "bfloat16", "float16", "bfloat16"]


def result_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read by the library, file by file, through the index where there is one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
        return load_torch(folder / "model.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    weight_map = json.loads(index.read_text())["weight_map"]
    files = sorted(set(weight_map.values()))
    assert files == sorted(path.name for path in folder.glob("*.safetensors"))
    for file in files:
        for name, tensor in load_torch(folder / file).items():
            assert weight_map.pop(name) == file
            tensors[name] = tensor
    assert weight_map == {}
    return tensors


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_untouched(source: dict[str, torch.Tensor], output: Path, changed: set[str]) -> None:
    """Every tensor of the source that was not changed is in the output, with the same bytes."""
    found = result_tensors(output)
    for name, tensor in source.items():
        if name in changed:
            continue
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert raw(found[name]) == raw(tensor), name


@pytest.mark.parametrize(
    ("weights", "num_shards", "dtype"),
    [(*form, dtype) for form, dtype in zip(FORMS, DTYPES, strict=True)],
)
@pytest.mark.parametrize("family", ["neox", "neo"])
def test_untouched_tensors_keep_their_bytes(
    tmp_path: Path, family: str, weights: str, num_shards: int, dtype: str
) -> None:
    config = {**CONFIGS[family], "torch_dtype": dtype}
    tensors = make_tensors(config)
    if num_shards > 1:
        tensors.pop("lm_head.weight", None)  # a tied tensor is never split over two files
    source = write_checkpoint(
        tmp_path / "source", config, tensors=tensors, weights=weights, num_shards=num_shards
    )
    before = snapshot(source)
    for layout, variant in (("stock", "zero"), ("compact", "identity")):
        done = surgery.export(
            source, "1,3", output=tmp_path / layout, variant=variant, layout=layout
        )
        changed = {*done.plan.rewritten, *done.plan.dropped, "lm_head.weight"}
        assert len(changed) > 4
        assert_untouched(tensors, tmp_path / layout, changed)
        added = set(result_tensors(tmp_path / layout)) - set(tensors)
        assert added == set(done.plan.added)
        assert bool(added) == (layout == "compact")
        edited = result_tensors(tmp_path / layout)
        assert {edited[name].dtype for name in done.plan.edits} == {getattr(torch, dtype)}
    assert snapshot(source) == before


@pytest.mark.parametrize("family", ["neox", pytest.param("neo", marks=pytest.mark.slow)])
def test_every_form_of_a_source_gives_the_same_model(tmp_path: Path, family: str) -> None:
    config = CONFIGS[family]
    tensors = make_tensors(config)
    tensors.pop("lm_head.weight", None)
    logits, contents = [], []
    for weights, num_shards in FORMS:
        name = f"{weights}{num_shards}"
        source = write_checkpoint(
            tmp_path / name, config, tensors=tensors, weights=weights, num_shards=num_shards
        )
        surgery.export(source, "last:2", output=tmp_path / f"{name}-out")
        contents.append({k: raw(v) for k, v in result_tensors(tmp_path / f"{name}-out").items()})
        with torch.no_grad():
            logits.append(load_model(tmp_path / f"{name}-out")(torch.arange(40)[None]).logits)
    assert all(content == contents[0] for content in contents)
    assert all(torch.equal(one, logits[0]) for one in logits)


def test_safetensors_win_over_pickles(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, seed=1, weights="bin")
    write_checkpoint(source, NEOX, seed=2, weights="safetensors")
    surgery.export(source, "1", output=tmp_path / "out")
    wanted = make_tensors(NEOX, seed=2)["gpt_neox.embed_in.weight"]
    assert torch.equal(result_tensors(tmp_path / "out")["gpt_neox.embed_in.weight"], wanted)
    assert not list((tmp_path / "out").glob("*.bin"))


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_a_single_file_wins_over_an_index_as_in_transformers(tmp_path: Path, weights: str) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, seed=1, weights=weights, num_shards=2)
    write_checkpoint(source, NEOX, seed=2, weights=weights)
    surgery.export(source, "1", output=tmp_path / "out")
    name = "gpt_neox.embed_in.weight"
    assert torch.equal(
        result_tensors(tmp_path / "out")[name],
        load_model(source).get_input_embeddings().weight,
    )


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_head_is_written_once(tmp_path: Path, head_first: bool) -> None:
    tensors = make_tensors(NEO)
    if head_first:
        tensors = dict(reversed(tensors.items()))
    assert tensors["lm_head.weight"] is tensors["transformer.wte.weight"]
    source = write_checkpoint(tmp_path / "source", NEO, tensors=tensors, weights="bin")
    surgery.export(source, "1", output=tmp_path / "out", variant="zero")
    found = result_tensors(tmp_path / "out")
    assert "lm_head.weight" not in found
    assert raw(found["transformer.wte.weight"]) == raw(tensors["transformer.wte.weight"])
    model = load_model(tmp_path / "out")
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_a_tied_head_may_be_listed_in_an_index(tmp_path: Path) -> None:
    """As torch saves a tied model in several files: two names of one tensor, both in the index."""
    tensors = make_tensors(NEO)
    tensors = {"lm_head.weight": tensors["lm_head.weight"], **tensors}
    source = write_checkpoint(
        tmp_path / "source", NEO, tensors=tensors, weights="bin", num_shards=2
    )
    out = surgery.export(source, "1", output=tmp_path / "out", variant="zero").output
    assert "lm_head.weight" not in result_tensors(out)
    assert surgery.verify(out, source=source).ok


def test_a_shared_head_that_the_config_does_not_tie_is_kept(tmp_path: Path) -> None:
    tensors = make_tensors(NEOX)
    tensors["embed_out.weight"] = tensors["gpt_neox.embed_in.weight"]
    source = write_checkpoint(tmp_path / "source", NEOX, tensors=tensors, weights="bin")
    surgery.export(source, "1", output=tmp_path / "out")
    assert_untouched({"embed_out.weight": tensors["embed_out.weight"]}, tmp_path / "out", set())


def share_memory(tensors: dict[str, Any]) -> dict[str, Any]:
    """Views of one tensor, two names of one, and one that is not contiguous."""
    names = [f"gpt_neox.layers.{block}.input_layernorm.weight" for block in range(4)]
    stacked = torch.stack([tensors[name] for name in names])
    shared = {name: stacked[block] for block, name in enumerate(names)}
    shared[names[3]] = shared[names[2]]
    transposed = "gpt_neox.layers.0.attention.dense.weight"
    return tensors | shared | {transposed: tensors[transposed].t().contiguous().t()}


@pytest.mark.parametrize("kind", ["shared", "parameters", "from before the zip format"])
def test_pickles_of_every_kind(tmp_path: Path, kind: str) -> None:
    tensors: dict[str, Any] = make_tensors(NEOX)
    if kind == "shared":
        tensors = share_memory(tensors)
    elif kind == "parameters":
        name = "gpt_neox.embed_in.weight"
        tensors[name] = torch.nn.Parameter(tensors[name])
    source = write_checkpoint(tmp_path / "source", NEOX, tensors=tensors, weights="bin")
    if kind == "from before the zip format":
        torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    done = surgery.export(source, "1", output=tmp_path / "out")
    plain = {name: tensor.detach() for name, tensor in tensors.items()}
    assert_untouched(plain, tmp_path / "out", set(done.plan.rewritten))


CARRIED = {
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"model_max_length": 64}\n\n',
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"{}",
    "vocab.json": b'{"a": 0}',
    "merges.txt": "#version: 0.2\né è\n".encode(),
    "generation_config.json": b'{"bos_token_id": 0}',
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "LICENSE": b"Apache\r\n",
    "LICENSE.txt": b"",
    "license.md": b"MIT",
    "Copying": b"GPL",
    "NOTICE": bytes(range(256)),
}
LEFT = {
    "README.md": b"the source's card",
    "modeling_evil.py": b"raise SystemExit",
    "tokenization_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"stale",
    "tf_model.h5": b"stale",
    "flax_model.msgpack": b"stale",
    "rust_model.ot": b"stale",
    "model-00001-of-00002.safetensors": b"stale",
    "training_args.bin": b"stale",
    "optimizer.pt": b"stale",
    "onnx/model.onnx": b"stale",
    ".gitattributes": b"*.bin filter=lfs",
    ".git/config": b"[core]",
}


def test_what_comes_along(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX)
    for name, content in {**CARRIED, **LEFT}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    before = snapshot(source)
    surgery.export(source, "1", output=tmp_path / "out")
    out = tmp_path / "out"
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {*CARRIED, "config.json", "model.safetensors", "surgery.json", "README.md"}
    for name, content in CARRIED.items():
        assert (out / name).read_bytes() == content, name
    assert (out / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert snapshot(source) == before


def test_a_source_of_links_gives_files(tmp_path: Path) -> None:
    real = write_checkpoint(tmp_path / "cache" / "blobs", NEOX)  # as the Hub's client has it
    (real / "tokenizer.json").write_text("{}")
    source = tmp_path / "cache" / "snapshots" / "commit"
    source.mkdir(parents=True)
    for path in real.iterdir():
        (source / path.name).symlink_to(os.path.relpath(path, source))
    surgery.export(source, "1", output=tmp_path / "out")
    surgery.export(real, "1", output=tmp_path / "direct")
    linked, direct = snapshot(tmp_path / "out"), snapshot(tmp_path / "direct")
    assert linked.pop("surgery.json") != direct.pop("surgery.json")  # they name their source
    assert linked.pop("README.md") != direct.pop("README.md")  # and themselves
    assert linked == direct


@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_shards_without_an_edit_are_the_source_s_files(tmp_path: Path, layout: str) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=4)
    weight_map = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    done = surgery.export(source, "2", output=tmp_path / "out", layout=layout)
    changed = {*done.plan.rewritten, *done.plan.dropped}
    edited = {weight_map[name] for name in changed}
    before, after = snapshot(source), snapshot(tmp_path / "out")
    shards = {name for name in before if name.endswith(".safetensors")}
    assert {name for name in after if name.endswith(".safetensors")} == shards
    assert {name for name in shards if before[name] != after[name]} == edited
    assert 0 < len(edited) < 4
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = result_tensors(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())


def test_metadata_of_files_and_index_stays(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    for path in source.glob("*.safetensors"):
        save_file(load_file(path), path, metadata={"format": "pt", "step": "1000"})
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "metadata": {"total_size": 1, "total_parameters": 7}}))
    surgery.export(source, "0-3", output=tmp_path / "out")
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            assert file.metadata() == {"format": "pt", "step": "1000"}
    assert json.loads((tmp_path / "out" / index.name).read_text())["metadata"] == {
        "total_size": sum(t.nbytes for t in result_tensors(tmp_path / "out").values()),
        "total_parameters": 7,
    }
    surgery.export(source, "0-3", output=tmp_path / "compact", layout="compact")
    metadata = json.loads((tmp_path / "compact" / index.name).read_text())["metadata"]
    assert set(metadata) == {"total_size"}, "of a model with fewer tensors it would be wrong"


def test_shard_names_of_the_source_s_own(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    index = source / "model.safetensors.index.json"
    text = index.read_text()
    for old, new in (("model-00001-of-00002", "first"), ("model-00002-of-00002", "second part")):
        (source / f"{old}.safetensors").rename(source / f"{new}.safetensors")
        text = text.replace(old, new)
    index.write_text(text)
    surgery.export(source, "1", output=tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.safetensors")) == [
        "first",
        "second part",
    ]
    load_model(tmp_path / "out")


@pytest.mark.parametrize("name", ["model-00001-of-00001", "model"])
def test_an_index_of_one_file(tmp_path: Path, name: str) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX)
    (source / "model.safetensors").rename(source / f"{name}.safetensors")
    tensors = make_tensors(NEOX)
    weight_map = dict.fromkeys(tensors, f"{name}.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    done = surgery.export(source, "1", output=tmp_path / "out")
    found = load_torch(tmp_path / "out" / f"{name}.safetensors")
    assert set(found) == set(tensors) - set(done.plan.dropped)
    load_model(tmp_path / "out")


def test_a_shard_that_empties_is_left_out(tmp_path: Path) -> None:
    tensors = make_tensors(NEO)
    attention = {n: t for n, t in tensors.items() if ".h.1.attn.attention." in n}
    rest = {n: t for n, t in tensors.items() if n not in attention and n != "lm_head.weight"}
    source = write_checkpoint(tmp_path / "source", NEO, tensors=rest)
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    from safetensors.torch import save_file as save_torch

    save_torch(attention, source / "model-00002-of-00002.safetensors")
    weight_map = {n: f"model-0000{1 + (n in attention)}-of-00002.safetensors" for n in tensors}
    weight_map.pop("lm_head.weight")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    surgery.export(source, "1", output=tmp_path / "out", variant="zero", layout="compact")
    found = result_tensors(tmp_path / "out")
    assert set(found) == set(rest)
    load_model(tmp_path / "out")


def test_the_newest_name_of_the_head(tmp_path: Path) -> None:
    tensors = make_tensors(NEOX)
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    source = tmp_path / "source"
    write_checkpoint(source, NEOX, tensors=tensors)
    save_file(
        {name: tensor.numpy() for name, tensor in tensors.items()}, source / "model.safetensors"
    )
    done = surgery.export(source, "1", output=tmp_path / "out")
    assert_untouched(tensors, tmp_path / "out", set(done.plan.rewritten))
