"""Contract, for every family that follows Llama: an edit is what its formula says, or is refused.

The reference is the source, loaded by the library, with context vectors put in the place of those
that attention makes, just before the output projection. A stock edit that stores no product equals
it bit for bit; where W_O c is stored, products are rounded once more.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
import torch
import transformers
from checkpoints import DTYPES
from decoders import BLOCKS, GROUPS, HEADS, SIZE, few_first, split_values, write_decoder
from fits import export_with_any, load_aligned, random_fits, record_of
from forging import assert_fails, assert_refused, edit_json, edit_weights, seal
from safetensors.torch import load_file
from torch.nn import functional

import surgery
from surgery.errors import MarginError, UnsupportedError
from surgery.exporting import write
from surgery.families import FAMILIES, Family, family_of
from surgery.in_memory import Editable
from surgery.loading import load_model
from surgery.preparing import Fitting, prepare
from surgery.selection import EditedHeads, parse_selection

EVERY = (*decoders.CONFIGS, *decoders.MORE)
HELD = [kind for kind in EVERY if kind not in decoders.MIXED]  # of which stock holds `identity`
BIASED = {"qwen2", "qwen2_moe", "phi", "starcoder2", "gpt_oss"}  # from the start
VARIANTS = ("identity", "zero", "mean", "linear")
IDS = torch.randint(128, (2, 40), generator=torch.Generator().manual_seed(5))


class Sources(dict[str, Path]):
    """A tiny model of each family, saved once it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, kind: str) -> Path:
        self[kind] = write_decoder(self.root / kind, kind)
        return self[kind]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Sources(tmp_path_factory.mktemp("families"))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    result: torch.Tensor = model(ids, use_cache=False).logits
    return result


def put_in_place(
    model: Any, spec: str, variant: str, fits: Any = None, *, groups: int = GROUPS
) -> None:
    """Replaces context vectors in the library's own model, by hooks."""
    each = HEADS // groups
    for part in parse_selection(spec, variant, BLOCKS, HEADS):
        module = model.model.layers[part.block].self_attn
        out = module.o_proj if hasattr(module, "o_proj") else module.dense
        seen: list[torch.Tensor] = []
        if variant != "zero":
            keep = lambda m, a, o, seen=seen: seen.extend((a[0], o))  # noqa: E731
            module.v_proj.register_forward_hook(keep)

        def replaced(
            module: Any, args: Any, part: EditedHeads = part, seen: Any = seen
        ) -> tuple[torch.Tensor]:
            z = args[0].view(*args[0].shape[:2], HEADS, -1).clone()
            if variant == "zero":
                z[:, :, list(part.heads)] = 0
                return (z.view_as(args[0]),)
            values, x = seen.pop(), seen.pop()
            if variant == "linear":  # all rows at once, as the library multiplies them
                values = functional.linear(x, *join_maps(fits[part.block], each))
            of_groups = split_values(values, z.shape[1])
            for head in part.heads:
                mean = variant == "mean"
                z[:, :, head] = (
                    torch.from_numpy(fits[part.block].mean[head])
                    if mean
                    else of_groups[:, :, head // each]
                )
            return (z.view_as(args[0]),)

        out.register_forward_pre_hook(replaced)
        if variant == "zero" and len(part.heads) == HEADS and out.bias is not None:
            out.bias.data.zero_()


def join_maps(fit: Any, each: int) -> list[torch.Tensor]:
    """The one map of each group of heads, the mean of those of its heads, in float32."""
    maps = []
    for array in (fit.weight, fit.bias):
        grouped = torch.from_numpy(array).double().unflatten(0, (-1, each)).mean(1)
        maps.append(grouped.flatten(0, 1).float())
    return maps


def expected(kind: str, spec: str, variant: str) -> str | None:
    """Why an edit is refused, in part; None for one that is held."""
    if variant == "zero":
        return None
    if spec == "1.2":
        return "share their keys and values, and some still attend"
    if kind == "gemma2":
        return None if variant == "mean" else "caps the scores of its attention"
    if kind in decoders.MIXED:
        return "no output bias" if variant == "mean" else "no query and key biases"
    return None


@pytest.mark.parametrize("spec", ["1", "1.2"])
@pytest.mark.parametrize("kind", few_first(EVERY))
def test_every_edit_is_exact_or_refused(sources: dict[str, Path], kind: str, spec: str) -> None:
    model = load_model(sources[kind])
    before = logits(model)
    fits = random_fits(range(BLOCKS), HEADS, model.config.hidden_size, SIZE)
    for variant in VARIANTS:
        refused = expected(kind, spec, variant)
        if refused is not None:
            with pytest.raises(UnsupportedError, match=refused):
                Editable(model).plan(spec, variant)
            continue
        with surgery.short_circuit(model, spec, variant, fits=fits):
            found = logits(model)
        reference = load_model(sources[kind])
        put_in_place(reference, spec, variant, fits)
        if variant == "mean":
            torch.testing.assert_close(found, logits(reference), rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(found, logits(reference)), variant
        assert not torch.equal(found, before), variant
        assert torch.equal(logits(model), before), "the model was not restored"


# One way for every family, and every way for one; all of them only where there is time.
NUMBERS = [
    pytest.param(
        *(kind, dtype, attn),
        marks=()
        if kind == "llama" or (kind in decoders.FEW and dtype == "float32" and attn == "sdpa")
        else pytest.mark.slow,
    )
    for kind in HELD
    for dtype, attn in itertools.product(DTYPES, ("sdpa", "eager"))
    if kind != "gpt_oss" or attn == "eager"  # the library has no other way for its sinks
]


@pytest.mark.parametrize(("kind", "dtype", "attn"), NUMBERS)
def test_a_stock_export_equals_the_reference(
    tmp_path: Path, kind: str, dtype: str, attn: str
) -> None:
    """Bit for bit: in every dtype, uncached, padded, and continued from a cache."""
    source, out = write_decoder(tmp_path / "source", kind, torch_dtype=dtype), tmp_path / "out"
    surgery.export(source, "0,2", output=out)
    edited, reference = (load_aligned(path, attn_implementation=attn) for path in (out, source))
    assert type(edited).__module__.startswith("transformers.")
    put_in_place(reference, "0,2", "identity")
    generator = torch.Generator().manual_seed(2)
    for length in (1, 9, 300):
        ids = torch.randint(128, (1, length), generator=generator)
        assert torch.equal(logits(edited, ids), logits(reference, ids)), length
    mask = torch.ones_like(IDS)
    mask[0, :13] = 0
    ways = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 1}
    made = [m.generate(IDS, attention_mask=mask, **ways) for m in (edited, reference)]
    assert torch.equal(*made)
    assert torch.equal(logits(edited, made[0]), logits(reference, made[0]))


@pytest.mark.parametrize("kind", few_first(HELD))
def test_what_is_written_and_proved(sources: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Keys of edited blocks are constants, added biases -0.0; config.json gets a switch at most."""
    source, out, family = sources[kind], tmp_path / "out", FAMILIES[kind]
    done = surgery.export(source, "1", output=out)
    before, after = (load_file(path / "model.safetensors") for path in (source, out))
    rewritten = {n for n in after if n in before and not torch.equal(after[n], before[n])}
    assert rewritten == set(done.plan.rewritten)
    assert all(name.startswith("model.layers.1.self_attn.") for name in rewritten)
    for name in ("q_proj", "k_proj"):
        parts = [after[f"model.layers.1.self_attn.{name}.{what}"] for what in ("weight", "bias")]
        assert not parts[0].any()
        assert len(parts[1].unique()) == 2
    added = set(after) - set(before)
    assert added == set(done.plan.added)
    for name in added:
        if name.split(".")[2] != "1" or "v_proj" in name or "o_proj" in name:
            assert (after[name] == 0).all()
            assert after[name].signbit().all()
    configs = [json.loads((path / "config.json").read_text()) for path in (source, out)]
    changed = {key for key in configs[1] if configs[1][key] != configs[0].get(key)}
    assert changed <= {*family.switches, "no_rope_layers"}
    assert bool(added) == bool(changed & set(family.switches)) == (kind not in BIASED)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    assert surgery.inspect(out).attention_free == {1: "identity"}
    applied = surgery.apply(load_model(source), "1")
    assert torch.equal(logits(applied), logits(load_model(out)))
    again = surgery.export(out, "0.1,2", variant="zero", output=tmp_path / "again")
    verification = surgery.verify(again.output, source=out)
    assert verification.ok, verification.verdict


@pytest.mark.parametrize("variant", ["mean", "linear"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fitted_blocks_are_exported_and_proved(
    sources: dict[str, Path], tmp_path: Path, kind: str, variant: str
) -> None:
    out = tmp_path / "out"
    export_with_any(sources[kind], "0,2", out, variant=variant)
    for given in (None, sources[kind]):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    reference = load_model(sources[kind])
    fits = random_fits(range(BLOCKS), HEADS, reference.config.hidden_size, SIZE)
    put_in_place(reference, "0,2", variant, fits)
    torch.testing.assert_close(logits(load_model(out)), logits(reference), rtol=1e-4, atol=1e-4)


def test_heads_that_share_values_get_one_variant(sources: dict[str, Path]) -> None:
    parts = (EditedHeads(1, (0, 1), "identity"), EditedHeads(1, (2, 3), "zero"))
    with pytest.raises(UnsupportedError, match="cannot be identity and zero"):
        prepare(sources["llama"], parts)


def test_forged_biases_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    """Those of an edited block alone; those that other blocks got with it, by the source."""
    out = surgery.export(sources["llama"], "1", output=tmp_path / "out").output
    (out / "README.md").unlink()
    other = Path(shutil.copytree(out, tmp_path / "other"))
    edit_weights(out, lambda t: t["model.layers.1.self_attn.k_proj.weight"].add_(1e-3))
    assert_refused(out, "tensors", "k_proj", sources["llama"])
    edit_weights(other, lambda t: t["model.layers.0.self_attn.q_proj.bias"].zero_())  # was -0.0
    assert surgery.verify(other).ok
    assert_fails(other, "rewritten", "layers.0", sources["llama"])


def test_no_other_key_may_change(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    surgery.export(sources["llama"], "1", output=out)
    edit_json(out / "config.json", lambda config: config.update(rms_norm_eps=0.5))
    seal(out)
    (out / "README.md").unlink()
    assert_fails(out, "edit", "config.json is not what the edit makes", sources["llama"])


@pytest.mark.parametrize(
    ("kind", "more", "variant", "text"),
    [
        ("olmo", {"clip_qkv": 8.0}, "identity", "got a gap of"),
        ("olmo", {"clip_qkv": 200.0}, "linear", "would clip what was fitted"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "identity",
         "rotary scaling 'dynamic' is not proved"),
        ("phi", {"qk_layernorm": True}, "identity", "'qk_layernorm' cannot be edited"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_with_the_figure(
    tmp_path: Path, kind: str, more: dict[str, Any], variant: str, text: str
) -> None:
    source = write_decoder(tmp_path / "source", kind, **more)
    error = MarginError if "gap" in text or "scaling" in text else UnsupportedError
    with pytest.raises(error, match=text):
        export_with_any(source, "1", tmp_path / "out", variant=variant)


@pytest.mark.parametrize("groups", [GROUPS, HEADS])
@pytest.mark.parametrize("clip", [8.0, 120.0])
def test_a_clip_cuts_no_constant(tmp_path: Path, clip: float, groups: int) -> None:
    """The mean of clipped values is within the clip. Here each is at an end of it.

    A value bias holds it, or a column of the output projection; or the output bias, where the clip
    leaves no margin.
    """
    source = write_decoder(tmp_path / "source", "olmo", clip_qkv=clip, num_key_value_heads=groups)
    fits = random_fits(range(BLOCKS), HEADS, HEADS * SIZE, SIZE)
    fits = {b: replace(fit, mean=np.sign(fit.mean) * np.float32(clip)) for b, fit in fits.items()}
    prepared = prepare(source, "1", variant="mean")
    fitting = Fitting(fits, record_of(prepared.plan.fitted))
    out = write(prepared, tmp_path / "out", fitting=fitting).output
    assert (prepared.plan.one_hot is not None) == (clip > 100)
    reference = load_model(source)
    put_in_place(reference, "1", "mean", fits, groups=groups)
    torch.testing.assert_close(logits(load_model(out)), logits(reference), rtol=1e-4, atol=1e-4)


def test_clipped_values_stay_clipped(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "olmo", clip_qkv=120.0)
    model, reference = load_model(source), load_model(source)
    for name, parameter in model.named_parameters():
        if name.endswith("v_proj.weight"):
            parameter.data.mul_(400)
    reference.load_state_dict(model.state_dict())
    with surgery.short_circuit(model, "1"):
        found = logits(model)
    put_in_place(reference, "1", "identity")
    assert torch.equal(found, logits(reference))


@pytest.mark.parametrize("variant", VARIANTS)
def test_mistral_is_saved_as_llama(sources: dict[str, Path], tmp_path: Path, variant: str) -> None:
    """By itself, without a window: then every variant is held."""
    source, out = sources["mistral"], tmp_path / "out"
    prepared = prepare(source, "1", variant=variant)
    saved_as = family_of(prepared.plan.config).model_type
    assert saved_as == ("mistral" if variant == "zero" else "llama")
    fits = random_fits(range(BLOCKS), HEADS, HEADS * SIZE, SIZE)
    write(prepared, out, fitting=Fitting(fits, record_of(prepared.plan.fitted)))
    edited, reference = load_aligned(out), load_aligned(source)
    put_in_place(reference, "1", variant, fits)
    if variant != "mean":
        assert torch.equal(logits(edited), logits(reference))
    torch.testing.assert_close(logits(edited), logits(reference), rtol=1e-4, atol=1e-4)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict


def test_an_edited_mistral_is_saved_as_llama(sources: dict[str, Path], tmp_path: Path) -> None:
    """Each edit of a chain is proved, repeated, and told, whichever of them changed the type."""
    first = surgery.export(sources["mistral"], "0", variant="zero", output=tmp_path / "1").output
    second = surgery.export(first, "1", output=tmp_path / "2").output
    third = surgery.export(second, "2", output=tmp_path / "3").output
    for out, source in ((second, None), (second, first), (third, second)):
        verification = surgery.verify(out, source=source)
        assert verification.ok, verification.verdict


def test_a_window_that_bites_is_no_llama(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "mistral", sliding_window=100)
    with pytest.raises(UnsupportedError, match="no query and key biases"):
        surgery.export(source, "1", output=tmp_path / "out")


def test_unknown_architectures_are_refused_with_what_is_near() -> None:
    with pytest.raises(UnsupportedError, match=r"model_type olmo4; .*; near is olmo, olmo2, but"):
        family_of({"model_type": "olmo4"})
    with pytest.raises(UnsupportedError, match=r"gpt_oss; no record says where its attention is"):
        family_of({"model_type": "xyz"})


def test_a_new_family_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arcee, which the package does not know: as Llama, with an MLP of its own."""
    arcee = Family("arcee", "ArceeForCausalLM", switches=FAMILIES["llama"].switches)
    monkeypatch.setitem(FAMILIES, "arcee", arcee)
    own = {**decoders.CONFIGS["llama"], "hidden_act": "relu2"}
    monkeypatch.setitem(decoders.CONFIGS, "arcee", own)
    source, out = write_decoder(tmp_path / "source", "arcee"), tmp_path / "out"
    surgery.export(source, "0,2", output=out)
    assert surgery.verify(out, source=source).ok
    edited, reference = load_model(out), load_model(source)
    assert isinstance(edited, transformers.ArceeForCausalLM)
    put_in_place(reference, "0,2", "identity")
    assert torch.equal(logits(edited), logits(reference))


def test_full_heads_take_every_variant_alone(tmp_path: Path) -> None:
    """A Llama whose heads have keys and values of their own."""
    model = load_model(write_decoder(tmp_path, "llama", num_key_value_heads=HEADS))
    fits = random_fits(range(BLOCKS), HEADS, model.config.hidden_size, SIZE)
    for variant in VARIANTS:
        with surgery.short_circuit(model, "1.2,2", variant, fits=fits):
            found = logits(model)
        reference = load_model(tmp_path)
        put_in_place(reference, "1.2,2", variant, fits, groups=HEADS)
        torch.testing.assert_close(found, logits(reference), rtol=1e-4, atol=1e-4)
