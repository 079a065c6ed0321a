"""Contract: a sweep gives, for every edit, the numbers that its exported checkpoint gives.

Equal to the last bit in float32: whole blocks, ranges and heads, every variant, both families and
layouts, whatever is computed together. What edits share is computed once, the logits of the set
never exist together, a killed sweep goes on where it was, and the model is left as it was.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st
from reciting import model_named, passages
from tiny_compact import VOCABULARY, stock
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_neo

from evals.choose.sweep.opened import list_edits
from evals.choose.sweep.request import SweepRequest
from evals.data import Samples
from evals.measure.edits import sharing
from evals.measure.edits.engine import Engine, MeasuredEdit
from evals.measure.memorization.extraction import extract, run_pass
from evals.run.models import open_model
from evals.run.resuming import run_from_block, run_tokens
from surgery.errors import MeasurementError
from surgery.exporting import export
from surgery.fitting.calibration import open_calibration
from surgery.fitting.fitter import Fitter
from surgery.in_memory import Editable, short_circuit
from surgery.selection import EditedHeads, Selection, parse_selection, variant_name
from surgery.variants import variant_of

BLOCKS = 4
ALL = SweepRequest.of(model="model", samples="rows", ranges=True)


def small(family: str, dtype: str) -> Any:
    if family == "gpt_neo":
        return tiny_neo(BLOCKS).to(DTYPES[dtype])
    return tiny_model(num_hidden_layers=BLOCKS, rotary_pct=0.5).to(DTYPES[dtype])


def parsed(spec: str, variant: str) -> Selection:
    """ "1:=mean+3" → block 1 with mean, block 3 with `variant`."""
    items = [item.partition(":=") for item in spec.split("+")]
    return tuple(
        sorted(
            part
            for blocks, _, own in items
            for part in parse_selection(blocks, own or variant, BLOCKS, 2)
        )
    )


def windows(rows: int = 11, length: int = 12, vocabulary: int = VOCABULARY) -> Any:
    return np.random.default_rng(0).integers(2, vocabulary, (rows, length)).astype(np.int32)


def assert_same(one: MeasuredEdit, other: MeasuredEdit) -> None:
    for name in (
        "first_divergence",
        "exact",
        "next_token_accuracy",
        "nll",
        "heldout_nll",
        "heldout_kl",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype", "layout", "specs"),
    [
        (
            "gpt_neox",
            "float32",
            "auto",
            ["1", "2-3", "0-1", "0-3", "2.1", "0.0,3", "1:=zero+3:=linear"],
        ),
        ("gpt_neox", "float32", "compact", ["1", "2-3"]),
        ("gpt_neox", "float16", "auto", ["1", "2-3", "0.1"]),
        ("gpt_neo", "float32", "auto", ["1", "2-3", "0-1", "1.1", "1:=mean+3:=linear"]),
        ("gpt_neo", "float32", "compact", ["0", "1-3"]),
    ],
)
def test_equal_to_measuring_the_exported_checkpoint(family, dtype, layout, specs, tmp_path):
    source, text = tmp_path / "source", tmp_path / "text.txt"
    save_tiny(source, small(family, dtype))
    text.write_text(TEXT * 8)
    loaded = open_model(str(source), device="cpu", dtype="float32")
    model, editable = loaded.model, loaded.editable
    calibration = open_calibration([text]).tokenize(loaded.tokenizer, loaded.dimensions)
    fitter = Fitter(model, calibration, editable=editable, layout=layout)
    tokens = windows(15, 16, 300)
    samples = Samples(tokens, 7, tuple(map(str, range(15))), "random rows")
    heldout = windows(9, 16, 300)
    engine = Engine(
        model, samples, heldout, batch_size=4, fit=fitter.fit, layout=layout, editable=editable
    )
    edits = dict.fromkeys(
        parsed(spec, variant)
        for spec in specs
        for variant in ("identity", "zero", "mean", "linear")
        if not (family == "gpt_neo" and "." in spec and variant in ("identity", "linear"))
    )
    measured = engine.measure(list(edits))
    for (number, selection), found in zip(enumerate(edits), measured, strict=True):
        output = tmp_path / str(number)
        fitted = any(variant_of(part.variant).fitted for part in selection)
        named = [text] if fitted else []
        export(source, selection, output=output, layout=layout, calibration=named)
        edited = open_model(str(output), device="cpu", dtype="float32").model
        theirs = extract(edited, samples, batch_size=4)
        assert found.selection == selection
        np.testing.assert_array_equal(found.first_divergence, theirs.values["first_divergence"])
        np.testing.assert_array_equal(found.exact, theirs.exact)
        np.testing.assert_array_equal(
            found.next_token_accuracy, theirs.values["next_token_accuracy"]
        )
        np.testing.assert_array_equal(found.nll, theirs.nll)
        rest = run_pass(edited, heldout, 1, batch_size=4).predictions.log_likelihood
        np.testing.assert_array_equal(found.heldout_nll, -rest.mean(axis=1, dtype=np.float64))
        assert not np.array_equal(found.nll, engine.base.nll)


@pytest.mark.parametrize("name", ["neox-parallel", "neox-sequential", "neo"])
def test_a_pass_taken_up_at_any_block_is_the_whole_pass(name):
    model = stock(name)
    before = dict(model.named_modules())
    tokens = torch.from_numpy(windows(3).astype(np.int64))
    whole = run_tokens(model, tokens, keep=range(BLOCKS))
    assert torch.equal(whole.hidden, model.base_model(tokens).last_hidden_state)
    for block in range(BLOCKS):
        run = run_from_block(model, block, whole.inputs[block], keep=range(block, BLOCKS))
        assert torch.equal(run.hidden, whole.hidden)
        assert all(torch.equal(run.inputs[b], whole.inputs[b]) for b in range(block, BLOCKS))
    with pytest.raises(RuntimeError):
        run_from_block(model, 2, torch.zeros(1, 3, 5))
    assert dict(model.named_modules()) == before
    assert torch.equal(model.base_model(tokens).last_hidden_state, whole.hidden)


HEADS = (0, 1)
PARTS = st.builds(
    EditedHeads,
    block=st.integers(0, 3),
    heads=st.sampled_from([(0,), HEADS]),
    variant=st.sampled_from(["zero", "mean"]),
)
EDITS = st.lists(PARTS, min_size=1, max_size=4, unique_by=lambda part: part.block).map(
    lambda parts: tuple(sorted(parts))
)


@pytest.fixture(params=["neox-parallel", "neo"])
def recited(request) -> tuple[Any, Samples, list[Selection]]:
    """A model, passages of which it recites a third, and edits of single blocks and of the last."""
    model = model_named(request.param)
    specs = ["0", "1", "2", "3", "2-3", "1-3", "0,2"]
    edits = [parse_selection(spec, "zero", 4, 4) for spec in specs]
    return model, passages(request.param, 40), edits


def test_nothing_is_computed_twice(recited):
    model, samples, edits = recited
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    layers = model.transformer.h if hasattr(model, "transformer") else model.gpt_neox.layers
    hooks = [layer.register_forward_hook(count) for layer in layers]
    engine = Engine(model, samples, windows(), batch_size=64)
    runs = 0
    engine.measure(edits)
    # the base; 0, and 0,2 from there; 1 and 1-3; 2 and 2-3; 3. Unmeasured 1-2 is not run.
    assert runs == 2 * (4 + (4 + 2) + (3 + 2) + (2 + 1) + 1)
    runs = 0
    engine.measure(edits)
    assert runs == 0
    assert engine.work(edits) == 0
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kept", [4 * BLOCKS, 2], ids=["all", "some"])
def test_the_new_tensors_of_a_block_are_computed_once_where_there_is_room(kept, monkeypatch):
    """Else those that most edits want, and the others for every batch; none stay."""
    model, computed, held = small("gpt_neox", "float32"), [], weakref.WeakSet()
    tensors = Editable.compute_tensors

    def compute(self, plan, block, fits):
        computed.append((block, variant_name(plan.selection)))
        new = tensors(self, plan, block, fits)
        held.update(new.values())
        return new

    monkeypatch.setattr(Editable, "compute_tensors", compute)
    variants = ["identity", "zero"]
    editable = Editable(model)
    size = max(
        sum(tensor.nbytes for tensor in tensors(editable, plan, 0, {}).values())
        for plan in (editable.plan("0", variant) for variant in variants)
    )
    monkeypatch.setattr(sharing, "share_free_memory", lambda device: 4 * kept * size)
    samples = Samples(windows(9), 6, tuple(map(str, range(9))), "random rows")
    engine = Engine(model, samples, batch_size=3)
    edits = list_edits(BLOCKS, 2, variants, ALL)
    engine.measure(edits)
    each = Counter((b, name) for b in range(BLOCKS) for name in variants)
    assert Counter(computed).keys() == each.keys()
    once = [number for number in Counter(computed).values() if number == 1]
    assert len(once) == len(each) if kept > 2 else 0 < len(once) < len(each)
    assert not held


@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_new_tensors_of_one_block_exist_at_a_time_where_there_is_no_room(layout, monkeypatch):
    """However many blocks an edit has: those of a wide model's are a fifth of all its weights."""
    tensors, held, computed = Editable.compute_tensors, weakref.WeakSet(), 0

    def compute(self, plan, block, fits):
        nonlocal computed
        assert not held
        computed += 1
        new = tensors(self, plan, block, fits)
        held.update(new.values())
        return new

    monkeypatch.setattr(Editable, "compute_tensors", compute)
    monkeypatch.setattr(sharing, "share_free_memory", lambda device: 0)
    samples = Samples(windows(9), 6, tuple(map(str, range(9))), "random rows")
    engine = Engine(small("gpt_neox", "float32"), samples, windows(), batch_size=16, layout=layout)
    engine.measure(list_edits(BLOCKS, 2, ["identity"], ALL))
    assert computed > BLOCKS
    assert not held


def test_logits_of_a_few_positions_exist_at_a_time(recited):
    model, samples, edits = recited
    most = 0

    def watch(module: Any, arguments: Any, output: torch.Tensor) -> None:
        nonlocal most
        most = max(most, output.numel() // output.shape[-1])

    hook = model.get_output_embeddings().register_forward_hook(watch)
    Engine(model, samples, windows(60), batch_size=64).measure(edits)
    hook.remove()
    assert most == 256


def test_the_divergence_is_that_of_the_distributions(recited):
    model, samples, edits = recited
    heldout = windows(7)
    engine = Engine(model, samples, heldout, batch_size=4)
    tokens = torch.from_numpy(heldout.astype(np.int64))
    with torch.no_grad():
        log_p = model(tokens).logits[:, :-1].double().log_softmax(-1)
        for selection, found in zip(edits, engine.measure(edits), strict=True):
            with short_circuit(model, selection):
                log_q = model(tokens).logits[:, :-1].double().log_softmax(-1)
            expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1).numpy()
            np.testing.assert_allclose(found.heldout_kl, expected, atol=1e-5)
            assert found.heldout_kl.min() > 0
    assert not engine.base.heldout_kl.any()


def test_likelihoods_that_are_not_finite_are_an_error():
    model = stock("neox-parallel")
    with torch.no_grad():
        model.gpt_neox.layers[2].attention.dense.bias[:] = float("nan")
    message = "base model: the model gives likelihoods that are not finite"
    with pytest.raises(MeasurementError, match=message):
        Engine(model, passages("neox-parallel"), windows(), batch_size=8).measure([])


@settings(max_examples=8, deadline=None)
@given(st.sets(EDITS, min_size=2, max_size=4), st.sampled_from([3, 8]))
def test_what_is_measured_together_changes_no_number(selections, batch_size):
    model, samples = stock("neox-parallel"), passages("neox-parallel", 5)
    edits = sorted(
        tuple(
            EditedHeads(part.block, part.heads if part.heads == (0,) else (0, 1, 2, 3), "zero")
            for part in edit
        )
        for edit in selections
    )
    together = Engine(model, samples, windows(4), batch_size=batch_size).measure(edits)
    for edit, found in zip(edits, together, strict=True):
        (alone,) = Engine(model, samples, windows(4), batch_size=batch_size).measure([edit])
        assert_same(found, alone)
