"""Contract: `apply` gives a new model that equals the export and leaves the given one unchanged;
`short_circuit` edits for a while and restores the model exactly, whatever happens inside.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from checkpoints import neo_config, neox_config, write_checkpoint
from decoders import write_decoder
from tiny_tokenizer import tiny_model
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

import surgery
from surgery.errors import UnsupportedError
from surgery.in_memory import Editable, apply
from surgery.loading import load_model

IDS = torch.randint(128, (2, 60), generator=torch.Generator().manual_seed(3))
CASES = [
    (neox_config, "identity", "stock"),
    (neox_config, "zero", "stock"),
    (neox_config, "identity", "compact"),
    (neox_config, "zero", "compact"),
    (neo_config, "zero", "stock"),
    (neo_config, "identity", "compact"),
    (neo_config, "zero", "compact"),
]

each_case = pytest.mark.parametrize(
    ("source", "variant", "layout"),
    CASES,
    indirect=["source"],
    ids=lambda value: getattr(value, "__name__", value),
)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(IDS, use_cache=False).logits
    return result


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", request.param(torch_dtype="float32"))


@each_case
def test_apply_equals_export(source: Path, variant: str, layout: str, tmp_path: Path) -> None:
    model = load_model(source)
    before = logits(model)
    edited = surgery.apply(model, "0,2", variant, layout=layout)
    surgery.export(source, "0,2", output=tmp_path / "out", variant=variant, layout=layout)
    exported = load_model(tmp_path / "out")
    assert type(edited) is type(exported)
    assert torch.equal(logits(edited), logits(exported))
    assert torch.equal(logits(model), before), "the given model was changed"
    shared = {tensor.data_ptr() for tensor in model.parameters()}
    untouched = [p for name, p in edited.named_parameters() if ".1." in name or ".3." in name]
    assert untouched
    assert all(p.data_ptr() in shared for p in untouched), "untouched tensors are shared"


@each_case
def test_applied_model_can_be_saved(
    source: Path, variant: str, layout: str, tmp_path: Path
) -> None:
    edited = surgery.apply(load_model(source), "1,3", variant, layout=layout)
    edited.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(edited))


def test_apply_takes_any_dtype_and_mode(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config(torch_dtype="bfloat16"))
    model = load_model(source).train()
    edited = surgery.apply(model, "last:2")
    assert edited.dtype == torch.bfloat16
    assert edited.training
    assert edited.generation_config is not model.generation_config


@pytest.mark.parametrize("source", [neox_config, neo_config], indirect=True)
def test_generation_inside_a_short_circuit(source: Path) -> None:
    """With block 0 edited, where the cache takes its length from."""
    model = load_model(source)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(IDS)
    with surgery.short_circuit(model, "0-3"):
        cached = model.generate(IDS, attention_mask=mask, use_cache=True, **options)
        plain = model.generate(IDS, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("source", [neox_config], indirect=True)
def test_short_circuit_restores_after_an_error_and_nests(source: Path) -> None:
    model = load_model(source)
    before = logits(model)
    with surgery.short_circuit(model, "0"):
        outer = logits(model)
        with surgery.short_circuit(model, "0,1", "zero"):
            assert not torch.equal(logits(model), outer)
        assert torch.equal(logits(model), outer)
    with contextlib.suppress(KeyError), surgery.short_circuit(model, "0"):
        raise KeyError
    assert torch.equal(logits(model), before)


@each_case
def test_block_by_block_an_edit_is_the_same_and_restores(
    source: Path, variant: str, layout: str
) -> None:
    model = load_model(source)
    before, parameters = logits(model), dict(model.named_parameters())
    editable = Editable(model)
    edit = editable.make_replacements(editable.plan("0,2-3", variant, layout=layout))
    with edit.activate():
        edited = logits(model)
    with edit.activate_in_turn():
        assert torch.equal(logits(model), edited)
        assert all(new is parameters[name] for name, new in model.named_parameters())
        stop = edit.plan.family.attention.format(block=2)
        hook = model.get_submodule(stop).register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            logits(model)
        hook.remove()
    assert all(new is parameters[name] for name, new in model.named_parameters())
    assert torch.equal(logits(model), before)


def test_a_head_of_its_own_stays_whatever_the_configuration_says(tmp_path: Path) -> None:
    """Newer versions of the library keep a stored head that differs from the embedding."""
    source = write_decoder(tmp_path / "source", "llama", tie_word_embeddings=False)
    model = load_model(source)
    model.config.tie_word_embeddings = True
    head = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        edited = apply(model, "1", "zero")
    assert torch.equal(edited.lm_head.weight, head)
    assert not torch.equal(edited.lm_head.weight, edited.model.embed_tokens.weight)


def test_unsupported_architecture() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    with pytest.raises(UnsupportedError, match="unsupported model_type gpt2; supported: "):
        surgery.apply(model, "0")


@pytest.mark.parametrize(
    ("source", "variant", "layout"),
    [
        (neox_config, "identity", "stock"),
        (neox_config, "identity", "compact"),
        (neo_config, "zero", "stock"),
        (neo_config, "zero", "compact"),
    ],
    indirect=["source"],
)
def test_offloaded_weights_are_edited_as_others(
    source: Path, variant: str, layout: str, tmp_path: Path
) -> None:
    """Every weight waits on the disk; the edit is in force when it comes, and gone afterwards."""
    whole = load_model(source)
    model = disk_offload(load_model(source), tmp_path / "disk", torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    before = logits(model)
    assert torch.equal(before, logits(whole))
    with (
        surgery.short_circuit(model, "0,2", variant, layout=layout),
        surgery.short_circuit(whole, "0,2", variant, layout=layout),
    ):
        edited = logits(model)
        assert not torch.equal(edited, before)
        assert torch.equal(edited, logits(whole))
    assert torch.equal(logits(model), before)
    editable = Editable(model)
    edit = editable.make_replacements(editable.plan("0,2", variant, layout=layout))
    with edit.activate_in_turn():
        assert torch.equal(logits(model), edited)
    assert torch.equal(logits(model), before)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("source", [neox_config], indirect=True)
def test_offloaded_weights_cannot_be_shared(source: Path, tmp_path: Path) -> None:
    model = disk_offload(load_model(source), tmp_path / "disk", torch.device("cpu"))
    with pytest.raises(UnsupportedError, match=r"weights are offloaded.*use short_circuit"):
        surgery.apply(model, "0")


@pytest.mark.parametrize("source", [neox_config], indirect=True)
def test_a_model_spread_over_devices_cannot_be_shared(source: Path) -> None:
    """What moves tensors between its parts stays with it, and a new one would lack that."""
    model = load_model(source)
    model.hf_device_map = {"gpt_neox.layers.0": 0, "gpt_neox.layers.1": 1}
    with pytest.raises(UnsupportedError, match=r"spread over several devices.*short_circuit"):
        surgery.apply(model, "1")


def test_tensors_that_are_no_buffers_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older versions of the library keep frequencies."""
    made = GPTNeoXRotaryEmbedding.__init__

    def keep(self: Any, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self.kept = torch.ones(3)

    monkeypatch.setattr(GPTNeoXRotaryEmbedding, "__init__", keep)
    new = surgery.apply(tiny_model(), "1", variant="zero")
    found = [module.kept for module in new.modules() if isinstance(module, GPTNeoXRotaryEmbedding)]
    assert found
    assert all(torch.equal(one, torch.ones(3)) for one in found)


@pytest.mark.parametrize("source", [neox_config], indirect=True)
def test_an_edited_checkpoint_is_known_as_such(source: Path, tmp_path: Path) -> None:
    """Loaded, it refuses what export refuses, and takes what export takes."""
    surgery.export(source, "0,2.1", output=tmp_path / "once")
    model = load_model(tmp_path / "once")
    for spec, what in (("0", "block 0 is already"), ("2", "head 1 of block 2 is already edited")):
        for edit in (surgery.apply, surgery.short_circuit):
            with (
                pytest.raises(UnsupportedError, match=what),
                edit(model, spec) or contextlib.nullcontext(),
            ):
                pass
    surgery.export(tmp_path / "once", "2.0,3", output=tmp_path / "twice")
    assert torch.equal(
        logits(surgery.apply(model, "2.0,3")), logits(load_model(tmp_path / "twice"))
    )
