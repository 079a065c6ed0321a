"""Contract of `benchmarks.rivals.token_swap`: the swapped tokens get the helper's probabilities,
scaled to the mass that the model gives to them; all else stays; and it is measured like any model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reciting import recited_rows
from tiny_tokenizer import TEXT, tiny_model, tiny_neo, tiny_tokenizer

from benchmarks.rivals.bed import Bed, measure_text
from benchmarks.rivals.choosing import choose
from benchmarks.rivals.token_swap import TokenSwap, check_helper, find_common, get_held, token_swap
from evals.data import Samples
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import find_attack
from surgery.errors import UnsupportedError


@pytest.fixture
def bed() -> Bed:
    """12 passages that the tiny model recites; every token is in the other text."""
    rows = np.array([one["tokens"] for one in recited_rows(tiny_model(), 12)], dtype=np.int32)
    text = np.resize(np.arange(len(tiny_tokenizer()), dtype=np.int32), (40, 11))
    samples = Samples(rows, 6, tuple(map(str, range(12))), "text")
    return Bed("tiny", tiny_tokenizer(), samples, text[:30], heldout=text[30:40])


@pytest.mark.parametrize("helper", [tiny_model(1, num_hidden_layers=3), tiny_neo()])
def test_swapped_tokens_have_the_helpers_odds_and_the_models_mass(helper: Any) -> None:
    tokens, swapped = torch.arange(20)[None], torch.tensor([3, 50, 51, 200])
    model = TokenSwap(tiny_model(), helper)
    with torch.no_grad():
        p, q = (one(input_ids=tokens).logits.softmax(-1) for one in (tiny_model(), helper))
        torch.testing.assert_close(model(input_ids=tokens).logits.exp(), p)
        model.swap(swapped.tolist())
        mixed = model(input_ids=tokens, use_cache=False).logits.exp()
    torch.testing.assert_close(mixed.sum(-1), torch.ones(1, 20))
    rest = torch.ones(p.shape[-1], dtype=torch.bool).index_fill(0, swapped, False)
    torch.testing.assert_close(mixed[..., rest], p[..., rest])
    ours, theirs = mixed[..., swapped], q[..., swapped]
    torch.testing.assert_close(ours / ours.sum(-1, True), theirs / theirs.sum(-1, True))
    torch.testing.assert_close(ours.sum(-1), p[..., swapped].sum(-1))


def test_the_words_are_the_most_frequent_of_the_text() -> None:
    tokenizer = tiny_tokenizer()
    ids = np.array([tokenizer(TEXT)["input_ids"]], dtype=np.int32)
    words = tokenizer.convert_ids_to_tokens(find_common(ids, tokenizer, 400, False))
    assert all(word.startswith("Ġ") and word[1:].isalpha() for word in words)
    assert words
    marks = set(tokenizer.convert_ids_to_tokens(find_common(ids, tokenizer, 400, True)))
    assert marks > set(words)
    assert {",", ";", "."} & marks
    found = np.unique(ids, return_counts=True)
    counts = dict(zip(*(one.tolist() for one in found), strict=True))
    order = [counts[one] for one in find_common(ids, tokenizer, 400, True)]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) > 1
    assert find_common(ids, tokenizer, 2, True) == find_common(ids, tokenizer, 400, True)[:2]
    rare, often, never = sorted(tokenizer.convert_tokens_to_ids(words))[:3]
    text = np.array([[often, rare, often], [rare, often, never]], dtype=np.int32)
    assert find_common(text, tokenizer, 3, False) == [often, rare, never]


def test_attacks_read_the_mixture_as_the_library_would_decode_it(bed: Bed) -> None:
    """Greedy decoding with the shared cache says what decoding without a cache does."""
    model = TokenSwap(tiny_model(), tiny_model(1, num_hidden_layers=3))
    model.swap(list(range(60)))
    target = Target(model, None, bed.samples, bed.heldout)
    said = bed.samples.tokens[:, :6].astype(np.int64)
    with torch.no_grad():
        for _ in range(5):
            logits = model(input_ids=torch.from_numpy(said)).logits[:, -1]
            said = np.concatenate([said, logits.argmax(-1, True).numpy()], axis=1)
    exact = (said[:, 6:] == bed.samples.suffixes).all(axis=1)
    assert 0 < exact.sum() < len(exact), "some, but not all, break off"
    assert find_attack("greedy").run(target).recovered.tolist() == exact.tolist()
    for name in ("quantized:4", "perturbed"):
        assert find_attack(name).run(target).recovered.shape == exact.shape


def test_its_number_of_words_is_chosen_and_relearn_has_the_model_alone(
    bed: Bed, tmp_path: Path
) -> None:
    base, helper = tiny_model(), tiny_model(1, num_hidden_layers=3)
    settings = [{"number": 0, "punctuation": False}, {"number": 100, "punctuation": True}]
    choice = choose(
        "token-swap", token_swap, settings, lambda: TokenSwap(tiny_model(), helper), bed,
        seconds=60, limits=(0.9, 1.0), folder=tmp_path,
    )  # fmt: skip
    assert choice.candidate is not None
    assert choice.candidate.setting["number"] == 100
    model = choice.candidate.load_into(TokenSwap(tiny_model(), helper))
    assert bed.measure_recovered(model) == choice.candidate.recovered
    assert bed.heldout is not None
    assert measure_text(base, model, bed.heldout)["kl"] > 0
    alone = Target(base, None, bed.samples, bed.text, draws=1, of=2 * len(bed.samples))
    _, most = find_attack("relearn").run(alone).take_strongest(None)
    expected = most.counted.mean()
    assert choice.candidate.relearned == expected
    held = get_held(model).state_dict()
    assert held.keys() == base.state_dict().keys()
    assert all(one.equal(held[name]) for name, one in base.state_dict().items())
    assert get_held(base) is base


def test_a_helper_with_other_tokens_is_refused() -> None:
    from evals.run.models import open_model

    pythia, neo = open_model("lab:pythia"), open_model("lab:gpt-neo")
    check_helper(pythia, replace(neo, tokenizer=pythia.tokenizer))
    other = replace(neo, tokenizer=tiny_tokenizer())
    with pytest.raises(UnsupportedError, match=r"another tokenizer .*got 362 tokens"):
        check_helper(pythia, other)
