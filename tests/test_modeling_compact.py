"""Contract: a compact model computes what the stock model computes once attention is replaced.

Per family, residual and set of edited blocks (block 0 and all blocks among them): the logits agree
within rounding, every way to generate gives the reference's tokens and logits, and parameters and
cache bytes shrink by exactly what was removed.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_compact import (
    BLOCKS,
    CACHE,
    CONFIGS,
    EDITS,
    PAD,
    VOCABULARY,
    WIDTH,
    reference,
    stock,
    write_compact,
)
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

CASES = [(name, edit) for name in CONFIGS for edit in EDITS]
every_case = pytest.mark.parametrize(("name", "edit"), CASES)
FEW = (("neox-parallel", "mixed"), ("neo", "all"))  # of both families; every other one is slow
few_cases = pytest.mark.parametrize(
    ("name", "edit"),
    [pytest.param(*case, marks=() if case in FEW else pytest.mark.slow) for case in CASES],
)
few_cached_cases = pytest.mark.parametrize(
    ("name", "edit"),
    [
        pytest.param(*case, marks=() if case in FEW else pytest.mark.slow)
        for case in CASES
        if case[0] != "neox-sequential"
    ],
)
cached_cases = pytest.mark.parametrize(
    ("name", "edit"), [(n, e) for n, e in CASES if n != "neox-sequential"]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(name, edit) -> the reference and the compact model, made once."""
    root: Path = tmp_path_factory.mktemp("compact")

    @lru_cache
    def make(name: str, edit: str) -> tuple[Any, Any]:
        folder = write_compact(name, EDITS[edit], root / name / edit)
        return reference(name, EDITS[edit]), AutoModelForCausalLM.from_pretrained(folder).eval()

    return make


def tokens(rows: int = 2, length: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(2, VOCABULARY, (rows, length), generator=generator)


def cache_bytes(cache: Any) -> int:
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )


# --- one forward pass -----------------------------------------------------------------------


@every_case
@torch.no_grad()
def test_logits_agree_with_the_reference(models: Any, name: str, edit: str) -> None:
    expected, compact = models(name, edit)
    ids = tokens(length=30)
    torch.testing.assert_close(compact(ids).logits, expected(ids).logits, rtol=1e-4, atol=2e-5)
    assert (stock(name)(ids).logits - expected(ids).logits).abs().max() > 0.1  # the edit matters


@few_cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_logits_agree_in_half_precision(
    name: str, edit: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = write_compact(name, EDITS[edit], tmp_path)
    compact = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    assert compact.dtype == dtype
    ids = tokens(length=30)
    expected = reference(name, EDITS[edit], dtype)(ids).logits.float()
    exact = reference(name, EDITS[edit])(ids).logits
    rounding = (expected - exact).abs().mean()
    assert (compact(ids).logits.float() - exact).abs().mean() < 2 * rounding


@every_case
@torch.no_grad()
def test_attentions_and_hidden_states_can_be_asked_for(models: Any, name: str, edit: str) -> None:
    _, compact = models(name, edit)
    eager = copy.deepcopy(compact)
    eager.set_attn_implementation("eager")
    out = eager(tokens(), output_attentions=True, output_hidden_states=True)
    assert len(out.hidden_states) == BLOCKS + 1
    attending = [weights for weights in out.attentions if weights is not None]
    assert len(attending) == BLOCKS - len(EDITS[edit])


def test_attention_implementations_are_those_of_the_family(models: Any) -> None:
    """GPT-NeoX can switch; GPT-Neo, whose classes are chosen when it is built, cannot."""
    for name, after in (("neox-parallel", "eager"), ("neo", "eager")):
        model = copy.deepcopy(models(name, "deep")[1])
        assert model.config._attn_implementation == ("eager" if name == "neo" else "sdpa")
        model.set_attn_implementation("flash_attention_2" if name == "neo" else "eager")
        assert model.config._attn_implementation == after


# --- sizes ----------------------------------------------------------------------------------


@every_case
def test_parameters_shrink_by_what_was_removed(models: Any, name: str, edit: str) -> None:
    _, compact = models(name, edit)
    removed = 4 * WIDTH**2 + (WIDTH if name == "neo" else 4 * WIDTH)
    added = {"affine": WIDTH**2 + WIDTH, "constant": WIDTH, "none": 0}
    saved = sum(removed - added[kind] for kind in EDITS[edit].values())
    assert stock(name).num_parameters() - compact.num_parameters() == saved


@every_case
@torch.no_grad()
def test_cache_shrinks_by_the_edited_blocks(models: Any, name: str, edit: str) -> None:
    expected, compact = models(name, edit)
    ids = tokens(rows=3, length=10)
    full = cache_bytes(getattr(expected(ids, use_cache=True), CACHE))
    cache = getattr(compact(ids, use_cache=True), CACHE)
    if edit == "all":  # no keys and values at all, only a token counter: twice one number a token
        assert cache_bytes(cache) == 2 * 3 * 10 * 4
    else:
        assert cache_bytes(cache) == full * (BLOCKS - len(EDITS[edit])) // BLOCKS
    assert cache.get_seq_length() == 10


# --- caches ---------------------------------------------------------------------------------


@cached_cases
@torch.no_grad()
def test_every_cache_operation(models: Any, name: str, edit: str) -> None:
    """Repeat rows, drop one, reorder, crop: then continuing equals a pass over the same rows."""
    _, compact = models(name, edit)
    ids = tokens(length=14)
    cache = DynamicCache(config=compact.config)
    compact(ids[:, :10], use_cache=True, **{CACHE: cache})
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2, 3]))
    cache.reorder_cache(torch.tensor([1, 0, 2]))
    cache.crop(-3)
    assert cache.get_seq_length() == 7
    rows = ids[[1, 0, 1]]
    got = compact(rows[:, 7:], use_cache=True, **{CACHE: cache}).logits
    torch.testing.assert_close(got, compact(rows).logits[:, 7:], rtol=1e-4, atol=2e-5)
    cache.reset()


@cached_cases
@torch.no_grad()
def test_a_cache_can_be_taken_apart_and_rebuilt(models: Any, name: str, edit: str) -> None:
    _, compact = models(name, edit)
    ids = tokens(length=14)
    cache = getattr(compact(ids[:, :10], use_cache=True), CACHE)
    rebuilt = DynamicCache([tuple(layer) for layer in cache])
    got = compact(ids[:, 10:], use_cache=True, **{CACHE: rebuilt}).logits
    torch.testing.assert_close(got, compact(ids).logits[:, 10:], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("name", "edit"), [(n, e) for n, e in CASES if n != "neo"])
@torch.no_grad()
def test_a_static_cache_holds_the_attending_blocks(models: Any, name: str, edit: str) -> None:
    expected, compact = models(name, edit)
    ids = tokens(length=14)
    cache = StaticCache(config=compact.config, max_cache_len=16)
    first = compact(ids[:, :9], use_cache=True, **{CACHE: cache}).logits
    second = compact(ids[:, 9:], use_cache=True, **{CACHE: cache}).logits
    logits = torch.cat([first, second], dim=1)
    torch.testing.assert_close(logits, expected(ids).logits, rtol=1e-4, atol=2e-5)
    width = 1 if edit == "all" else WIDTH
    layers = max(1, BLOCKS - len(EDITS[edit]))
    assert cache_bytes(cache) == 2 * layers * 2 * 16 * width * 4


# --- generation -----------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.5},
    "beam search": {"num_beams": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
    "chunked prefill": {"prefill_chunk_size": 5},
    "static cache": {"cache_implementation": "static"},
    "assisted": {"assistant": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 3, "eos_token_id": 0},
}


def generate(model: Any, name: str, ids: torch.Tensor, way: dict[str, Any], **more: Any) -> Any:
    arguments = {"do_sample": False, "max_new_tokens": 12, **way, **more}
    if arguments.pop("assistant", False):
        arguments["assistant_model"] = stock(name)
    torch.manual_seed(3)
    return model.generate(
        ids,
        attention_mask=(ids != PAD).long(),
        return_dict_in_generate=True,
        output_logits=True,
        **arguments,
    )


@few_cached_cases
@pytest.mark.parametrize("way", WAYS)
def test_generation_equals_the_reference(models: Any, name: str, edit: str, way: str) -> None:
    expected, compact = models(name, edit)
    ids = tokens(rows=2)
    if way in ("assisted", "prompt lookup"):  # one row at a time; a pattern to look up
        ids = torch.cat([ids[:1], ids[:1, 4:9]], dim=1)
    else:
        ids[0, :4] = PAD  # left padding
    want = generate(expected, name, ids, WAYS[way])
    got = generate(compact, name, ids, WAYS[way])
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(
        torch.stack(got.logits), torch.stack(want.logits), rtol=1e-3, atol=1e-4
    )


@few_cached_cases
def test_generation_continues_from_a_cache(models: Any, name: str, edit: str) -> None:
    expected, compact = models(name, edit)
    ids = tokens(rows=2)
    want = generate(expected, name, ids, {}, max_new_tokens=12).sequences
    first = generate(compact, name, ids, {}, max_new_tokens=5)
    cache = copy.deepcopy(getattr(first, CACHE))
    second = generate(compact, name, first.sequences, {}, max_new_tokens=7, **{CACHE: cache})
    assert torch.equal(second.sequences, want)


@few_cached_cases
def test_a_compact_model_can_assist(models: Any, name: str, edit: str) -> None:
    """As the assistant it has its cache rolled back; greedy output stays the main model's own."""
    expected, compact = models(name, edit)
    ids = tokens(rows=1)
    want = generate(expected, name, ids, {}).sequences
    assert torch.equal(generate(expected, name, ids, {}, assistant_model=compact).sequences, want)


# --- training and compilation ---------------------------------------------------------------


def checkpoint_activations(model: Any) -> None:
    # Newer versions of the library renamed the method and warn about the old name.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


@few_cached_cases
def test_gradient_checkpointing_gives_the_same_gradients(models: Any, name: str, edit: str) -> None:
    _, compact = models(name, edit)
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(compact).train()
        if checkpointing:
            checkpoint_activations(model)
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    plain, checkpointed = gradients
    # Only "affine" reads its block's layer norm; in the others the norm has no gradient.
    unread = [key for key, gradient in plain.items() if gradient is None]
    assert len(unread) == 2 * sum(kind != "affine" for kind in EDITS[edit].values())
    assert unread == [key for key, gradient in checkpointed.items() if gradient is None]
    for key in plain.keys() - set(unread):
        assert plain[key].abs().sum() > 0, key
        torch.testing.assert_close(plain[key], checkpointed[key])


@torch.no_grad()
def test_a_static_cache_is_filled_in_chunks(models: Any) -> None:
    """Where no block attends, too: what counts the tokens takes the room that there is."""
    for edit in ("all", "deep"):
        expected, compact = models("neox-parallel", edit)
        given = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": PAD}
        chunked = compact.generate(
            tokens(), cache_implementation="static", prefill_chunk_size=5, **given
        )
        assert torch.equal(chunked, expected.generate(tokens(), **given))


def test_gpt_neo_drops_out_what_attention_would_have(tmp_path: Path) -> None:
    """GPT-Neo's attention applies `resid_dropout` itself, so what replaces it does so too."""
    folder = write_compact("neo", EDITS["first"], tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, resid_dropout=0.5)
    module = model.transformer.h[0].attn.attention
    x = torch.randn(2, 100, WIDTH)
    dropped = (module.train()(x)[0] == 0).float().mean()
    assert dropped == pytest.approx(0.5, abs=0.05)
    assert torch.equal(module.eval()(x)[0], module.affine(x))


# torch's own tracing of the library's masks touches something that torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        pytest.param(*case, marks=() if case == FEW[0] else pytest.mark.slow)
        for case in product(("neox-parallel", "neo"), ("mixed", "all"))
    ],
)
@torch.no_grad()
def test_the_whole_model_compiles_into_one_graph(models: Any, name: str, edit: str) -> None:
    _, compact = models(name, edit)
    compiled = torch.compile(copy.deepcopy(compact), backend="aot_eager", fullgraph=True)
    got = compiled(tokens(), use_cache=False).logits
    torch.testing.assert_close(got, compact(tokens()).logits, rtol=1e-4, atol=2e-5)
