"""Contract: attackers who know what was cut get what their definitions say.

Attention copied back from the source undoes a cut bit for bit, in every family and layout. A woken
block learns in all of its attention, a cut one in none of its queries and keys. Only the cut blocks
are trained, and the model under attack stays as it is. A sibling that does not fit is one line.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from command_line import attn_surgery
from decoders import CONFIGS, write_decoder
from reciting import (
    PREFIX,
    SUFFIX,
    generate,
    model_named,
    passages,
    recited_rows,
    two_heads,
    write_rows,
)
from results import read_report, take
from tiny_compact import VOCABULARY
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_neo, tiny_tokenizer

from evals.choose.search.opened import open_search
from evals.choose.search.request import SearchRequest
from evals.choose.search.trials import Trials
from evals.data import Samples
from evals.jobs.asking import MeasureRequest
from evals.jobs.mitigating import MitigationRequest
from evals.measure.attacks import revive
from evals.measure.attacks.attack import AttackOutcome, Setting, Target
from evals.measure.attacks.graft import (
    copy_all,
    copy_weights,
    list_scopes,
    open_sibling,
    put_positions,
)
from evals.measure.attacks.names import choose_attacks, make_attack
from evals.measure.attacks.quantized import quantize_matrices
from evals.measure.attacks.sibling import check_sibling, describe_sibling
from evals.measure.attacks.trying import KINDS, AttackPlan, try_attacks
from evals.measure.attacks.tuning import ROWS
from evals.measure.attacks.weights import put_weights, restore_modules
from evals.measure.memorization.recovery import is_recovery, make_recovery
from evals.run.keep import Store
from evals.run.models import open_model
from surgery.errors import MeasurementError
from surgery.exporting import export
from surgery.hub.finding import find_model
from surgery.in_memory import apply
from surgery.loading import load_model
from surgery.selection import parse_selection
from surgery.training.losses import measure_loss

TOKENS = torch.arange(2, 42).view(2, 20)
TEXT_ROWS = np.random.default_rng(1).integers(2, VOCABULARY, (8, PREFIX + SUFFIX)).astype(np.int32)
CUTS = [
    *(
        ("neox", *cut)
        for cut in (("identity", "stock"), ("zero", "stock"), ("identity", "compact"))
    ),
    ("neo", "zero", "stock"),
    ("neo", "identity", "compact"),
    *((kind, "identity", "auto") for kind in CONFIGS if kind != "mistral"),
    *((kind, "zero", "auto") for kind in ("llama", "olmo2")),
]


class Cut(NamedTuple):
    base: Any
    folder: Path
    edited: Any


@pytest.fixture(scope="module", params=CUTS, ids="-".join)
def cut(request, tmp_path_factory) -> Cut:
    """A model without attention in block 1."""
    kind, variant, layout = request.param
    folder = tmp_path_factory.mktemp("cut") / "base"
    if kind in CONFIGS:
        model = load_model(write_decoder(folder, kind))
    else:
        model = two_heads() if kind == "neox" else model_named("neo")
        model.save_pretrained(folder)
    return Cut(model, folder, apply(model, "1", variant, layout=layout))


@torch.inference_mode()
def logits_of(model) -> torch.Tensor:
    return model(TOKENS).logits


def test_attention_of_the_source_undoes_a_cut(cut) -> None:
    """Also where the edit added biases, and where attention is another module."""
    whole = restore_modules(cut.edited)
    assert type(whole) is type(cut.base)
    before, after = logits_of(cut.base), logits_of(cut.edited)
    assert not torch.equal(after, before)
    sibling = open_sibling(find_model(cut.folder), whole)
    for names in list_scopes(whole, (1,)):
        with put_weights(whole, copy_weights(whole, sibling, names)):
            assert torch.equal(logits_of(whole), before)
    assert torch.equal(logits_of(cut.edited), after)


@pytest.mark.parametrize(("kind", "block"), [("qwen3_moe", 1), ("gpt_oss", 1), ("smollm3", 2)])
def test_experts_and_a_lack_of_positions_come_back_too(kind: str, block: int, tmp_path) -> None:
    """Experts are loaded as one tensor, and the edit gave the block positions."""
    source = write_decoder(tmp_path / "source", kind)
    folder = export(source, str(block), output=tmp_path / "out", layout="stock").output
    base, edited = load_model(source), load_model(folder)
    before, after = logits_of(base), logits_of(edited)
    assert not torch.equal(after, before)
    sibling = open_sibling(find_model(source), edited)
    scopes = [
        (copy_weights(edited, sibling, names), names) for names in list_scopes(edited, (block,))
    ]
    whole = copy_all(edited, sibling)
    for copied, names in (*scopes, (whole, whole)):
        with put_weights(edited, copied), put_positions(edited, sibling, names):
            assert torch.equal(logits_of(edited), before)
    assert torch.equal(logits_of(edited), after)


def test_experts_are_rounded(tmp_path) -> None:
    """Which newer versions of the library hold in one tensor."""
    model = load_model(write_decoder(tmp_path / "source", "qwen3_moe"))
    before = dict(model.named_parameters())
    with quantize_matrices(model):
        after = dict(model.named_parameters())
    kept = {name for name, old in before.items() if torch.equal(after[name], old)}
    assert kept == {name for name, old in before.items() if old.ndim < 2}


def test_a_woken_block_learns_in_all_of_its_attention(cut) -> None:
    whole = restore_modules(cut.edited)
    before = {name: one.clone() for name, one in whole.state_dict().items()}
    woken = revive.wake(whole, (1,))
    measure_loss(woken.model, TOKENS).backward()
    assert woken.learned
    for name, weight in woken.model.named_parameters():
        if weight.requires_grad and weight.ndim == 2:
            assert weight.grad.norm(dim=1).count_nonzero() == len(weight), name
            assert weight.grad.norm(dim=0).count_nonzero() == weight.shape[1], name
    after = whole.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


def test_a_head_of_its_own_is_not_lost_by_an_attack() -> None:
    """A compact model is made anew, whatever its configuration says of ties."""
    compact = apply(two_heads(), "1", "identity", layout="compact")
    compact.config.tie_word_embeddings = True
    head = compact.get_output_embeddings().weight.detach().clone()
    restored = restore_modules(compact)
    assert torch.equal(restored.get_output_embeddings().weight, head)
    assert not torch.equal(restored.get_input_embeddings().weight, head)


def test_without_waking_queries_and_keys_learn_nothing() -> None:
    """But rounding. This is why fine-tuning does not bring a stock cut back."""
    edited = apply(two_heads(), "1", "identity", layout="stock")
    weight = edited.gpt_neox.layers[1].attention.query_key_value.weight
    measure_loss(edited, TOKENS).backward()
    scores = weight.grad.view(2, 3, -1, weight.shape[1])
    assert scores[:, :2].abs().max() < 1e-4 * scores[:, 2].abs().max()


def test_heads_that_were_not_cut_stay_as_they_are() -> None:
    edited = apply(two_heads(), "1.0", "identity", layout="stock")
    name = "gpt_neox.layers.1.attention.query_key_value"
    old = dict(edited.named_parameters())
    woken = dict(revive.wake(edited, (1,)).model.named_parameters())
    weights, biases = (
        [one[f"{name}.{leaf}"].detach().unflatten(0, (2, 3, -1)) for one in (old, woken)]
        for leaf in ("weight", "bias")
    )
    for (before, after), slept in ((weights, 1.0), (biases, revive.SHRINK)):
        assert torch.equal(before[1], after[1])
        assert torch.equal(before[0, 2], after[0, 2])
        if slept != 1.0:
            assert torch.equal(before[0, :2] * slept, after[0, :2])
    assert not weights[0][0, :2].any()
    assert weights[1][0, :2].std() == pytest.approx(revive.NOISE, rel=0.2)


def target_of(model, samples: Samples, **more) -> Target:
    return Target(model, None, samples, TEXT_ROWS, **more)


def test_revive_trains_the_cut_blocks_alone(monkeypatch) -> None:
    """On a tenth of the passages and half of the text, which then do not count."""
    trained: list[tuple[list[torch.Tensor], np.ndarray]] = []

    def train(model, make, rows, steps, rate, told, **kind):
        student = make(model)
        trained.append((student.learned, rows))
        yield 1, student

    monkeypatch.setattr(revive, "train", train)
    rows = passages("neox-parallel", rows=30)
    edited = model_named("neox-parallel compact identity")
    outcome = make_attack("revive").run(target_of(edited, rows, cut=(1, 3), draws=1))
    ((weights, learned),) = trained
    assert len(weights) == 8, "weights and biases of two modules in two blocks"
    known = {tuple(row) for row in learned.tolist()}
    held = {tuple(row) for row in rows.tokens[~outcome.tried[0]].tolist()}
    text = {tuple(row) for row in TEXT_ROWS.tolist()}
    assert held == known - text
    assert (len(held), len(known & text)) == (3, 4)


def test_revive_teaches_what_it_is_taught(monkeypatch) -> None:
    """The control counts, too: text that trained nothing. An uncut model is read as it is."""
    monkeypatch.setattr(revive, "STEPS", (2, 4))
    rows = passages("neox-parallel", rows=30)
    base, edited = model_named("neox-parallel"), model_named("neox-parallel compact identity")
    attack = make_attack("revive")
    plain = target_of(base, rows, draws=1)
    first = attack.run(target_of(edited, rows, cut=(1, 3), draws=2))
    again = attack.run(target_of(edited, rows, cut=(1, 3), draws=2))
    assert np.array_equal(first.recovered, again.recovered)
    uncut = attack.run(plain)
    assert uncut.recovered[0].tolist() == make_attack("any").run(plain).recovered.tolist()
    control = Samples(TEXT_ROWS, PREFIX, tuple(map(str, range(8))), "text")
    assert 0 < attack.run(target_of(edited, control, cut=(1, 3), draws=1)).tried.sum() < 8


def test_revive_learns_attention_that_predicts_its_rows(monkeypatch) -> None:
    monkeypatch.setattr(revive, "STEPS", (8,))
    edited = apply(two_heads(), "1", "identity", layout="stock")
    rows = passages("neox-parallel").tokens[:4]
    tokens, woken = torch.from_numpy(rows.astype(np.int64)), revive.wake(edited, (1,)).model
    losses = []
    for model in (woken, *revive.learn_attention(edited, (1,), rows)):
        with torch.no_grad():
            losses.append(measure_loss(model, tokens).item())
    assert losses[1] < losses[0] - 0.05


def test_revive_asks_the_woken_model(monkeypatch) -> None:
    """If training restored all attention, the passages would be those of the base."""
    base = two_heads()
    edited, rows = apply(base, "1", "identity", layout="stock"), passages("neox-parallel", rows=30)
    said = generate(base, torch.from_numpy(rows.prefixes.astype(np.int64)), SUFFIX).numpy()
    tokens = np.concatenate([rows.prefixes, said], axis=1).astype(np.int32)
    rows = replace(rows, tokens=tokens)
    monkeypatch.setattr(revive, "learn_attention", lambda *_: [base])
    outcome = make_attack("revive").run(target_of(edited, rows, cut=(1,), draws=1))
    assert outcome.recovered.all()
    assert not make_attack("any").run(target_of(edited, rows)).recovered.all()


@pytest.mark.parametrize(("number", "windows"), [(400, 80), (40, 80), (400, 8), (20, 4)])
def test_each_step_of_revive_is_half_passages(number: int, windows: int) -> None:
    """However many there are of each."""
    rows = np.arange(number * 16, dtype=np.int32).reshape(number, 16)
    text = np.arange(windows * 16, dtype=np.int32).reshape(windows, 16) + 10_000
    samples = Samples(rows, PREFIX, tuple(map(str, range(number))), "made here")
    learned, tried = revive.choose_rows(Target(two_heads(), None, samples, text, draws=1))
    passage = learned[:, 0] < 10_000
    assert len(learned) == revive.STEPS[-1] * ROWS
    assert (passage.reshape(-1, ROWS).sum(axis=1) == ROWS // 2).all()
    held = {row[0] for row in rows[~tried].tolist()}
    assert {row[0] for row in learned[passage].tolist()} == held
    assert len(held) == number // 10
    assert len({row[0] for row in learned[~passage].tolist()}) == windows // 2, "half of the text"


def test_graft_takes_the_scope_that_recovers_most(tmp_path) -> None:
    """The passages are those of a fine-tune whose attention of block 0 is its own."""
    base = two_heads()
    base.save_pretrained(tmp_path / "base")
    private = apply(base, "3", "zero", layout="stock")  # other weights in one block
    rows = passages("neox-parallel")
    said = private.generate(
        torch.from_numpy(rows.prefixes.astype(np.int64)),
        max_new_tokens=SUFFIX, min_new_tokens=SUFFIX, do_sample=False, pad_token_id=1,
    )  # fmt: skip
    rows = replace(rows, tokens=said.numpy().astype(np.int32))
    edited = apply(private, "1", "identity", layout="stock")
    attack = make_attack("graft")

    def rate(**more) -> float:
        return attack.run(target_of(edited, rows, **more)).counted.mean()

    sibling = find_model(tmp_path / "base")
    assert make_attack("any").run(target_of(edited, rows)).counted.mean() < 1
    assert rate(cut=(1,), sibling=sibling) == 1
    assert rate(cut=(), sibling=sibling) < 1, "all attention also undoes what was learned in it"


def test_the_sibling_is_loaded_once(tmp_path, monkeypatch) -> None:
    """For all attacks, on the passages and on the control."""
    base = two_heads()
    base.save_pretrained(tmp_path / "base")
    rows = passages("neox-parallel", rows=20)
    plan = AttackPlan(
        rows, TEXT_ROWS, ("graft", "graft-wide"), sibling=find_model(tmp_path / "base")
    )
    assert plan.passages is plan.passages
    assert plan.control is plan.control
    loads = []

    def load(*given, **more):
        loads.append(given)
        return load_model(*given, **more)

    monkeypatch.setattr("surgery.loading.load_model", load)
    model = apply(base, "1", "identity", layout="stock")
    loaded: Any = SimpleNamespace(model=model, tokenizer=None, name="m", cut=(1,), provenance={})
    found = try_attacks(loaded, plan)
    assert [*found.control] == ["graft", "graft-wide"]
    assert len(loads) == 1


def test_the_best_scope_is_that_of_the_passages_that_count(tmp_path: Path) -> None:
    """Also once it was stored. A search may have chosen on the others, which favor another."""
    first, second = np.array([1, 1, 1, 0, 0], dtype=bool), np.array([0, 0, 0, 1, 1], dtype=bool)
    scopes = Setting("the cut blocks", 0.0, 0), Setting("attention of all blocks", 0.0, 0)
    found = dict(zip(scopes, (first, second), strict=True))
    made = AttackOutcome.of_variants(found, np.ones_like(first))
    for _ in range(2):
        outcome = Store(tmp_path).get("graft", lambda: made, *KINDS)
        assert outcome.recovered.tolist() == first.tolist()
        counted = np.array([0, 0, 1, 1, 1], dtype=bool)
        assert outcome.select(counted).recovered.tolist() == [False, True, True]
        assert outcome.select(counted).tried.all()


def test_the_names_of_leaks_and_grafts() -> None:
    assert make_attack("leak@50").name == make_recovery("leak@50").name == "sampling:50"
    assert is_recovery("leak@50")
    asked = {"attack": ("leak@5", "graft:some/base"), "max": {"leak@7": 0.1}}
    audit = MeasureRequest.of(command="audit", models=("m",), baseline="lab:pythia", **asked)
    assert (audit.attacks.attack, audit.attacks.sibling) == (("sampling:5", "graft"), "some/base")
    assert audit.attack_names == ("sampling:5", "graft", "sampling:7")
    report = MeasureRequest.of(command="evaluate", models=("m",), baseline="lab:pythia", **asked)
    assert report.attacks.max == {"sampling:7": 0.1}
    limits = SearchRequest.of(model="m", samples="s", max={"graft:a": 0.1, "any": 0.2})
    assert (limits.attacks.max, limits.attacks.sibling) == ({"graft": 0.1, "any": 0.2}, "a")
    for names in (("leak@9", "sampling:9"), ("sampling:9", "leak@9"), ("leak@9", "leak@9")):
        one = {"model": "lab:pythia", "measure": names[0], "max": {names[1]: 0.02}}
        job = MitigationRequest.of(**one)
        assert (job.extraction.measure, job.attacks.max, job.extraction.max_extraction) == (
            "sampling:9",
            {"sampling:9": 0.02},
            None,
        )
    with pytest.raises(MeasurementError, match="no attack 'leak@0'"):
        make_attack("leak@0")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"attack": ("graft:a",), "sibling": "b"}, "give one sibling, not b and a"),
        ({"attack": ("graft:",)}, "names no model"),
        ({"max": {"leak@5": 0.1, "sampling:5": 0.2}}, "limits one attack twice"),
    ],
)
def test_names_that_contradict_each_other(asked, line) -> None:
    with pytest.raises(ValueError, match=line):
        MeasureRequest.of(command="audit", models=("m",), baseline="lab:pythia", **asked)


@pytest.mark.parametrize("group", ["default", "all", "cheap"])
def test_groups_hold_graft_only_where_there_is_a_sibling(group) -> None:
    without, beside = (choose_attacks([group], sibling=known) for known in (False, True))
    assert set(beside) - set(without) == (
        {"graft"} if group == "cheap" else {"graft", "graft-wide"}
    )
    assert choose_attacks(["graft"]) == ("graft",)
    assert {"revive"} <= set(choose_attacks([]))


def trained_on(folder: Path, noise: float) -> Any:
    """A model of which another one may be an earlier checkpoint. `noise`: in standard deviations of
    each weight."""
    torch.manual_seed(0)
    model = load_model(folder)
    for weight in model.parameters():
        weight.data += noise * weight.std(correction=0) * torch.randn_like(weight)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A base, what was cut from it, and siblings that do not fit."""
    root = tmp_path_factory.mktemp("siblings")
    base = save_tiny(root / "base")
    export(str(base), "1", output=root / "edited")
    export(str(base), "0", output=root / "edited-too")
    save_tiny(root / "wide", tiny_model(hidden_size=64))
    save_tiny(root / "neo", tiny_neo())
    save_tiny(root / "earlier", trained_on(base, 1.0))
    save_tiny(root / "stranger", tiny_model(seed=1))
    spelled = save_tiny(root / "spelled", tiny_model(seed=1)) / "tokenizer.json"
    content = json.loads(spelled.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = list(vocabulary)[5:7]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    spelled.write_text(json.dumps(content))
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize(
    ("sibling", "line"),
    [
        ("wide", "another shape (expected d 32, head_size 16, got d 64, head_size 32)"),
        ("neo", "another family (expected gpt_neox, got gpt_neo)"),
        ("spelled", "its tokenizer has other tokens"),
        ("edited", "it is that model itself"),
        ("edited-too", "it was edited, too, so it lacks attention"),
        ("stranger", "their weights are unrelated (expected weight matrices with a cosine of 0.1"),
    ],
)
def test_siblings_that_cannot_be(folders, sibling, line) -> None:
    with pytest.raises(MeasurementError, match=re.escape(line)):
        check_sibling(find_model(folders[sibling]), find_model(folders["edited"]))


def test_a_copy_is_that_model_itself(folders, tmp_path) -> None:
    """By its content, whatever its name."""
    model = load_model(folders["edited"])
    save_tiny(tmp_path / "copy", model)
    with pytest.raises(MeasurementError, match="it is that model itself"):
        check_sibling(find_model(tmp_path / "copy"), find_model(folders["edited"]))


def test_more_tokens_make_no_other_sibling(folders, tmp_path) -> None:
    """A fine-tune often adds a few."""
    tokenizer = tiny_tokenizer()
    model = trained_on(folders["base"], 0.1)
    model.resize_token_embeddings(len(tokenizer) + 8)
    folder = save_tiny(tmp_path / "more", model)
    check_sibling(find_model(folder), find_model(folders["edited"]))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(MeasurementError, match="other tokens"):
        check_sibling(find_model(folder), find_model(folders["edited"]))


@pytest.fixture(scope="module")
def rows(folders) -> Path:
    made = recited_rows(load_model(folders["base"]), 20)
    return write_rows(folders["base"].parent / "rows.jsonl", made)


def audit(folders, rows, *options):
    control = folders["base"].parent / "text.txt"
    control.write_text(TEXT)
    return attn_surgery(
        *("audit", folders["edited"], "--baseline", folders["base"], "--samples", rows),
        *("--control", control, "--device", "cpu", "--prefix-length", 6, "--suffix-length", 5),
        *options,
    )


def test_an_audit_grafts_from_the_sibling(folders, rows) -> None:
    """It names the sibling and no path. The base as the sibling is noted."""
    outcome = audit(
        folders, rows, "--attack", f"graft:{folders['base']}", "--attack", "any", "--json"
    )
    assert outcome.code == 0, outcome
    found = read_report(outcome)
    assert take(found, "recovered.graft").value == take(found, "recovered.any", "base").value == 1
    assert take(found, "recovered.any").value < 1
    assert found.provenance.sibling["model"] == "base"
    assert str(folders["base"]) not in outcome.stdout
    assert "base is the base itself: graft puts its attention back" in outcome.stderr
    assert "base itself gives 20 of the 20 passages\n" in outcome.stderr


def test_a_sibling_that_recites_nothing(folders, rows) -> None:
    """It serves, and one line says so: a public base seldom recites a private text."""
    asked = ("--attack", "graft", "--sibling", folders["earlier"])
    outcome = audit(folders, rows, *asked)
    assert outcome.code == 0, outcome
    line = "earlier itself gives none of the 20 passages: what graft brings back was in the edited"
    assert sum(line in one for one in outcome.stderr.splitlines()) == 1


def test_all_weights_of_a_sibling_make_the_sibling(folders) -> None:
    edited, sibling = (load_model(folders[name]) for name in ("edited", "earlier"))
    edited = restore_modules(edited)
    opened = open_sibling(find_model(folders["earlier"]), edited)
    with put_weights(edited, copy_all(edited, opened)):
        assert torch.equal(logits_of(edited), logits_of(sibling))


def test_a_sibling_that_does_not_fit_is_one_line(folders, rows) -> None:
    """Before any model is loaded."""
    found = audit(folders, rows, "--attack", "any", "--sibling", folders["wide"])
    found.assert_error("wide: cannot be the sibling of edited: it has another shape")
    none = folders["wide"].parent / "none"
    audit(folders, rows, "--attack", "any", "--sibling", none).assert_error(str(none))


def test_without_a_sibling_graft_is_skipped_or_refused(folders, rows) -> None:
    outcome = audit(folders, rows, "--attack", "graft", "--attack", "any", "--json")
    (edit,) = read_report(outcome).edits
    assert edit.skipped["graft"].startswith("a sibling to copy attention from")
    assert "graft" in edit.not_tried
    limited = audit(folders, rows, "--max", "graft=0.5", "--attack", "any")
    limited.assert_error("graft has a limit and cannot be tried")


@pytest.mark.parametrize("where", ["card", "config"])
def test_a_fine_tune_that_names_its_base(folders, tmp_path, where) -> None:
    folder = save_tiny(tmp_path / "tuned")
    assert describe_sibling(None, find_model(folder)) is None
    if where == "card":
        (folder / "README.md").write_text("---\nbase_model: [some/base]\n---\nText.\n")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "some/base"}))
    line = describe_sibling(None, find_model(folder))
    assert line is not None
    assert "tuned says that it was made from some/base" in line
    assert describe_sibling(find_model(folders["earlier"]), find_model(folder)) is None


def test_a_limit_on_graft_in_a_search(folders, rows, tmp_path) -> None:
    """An edit in memory is attacked as the exported one, and another sibling is another search."""
    control = folders["base"].parent / "corpus.txt"
    control.write_text(TEXT)
    asked: dict[str, Any] = {
        "model": str(folders["base"]), "samples": str(rows), "heldout": (control,),
        "prefix_length": 6, "suffix_length": 5, "variant": ("identity",), "device": "cpu",
    }  # fmt: skip

    def open_with(sibling: Path):
        limits = {"any": 0.5, f"graft:{sibling}": 0.5}
        return open_search(SearchRequest.of(**asked, max=limits))

    opened = open_with(folders["earlier"])
    assert opened.slow == ("graft",)
    trials = Trials(opened, opened.engines())
    point = trials.measure(parse_selection("1", "identity", 2, 2))
    (row,) = trials.attack(point, stop=False).tried
    exported = open_model(str(folders["edited"]), device="cpu")
    assert exported.cut == (1,)
    target = replace(opened.targets[0], model=exported.model, cut=exported.cut)
    expected = make_attack("graft").run(target).recovered
    assert (row.name, row.n) == ("recovered.graft", len(expected))
    assert row.value == pytest.approx(expected.mean())
    assert opened.key == open_with(folders["earlier"]).key
    assert opened.key != replace(opened, sibling=None).key
    asked |= {"heal": (str(control),), "heal_steps": 1}
    healed = open_with(folders["earlier"])
    assert [one for one in healed.warnings if "held-out text stand in the text to fit" in one]
    with pytest.raises(MeasurementError, match="it is that model itself"):
        open_with(folders["base"])


def test_a_record_names_the_sibling_without_its_path(folders) -> None:
    asked = {"baseline": "lab:pythia", "sibling": str(folders["earlier"])}
    named = MeasureRequest.of(asked, command="evaluate", models=("m",), attack=("default",))
    report = named.to_record(["m"], "lab:pythia")
    assert report.attacks.sibling == "earlier"
    assert (
        "sibling: earlier" in MeasureRequest.of(command="audit", models=("m",), **asked).to_config()
    )
