"""Contract: of a model that reads images, the decoder is edited, and all the rest stays as it was.

Tiny models of each such type, saved by the library under the names and keys of the Hub
repositories. Blocks with linear attention are refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from decoders import GROUPS, HEADS, SIZE
from fits import export_with_any
from forging import assert_fails, edit_json, seal
from safetensors.torch import load_file, save_file
from test_families import IDS, logits, put_in_place

import surgery
from evals.choose.units import keep_possible, list_units
from surgery.checkpoint.source import open_checkpoint
from surgery.editing.in_memory import Editable
from surgery.editing.loading import load_model
from surgery.editing.preparing import prepare
from surgery.errors import CheckpointError, UnsupportedError
from surgery.exporting import write
from surgery.families.wrapped import WRAPPED, settle_layout, unwrap, wrap
from surgery.fitting.calibration import Calibration
from surgery.hub.finding import find_model
from surgery.record.manifest import TextSource
from surgery.training.distillation import TaughtRows
from surgery.training.erasing import teach_to_forget
from surgery.training.healing import heal_by_source
from surgery.training.training import Schedule
from surgery.training.ways.cut import ByCut

WEIGHTS = "model.safetensors"
_TEXT = {
    "hidden_size": 128, "intermediate_size": 64, "num_attention_heads": HEADS, "head_dim": SIZE,
    "num_key_value_heads": GROUPS, "num_hidden_layers": 3, "vocab_size": 128,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
_LINEAR = {
    **_TEXT, "full_attention_interval": 2, "linear_key_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_value_head_dim": 16, "rope_parameters": {
        "mrope_interleaved": True, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.25,
        "rope_theta": 1e7, "rope_type": "default",
    },
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128,
    "num_position_embeddings": 16,
}  # fmt: skip
_IMAGES = {
    "image_token_id": 120, "video_token_id": 121, "vision_start_token_id": 122,
    "vision_end_token_id": 123, "vision_config": _VISION,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_5": {"text_config": _LINEAR, **_IMAGES},
    "qwen3_5_moe": {"text_config": {**_LINEAR, **_EXPERTS}, **_IMAGES},
    "gemma3": {
        "text_config": {
            **_TEXT, "query_pre_attn_scalar": SIZE, "sliding_window": 8,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        "mm_tokens_per_image": 4, "image_token_index": 120, "boi_token_index": 121,
        "eoi_token_index": 122,
    },
}  # fmt: skip
PREFIX = {"gemma3": "language_model.model."}


class Sources(dict[str, Path]):
    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, kind: str) -> Path:
        config = transformers.CONFIG_MAPPING[kind](**CONFIGS[kind])
        torch.manual_seed(0)
        model = transformers.AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.mul_(5)
        self[kind] = self.root / kind
        model.save_pretrained(self[kind])
        return self[kind]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("wrapped"))


def load_whole(folder: Path) -> Any:
    """With the class that reads images, as it is loaded to use it."""
    return transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()


def decoder_of(model: Any) -> Any:
    return SimpleNamespace(model=model.model.language_model, config=model.config.text_config)


@pytest.mark.parametrize(("kind", "spec"), [("qwen3_5", "1"), ("gemma3", "0,2")])
def test_the_decoder_is_edited_where_it_stands(
    sources: Sources, tmp_path: Path, kind: str, spec: str
) -> None:
    source, out = sources[kind], tmp_path / "out"
    done = surgery.export(source, spec, output=out, layout="stock")
    assert done.plan.family.model_type == WRAPPED[kind].text
    edited, reference = load_whole(out), load_whole(source)
    put_in_place(decoder_of(reference), spec, "identity", shared=True, fits={})
    assert torch.equal(logits(edited), logits(reference))
    torch.testing.assert_close(logits(load_model(out)), logits(edited), rtol=1e-5, atol=1e-5)
    before, after = (load_file(path / WEIGHTS) for path in (source, out))
    start = PREFIX.get(kind, "model.language_model.")
    changed = {n for n in after if n not in before or not torch.equal(before[n], after[n])}
    assert set(before) <= set(after)
    assert all(name.startswith(f"{start}layers.") for name in changed)
    configs = [json.loads((path / "config.json").read_text()) for path in (source, out)]
    assert configs[1].pop("text_config").pop("attention_bias") is True
    configs[0].pop("text_config")
    assert configs[0] == configs[1]
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    assert surgery.inspect(out).family == WRAPPED[kind].text
    edit_json(out / "config.json", lambda config: config["vision_config"].update(hidden_size=64))
    seal(out)
    assert_fails(out, "edit", "what is around the decoder is not the source's", source)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["zero", "mean", "linear"])
@pytest.mark.parametrize(("kind", "spec"), [("qwen3_5_moe", "1"), ("gemma3", "0,2")])
def test_every_variant_is_exported_and_proved(
    sources: Sources, tmp_path: Path, kind: str, spec: str, variant: str
) -> None:
    source, out = sources[kind], tmp_path / "out"
    export_with_any(source, spec, out, variant=variant)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    assert torch.isfinite(logits(load_whole(out))).all()


def test_training_keeps_the_names_of_the_source(sources: Sources, tmp_path: Path) -> None:
    """The class that reads images finds every weight; a result with other names is refused."""
    source = sources["gemma3"]
    windows = np.random.default_rng(0).integers(0, 120, (16, 32)).astype(np.int32)
    read = Calibration(windows, (TextSource(name="text.txt"),), spread=True)
    cut = surgery.export(source, "0", output=tmp_path / "cut")
    untrained = prepare(cut.output, None)
    trained = heal_by_source(untrained, find_model(source), read, Schedule(1))
    healed = write(untrained, tmp_path / "healed", trained=trained).output
    passages = TaughtRows(windows[:4], 16, "passages", "0" * 64)
    prepared = prepare(source, "0")
    trained = teach_to_forget(prepared, ByCut(prepared), passages, read, Schedule(1))
    erased = write(prepared.without_cut, tmp_path / "erased", trained=trained).output
    for out, like in ((healed, cut.output), (erased, source)):
        assert load_file(out / WEIGHTS).keys() == load_file(like / WEIGHTS).keys()
        assert surgery.verify(out, source=source).ok
        torch.testing.assert_close(
            logits(load_whole(out)), logits(load_model(out)), rtol=1e-5, atol=1e-5
        )
    shutil.copytree(erased, other := tmp_path / "other")
    tensors = {
        name.replace("language_model.model.", "model.language_model."): tensor
        for name, tensor in load_file(other / WEIGHTS).items()
    }
    save_file(tensors, other / WEIGHTS, metadata={"format": "pt"})
    seal(other)
    assert_fails(other, "untouched", "is not the source's", source)


def test_only_a_decoder_alone_can_be_compact(sources: Sources, tmp_path: Path) -> None:
    """`auto` means stock, and says so where stock cannot hold the edit; a search offers no more."""
    source = sources["gemma3"]
    with pytest.raises(UnsupportedError, match="only a decoder alone can have the compact layout"):
        surgery.export(source, "0", output=tmp_path / "out", layout="compact")
    assert surgery.export(source, "0", output=tmp_path / "auto").plan.layout.NAME == "stock"
    edit_json(
        shutil.copytree(source, tmp_path / "far") / "config.json",
        lambda config: config["text_config"].update(max_position_embeddings=10**7),
    )
    with pytest.raises(UnsupportedError, match="too many positions to prove"):
        surgery.export(tmp_path / "far", "0-2", output=tmp_path / "no")
    assert settle_layout("auto", {"model_type": "llama"}) == "auto"


def test_what_reads_images_is_carried(sources: Sources, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["gemma3"], source)
    settings = source / "preprocessor_config.json"
    settings.write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
    (source / "processor_config.json").write_text('{"processor_class": "Gemma3Processor"}')
    out = surgery.export(source, "0", output=tmp_path / "out").output
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert surgery.verify(out, source=source).ok
    edit_json(settings, lambda given: given.update(parts={"auto_map": {"AutoProcessor": "a.B"}}))
    with pytest.raises(UnsupportedError, match="the processor brings its own code"):
        surgery.export(source, "0", output=tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"auto_map": {"AutoModel": "a--b.C"}, "text": {"auto_map": None}}, "own modeling code"),
        ({"vision": {"auto_map": {"AutoModel": "a--b.C"}}}, "own modeling code"),
        ({"vision": {"attn_implementation": "some/kernel"}}, "chooses attention code"),
        (
            {"quantization_config": {"quant_method": "fp8"}, "text": {"quantization_config": None}},
            "'quantization_config' differs from that in 'text_config'",
        ),
    ],
)
def test_no_part_of_a_config_hides_what_another_asks_for(
    sources: Sources, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["gemma3"], source)

    def alter(config: dict[str, Any]) -> None:
        for part in ("text", "vision"):
            config[f"{part}_config"].update(change.get(part, {}))
        config.update(
            {key: given for key, given in change.items() if key.endswith(("p", "config"))}
        )

    edit_json(source / "config.json", alter)
    with pytest.raises((UnsupportedError, CheckpointError), match=what):
        surgery.export(source, "0", output=tmp_path / "out")
    with pytest.raises((UnsupportedError, CheckpointError), match=what):
        surgery.inspect(source)


def test_linear_attention_is_refused_with_what_attends(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"block 0 has linear attention.*blocks that att"):
        surgery.export(sources["qwen3_5"], "0-1", output=tmp_path / "out", variant="zero")
    assert not (tmp_path / "out").exists()


def test_a_search_leaves_out_linear_attention_in_one_line(sources: Sources) -> None:
    model = load_model(sources["qwen3_5"])
    units = list_units(3, HEADS, "mixed", ("identity", "zero"), GROUPS)
    kept, warnings = keep_possible(units, HEADS, Editable(model).find_refusal)
    assert {unit.block for unit in kept} == {1}
    assert len([line for line in warnings if "linear attention" in line]) == 1
    assert warnings[0].startswith("blocks 0,2 are left out: block 0 has linear attention")


def test_two_names_of_one_tensor(sources: Sources, tmp_path: Path) -> None:
    """As older and newer versions of the library write it; neither is taken in silence."""
    folder = Path(shutil.copytree(sources["gemma3"], tmp_path / "gemma3"))
    tensors = load_file(folder / WEIGHTS)
    old, new = "language_model.model.norm.weight", "model.language_model.norm.weight"
    (norm,) = (tensors[name] for name in (old, new) if name in tensors)
    save_file({**tensors, old: norm, new: norm.clone()}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="two tensors are the same one of its decoder"):
        open_checkpoint(folder)


def test_a_config_is_taken_apart_and_put_together() -> None:
    """Sizes that the repositories leave to the library are known, and not written."""
    config = {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "vision_config": {"a": 1}, "text_config": {"model_type": "gemma3_text", "hidden_size": 8},
    }  # fmt: skip
    alone = unwrap(config)
    assert (alone["model_type"], alone["num_attention_heads"]) == ("gemma3_text", 8)
    assert unwrap(alone) == alone
    assert wrap(alone, config) == config
    text = {"model_type": "gemma3_text", "hidden_size": 8, "attention_bias": True}
    assert wrap({**alone, "attention_bias": True}, config) == {**config, "text_config": text}
    twice = {**config, "tie_word_embeddings": True}
    twice["text_config"] = {**text, "tie_word_embeddings": False}
    with pytest.raises(CheckpointError, match="'tie_word_embeddings' differs from that in"):
        unwrap(twice)


def test_a_loaded_whole_is_refused(sources: Sources) -> None:
    with pytest.raises(UnsupportedError, match="reads images, and only its decoder, gemma3_text"):
        surgery.apply(load_whole(sources["gemma3"]), "1")
    assert logits(load_model(sources["gemma3"])).shape == (*IDS.shape, 128)
