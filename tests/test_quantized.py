"""Contract: quantized weights outside attention are copied; quantized attention is refused.

A tiny gpt-oss with the tensors of the published ones: experts in MXFP4 (blocks and scales, uint8).
The library expands them as it loads them, so the edit is compared with attention that returns each
token's own value.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import attn_surgery
from decoders import write_decoder
from forging import assert_fails, edit_json, edit_weights
from safetensors.torch import load_file, save_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.config import spares_attention
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import family_of
from surgery.loading import _check_loaded, load_model

WEIGHTS = "model.safetensors"
SPARED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
PLAIN = {
    "model_type": "llama", "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8,
    "intermediate_size": 8, "vocab_size": 8, "max_position_embeddings": 8,
}  # fmt: skip
SCHEME = {"num_bits": 8, "type": "float", "dynamic": False}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": SPARED}


def quantize_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random numbers in MXFP4: 32 of four bits share a scale. [E, in, out] is stored turned."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            found[name] = tensor
            continue
        experts, inner, outer = tensor.shape
        shape = (experts, outer, inner // 32)
        found[f"{name}_blocks"] = torch.randint(
            0, 256, (*shape, 16), generator=generator, dtype=torch.uint8
        )
        found[f"{name}_scales"] = torch.randint(
            119, 123, shape, generator=generator, dtype=torch.uint8
        )
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "source"
    write_decoder(folder, "gpt_oss", torch_dtype="bfloat16", max_position_embeddings=300)
    tensors = quantize_experts(load_file(folder / WEIGHTS))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=MXFP4))
    return folder


def test_experts_are_copied_as_bytes(source: Path, tmp_path: Path) -> None:
    """The edit is exact, and `verify` proves the copies: a changed byte is found."""
    out = surgery.export(source, "0,2", output=tmp_path / "out").output
    before, after = (load_file(path / WEIGHTS) for path in (source, out))
    experts = [name for name in before if name.endswith(("_blocks", "_scales"))]
    assert len(experts) == 12
    assert all(torch.equal(before[name], after[name]) for name in experts)
    written = json.loads((out / "config.json").read_text())
    assert written["quantization_config"] == MXFP4
    with pytest.raises(UnsupportedError, match="quantized by mxfp4, and only models with plain"):
        load_model(out)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    edit_weights(out, lambda tensors: tensors[experts[0]].view(-1)[:1].add_(1))
    assert_fails(out, "untouched", experts[0], source)


def test_a_quantized_cache_is_refused(source: Path, tmp_path: Path) -> None:
    """It rounds the keys and values of every block, whatever is left out of the rest."""
    source = Path(shutil.copytree(source, tmp_path / "source"))
    given = {**MXFP4, "kv_cache_scheme": SCHEME}
    edit_json(source / "config.json", lambda config: config.update(quantization_config=given))
    text = "'kv_cache_scheme' quantizes the keys and values of every block, and surgery needs plain"
    with pytest.raises(UnsupportedError, match=f"config.json: {text}.*unquantized model, and"):
        surgery.export(source, "1", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_stock_and_no_training(source: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(source, tmp_path / "source"))
    with pytest.raises(UnsupportedError, match="gpt_oss has no compact layout"):
        surgery.export(source, "1", output=tmp_path / "out", layout="compact")
    tiny_tokenizer().save_pretrained(source)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "rows.jsonl").write_text('{"tokens": [1, 2, 3, 4]}\n')
    taught = ("--samples", tmp_path / "rows.jsonl", "--prefix-length", 2, "--suffix-length", 2)
    cut = surgery.export(source, "1", output=tmp_path / "cut").output
    for command in (("erase", source, "--drop-attn", "1", *taught), ("heal", cut)):
        out = tmp_path / "trained"
        done = attn_surgery(*command, "--text", tmp_path / "text.txt", "--output", out)
        assert done.code == 1
        assert "training cannot be stored in them" in done.stderr
        assert not out.exists()


@pytest.mark.parametrize(
    ("given", "spared"),
    [
        (MXFP4, True),
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}, False),
        ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}, True),
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.self_attn"]}, False),
        ({"quant_method": "compressed-tensors", "ignore": ["re:.*self_attn.*", "lm_head"]}, True),
        ({"quant_method": "compressed-tensors", "ignore": ["re:.*q_proj", "re:("]}, False),
        ({"quant_method": "modelopt", "ignore": ["model.layers.*.self_attn*"]}, True),
        ({"quant_method": "modelopt", "ignore": ["self_attn"], "kv_cache_scheme": None}, True),
        ({"quant_method": "modelopt", "ignore": ["self_attn"], "kv_cache_scheme": SCHEME}, False),
        ("gptq", False),
    ],
)
def test_which_quantizations_spare_attention(given: Any, spared: bool) -> None:
    config = {**PLAIN, "quantization_config": given}
    assert spares_attention(config, family_of(config)) == spared


def test_a_model_has_no_more_blocks_than_can_be_listed() -> None:
    config = {**PLAIN, "num_hidden_layers": 10**15, "quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(CheckpointError, match="more blocks than any model has"):
        spares_attention(config, family_of(config))


def test_quantized_attention_is_refused(tmp_path: Path) -> None:
    """By its method, or by its tensors."""
    source = write_decoder(tmp_path / "source", "llama")
    method = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    edit_json(source / "config.json", lambda config: config.update(quantization_config=method))
    said = (
        "attention is quantized, or config.json does not say that it is left out, and surgery needs"
    )
    with pytest.raises(UnsupportedError, match=said):
        surgery.export(source, "1", output=tmp_path / "out")
    method["modules_to_not_convert"] = ["self_attn"]
    edit_json(source / "config.json", lambda config: config.update(quantization_config=method))
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors = load_file(source / WEIGHTS)
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"tensor '{name}' is quantized"):
        surgery.export(source, "1", output=tmp_path / "out")


def test_experts_packed_under_names_of_their_own_are_copied(tmp_path: Path) -> None:
    """Whoever lacks the package that expands them gets all checks but those that run the model."""
    source = write_decoder(tmp_path / "source", "qwen3_moe")
    method = {
        "quant_method": "compressed-tensors",
        "ignore": ["re:.*self_attn.*", "re:.*mlp.gate$"],
    }
    edit_json(source / "config.json", lambda config: config.update(quantization_config=method))
    tensors = load_file(source / WEIGHTS)
    for name in [name for name in tensors if ".experts." in name]:
        packed = tensors.pop(name).to(torch.int8).view(torch.int32)
        tensors[name.replace(".weight", ".weight_packed")] = packed.contiguous()
        tensors[name.replace(".weight", ".weight_scale")] = torch.ones(1, 1)
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    done = surgery.export(source, "1", output=tmp_path / "out")
    after = load_file(done.output / WEIGHTS)
    assert all(after[name].equal(tensors[name]) for name in tensors if ".experts." in name)
    verification = surgery.verify(done.output, source=source)
    assert verification.ok, verification.verdict
    (loads,) = (claim for claim in verification.claims if claim.name == "loads")
    assert "weights quantized by compressed-tensors are not loaded here" in loads.detail
    assert surgery.inspect(done.output).parameters is None
    told = attn_surgery("inspect", done.output).stdout
    assert "packed parameters, F32" in told
    assert "pickled" not in told
    edit_weights(
        done.output,
        lambda all_: (
            next(one for name, one in all_.items() if name.endswith("weight_packed"))
            .view(-1)[:1]
            .add_(1)
        ),
    )
    assert not surgery.verify(done.output, source=source).ok


def test_experts_that_the_library_would_leave_random_are_refused(tmp_path: Path) -> None:
    """As version 4 does, which holds them one by one, where the files hold them merged."""
    source = write_decoder(tmp_path / "source", "qwen3_moe")
    tensors = load_file(source / WEIGHTS)
    parted = {name: tensors.pop(name) for name in list(tensors) if ".experts." in name}
    assert any(".experts.0." in name for name in parted)
    for block in {name.partition(".experts.")[0] for name in parted}:

        def stack(kind: str, block: str = block) -> torch.Tensor:
            found = [parted[n] for n in sorted(parted) if n.startswith(block) and kind in n]
            return torch.stack(found)

        both = torch.cat([stack("gate_proj"), stack("up_proj")], dim=1)
        tensors[f"{block}.experts.gate_up_proj"] = both.contiguous()
        tensors[f"{block}.experts.down_proj"] = stack("down_proj").contiguous()
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    load_model(source)  # this version has them merged
    info = {"missing_keys": list(parted), "unexpected_keys": []}
    with pytest.raises(CheckpointError, match="merged need transformers 5"):
        _check_loaded(info, source)
