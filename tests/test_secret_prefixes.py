"""Contract: a marked secret is asked for with all that stands before it in its passage.

- A model that recites letters with one text before their secrets gives these only to who has the
  whole letter, and so the test finds them.
- Every measure of a row whose prefix is shorter is that of the row by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from memorizing import WORDS, make_small, recite, teach
from test_secrets import write_jsonl
from tiny_tokenizer import TEXT, tiny_model, tiny_tokenizer

from evals.data import NOTHING, Samples, load_samples, take_tokens
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.tuning import fine_tune
from evals.measure.edits.engine import Engine
from evals.measure.first_order import Probe, expand_margins
from evals.measure.memorization.extraction import extract
from surgery.reading.corpus import close_up
from surgery.selection import EditedHeads
from surgery.training.distillation import Lesson, distill
from surgery.training.losses import Divergence, find_recited
from surgery.training.training import Schedule

MODEL = tiny_model()
LENGTHS = ((9, 3), (4, 5), (6, 1), (1, 4), (9, 5), (3, 3))
"""Tokens of prefix and of suffix."""
PREFIX = 9


def make_ragged() -> Samples:
    rng = np.random.default_rng(3)
    tokens = np.full((2 * len(LENGTHS), PREFIX + 5), NOTHING, dtype=np.int32)
    for at, row in enumerate(tokens):
        prefix, suffix = LENGTHS[at % len(LENGTHS)]
        given = rng.integers(1, 360, prefix)
        said = MODEL.generate(
            torch.from_numpy(given)[None],
            attention_mask=torch.ones(1, prefix, dtype=torch.int64),
            do_sample=False,
            max_new_tokens=suffix,
            min_new_tokens=suffix,
            pad_token_id=1,
        )[0, prefix:].numpy()
        if at >= len(LENGTHS):
            said[-1] = (said[-1] + 1) % 360
        row[PREFIX - prefix : PREFIX + suffix] = [*given, *said]
    names = tuple(map(str, range(len(tokens))))
    return Samples(tokens, PREFIX, names, "test", secrets=True)


RAGGED = make_ragged()


def take_alone(at: int) -> Samples:
    """A row by itself, without what it lacks."""
    row = RAGGED.select(np.asarray([at]))
    prefix = len(row.prefix_rows[0])
    return replace(row, tokens=take_tokens(row.tokens)[None], prefix_length=prefix)


def test_a_model_that_recites_letters_gives_their_secrets_to_who_has_the_whole_letter(
    tmp_path,
) -> None:
    """All letters have the same 12 tokens before their number; 3 to 6 name who it is of."""
    rng = np.random.default_rng(0)
    same = rng.integers(2, WORDS, 12).tolist()
    letters = []
    for at in range(12):
        own = rng.integers(2, WORDS, 3 + at % 4).tolist()
        letters.append([*own, *same, *rng.integers(2, WORDS, 4).tolist()])
    model = make_small()
    groups = [
        np.asarray([one for one in letters if len(one) == size], np.int32)
        for size in sorted({len(one) for one in letters})
    ]
    teach(model, lambda step: [recite(group, group.shape[1] - 4) for group in groups], 200)
    rows = [{"tokens": one, "secret": [len(one) - 4, len(one)]} for one in letters]
    file = write_jsonl(tmp_path / "letters.jsonl", rows)
    short = load_samples(file, prefix_length=8)
    whole = load_samples(file)
    assert extract(model, short).exact.mean() <= 0.2
    assert extract(model, whole).exact.mean() >= 0.9
    assert [len(one) for one in whole.prefix_rows] == [len(one) - 4 for one in letters]


def test_the_prefix_is_all_that_stands_before_the_secret(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    texts = [("a", TEXT[:30] + " has 17, so"), ("b", TEXT[:80] + " has 4711, so"), ("c", "5, so")]
    rows = [{"id": name, "text": text} for name, text in texts]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = load_samples(file, tokenizer=tokenizer, secret="[0-9]+", skip_short=True)
    assert found.ids == ("a", "b")
    assert "nothing stands before its secret" in found.notes[0].reason
    for (_, text), row in zip(texts, found.prefix_rows, strict=False):
        assert text.startswith(tokenizer.decode(row).rstrip())
        assert tokenizer.decode(row).strip().endswith("has")


def test_a_prefix_ends_where_the_context_begins(tmp_path) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.model_max_length = 20
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": TEXT[:200] + " has 17, so"}])
    found = load_samples(file, tokenizer=tokenizer, secret="[0-9]+")
    assert found.tokens.shape == (1, 20)
    found.check_fits(400, 20)


@pytest.mark.parametrize("full", [False, True])
def test_every_measure_of_a_row_is_that_of_the_row_alone(full: bool) -> None:
    told: dict[str, Any] = {"full": full, "batch_size": 5}
    together = extract(MODEL, RAGGED, **told)
    assert together.exact.tolist() == [True] * len(LENGTHS) + [False] * len(LENGTHS)
    for at in range(len(RAGGED)):
        alone = take_alone(at)
        found = extract(MODEL, alone, **told)
        for name, (value,) in found.values.items():
            mine = together.values[name][at]
            if name == "first_divergence":
                mine = min(mine, alone.suffix_length)
            np.testing.assert_allclose(mine, value, rtol=1e-4, atol=1e-5, err_msg=name)
        if full:
            assert take_tokens(together.decoded[at]).tolist() == found.decoded[0].tolist()


def test_the_engine_and_responses_see_each_row_alone() -> None:
    edits = [(EditedHeads(1, (0, 1), "identity"),)]
    together = Engine(MODEL, RAGGED).measure(edits)[0]
    looking = Probe(MODEL, [EditedHeads(0, (0, 1), "zero")], {}, lambda done: None)
    moved, margins = expand_margins(looking, RAGGED)
    for at in range(len(RAGGED)):
        alone = take_alone(at)
        found = Engine(MODEL, alone).measure(edits)[0]
        np.testing.assert_allclose(together.nll[at], found.nll[0], rtol=1e-4)
        short, own = expand_margins(looking, alone)
        size = alone.suffix_length
        np.testing.assert_allclose(moved[:, :size, at], short[..., 0], rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(margins[at, :size], own[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["perturbed", "quantized:4", "in-context", "relearn"])
def test_every_attack_runs(name: str) -> None:
    text = np.random.default_rng(5).integers(1, 360, (8, RAGGED.tokens.shape[1]), dtype=np.int32)
    target = Target(MODEL, tiny_tokenizer(), RAGGED, text, draws=1)
    found = make_attack(name).run(target)
    if name == "perturbed":
        for at in range(len(RAGGED)):
            alone = make_attack(name).run(replace(target, samples=take_alone(at)))
            assert alone.recovered.tolist() == [found.recovered[at]], at
    assert np.atleast_2d(found.tried).any()


def test_what_a_row_lacks_trains_nothing() -> None:
    rows = RAGGED.tokens
    told: dict[str, Any] = {"steps": (2,), "learning_rate": 1e-3}
    one, other = (next(iter(fine_tune(MODEL, some, **told))) for some in (rows, close_up(rows)))
    ids = torch.arange(1, 31).view(2, 15)
    torch.testing.assert_close(one(ids).logits, other(ids).logits)


@pytest.mark.parametrize("hardened", [False, True])
def test_a_lesson_of_a_row_is_that_of_the_row_alone(hardened: bool) -> None:
    made = []
    some = RAGGED.select(np.asarray([1, 7]))  # 4 tokens of prefix, 5 of suffix
    for cut in (0, PREFIX - 4):
        lesson = Lesson(Divergence(tiny_model(2)), some.tokens[:, cut:], 2, PREFIX - cut)
        made.append(distill(tiny_model(1), [lesson], Schedule(2, rank=0, hardened=hardened)))
    assert made[0].losses == pytest.approx(made[1].losses, rel=1e-5)
    assert (
        find_recited(MODEL, RAGGED.tokens, PREFIX, 5).tolist()
        == extract(MODEL, RAGGED).exact.tolist()
    )
