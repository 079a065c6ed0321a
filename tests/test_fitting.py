"""Contract: fitted variants are least squares on calibration text, streamed, and deterministic.

The maps equal an obvious solution over all activations at once. Of several edited blocks each is
fitted on the inputs it sees after the earlier edits. `export --variant linear --calibration FILE`
records the text's hash and each block's R². Text that cannot be used is one clear line.
"""

from __future__ import annotations

import errno
import gzip
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import attn_surgery
from fits import random_fits
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import by_threads
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.errors import CheckpointError, OutputError
from surgery.families import Dimensions
from surgery.fitting import fitter
from surgery.fitting.calibration import ROWS, Calibration, make_calibration, open_calibration
from surgery.fitting.fitter import Fitter, KeptFits
from surgery.fitting.moments import RIDGES, Moments, count_bytes, fit_moments
from surgery.fitting.some_blocks import find_layers
from surgery.loading import load_model
from surgery.reading.sources import find_sources
from surgery.record.manifest import read_manifest
from surgery.selection import parse_selection
from surgery.variants import Fit

WINDOW, HEADS, D = 32, 2, 64
SIZES = {"max_position_embeddings": WINDOW, "vocab_size": 400}
DIMENSIONS = Dimensions(4, HEADS, D, 400, WINDOW, HEADS, D // HEADS)
WORDS = ["fox", "dog", "values", "return", "quick", "box", "liquor", "in", "for", "five", "def"]


def text(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def calibration(words: int = 1500, **options: Any) -> Calibration:
    found = make_calibration([text(words), TEXT], name="words")
    return found.tokenize(tiny_tokenizer(), DIMENSIONS, **options)


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = getattr(request, "param", neox_config)(torch_dtype="float32", **SIZES)
    folder = write_checkpoint(tmp_path / "source", config)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def fit_rows(x: Any, z: Any, train: Any, heads: int = 1, groups: int | None = None) -> Fit:
    """What `fit_moments` makes of x [n, d] and z [n, c], `train` [n]: rows of the first sums."""
    context = z.shape[1]
    sums = [Moments(x.shape[1], torch.device("cpu"), context=context) for _ in range(2)]
    for half, rows in zip(sums, (train, ~train), strict=True):
        for start in range(0, len(x), 70):  # in pieces, as text arrives
            part = np.flatnonzero(rows)[start : start + 70]
            half.add(torch.from_numpy(x[part]), torch.from_numpy(z[part]))
    return fit_moments(*sums, heads, groups)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(30, 200), st.integers(0, 2**31))
def test_moments_give_ridge_regression(d: int, n: int, seed: int) -> None:
    """Against the normal equations of all rows at once, for the penalty that was chosen."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, d)) + draw.normal(size=d)
    z = x @ draw.normal(size=(d, d)) + draw.normal(size=(n, d))
    cut = n * 4 // 5
    found = fit_rows(x, z, np.arange(n) < cut)

    def solved(x: Any, z: Any, ridge: float) -> tuple[Any, Any]:
        xc, zc = x - x.mean(0), z - z.mean(0)
        penalty = ridge * np.trace(xc.T @ xc / len(x)) / d * np.eye(d)
        weight = np.linalg.solve(xc.T @ xc / len(x) + penalty, xc.T @ zc / len(x)).T
        return weight, z.mean(0) - weight @ x.mean(0)

    scores = {}
    for ridge in RIDGES:
        weight, bias = solved(x[:cut], z[:cut], ridge)
        errors = z[cut:] - x[cut:] @ weight.T - bias
        scores[ridge] = 1 - (errors**2).sum() / ((z[cut:] - z[:cut].mean(0)) ** 2).sum()
    assert found.r2 == pytest.approx(scores[found.ridge], abs=1e-6)
    assert found.r2 == pytest.approx(max(scores.values()), abs=1e-6)
    weight, bias = solved(x, z, found.ridge)
    np.testing.assert_allclose(found.weight[0], weight, atol=1e-4)
    np.testing.assert_allclose(found.bias[0], bias, atol=1e-4)
    np.testing.assert_allclose(found.mean[0], z.mean(0), atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_what_a_shared_map_loses_is_measured(noise: float) -> None:
    """6 heads of 2 in 2 groups: R² of the mean of each group's maps, on the same held-out rows."""
    draw, (n, d, heads, size, groups) = np.random.default_rng(3), (400, 7, 6, 2, 2)
    x = draw.normal(size=(n, d)) + 1
    own = draw.normal(size=(heads, size, d)) * noise + draw.normal(size=(1, size, d))
    means = noise * draw.normal(size=(heads, size))
    z = (np.einsum("hsd,nd->nhs", own, x) + means).reshape(n, -1) + draw.normal(size=(n, 12)) * 0.1
    train = np.arange(n) % 5 != 4
    found = fit_rows(x, z, train, heads, groups)
    held, center = ~train, z[train].mean(0)
    covariance = np.cov(x[train].T, bias=True)
    ridge = found.ridge * np.trace(covariance) / d * np.eye(d)
    cross = (x[train] - x[train].mean(0)).T @ (z[train] - center) / train.sum()
    weight = np.linalg.solve(covariance + ridge, cross).T
    bias = center - weight @ x[train].mean(0)

    def share(values: Any) -> Any:
        split = values.reshape(groups, heads // groups, size, -1)
        return np.broadcast_to(split.mean(1, keepdims=True), split.shape).reshape(values.shape)

    errors = z[held] - x[held] @ share(weight).T - share(bias)
    spread = ((z[held] - center) ** 2).sum()
    assert found.r2_shared == pytest.approx(1 - (errors**2).sum() / spread, abs=1e-9)
    assert fit_rows(x, z, train, heads).r2_shared is None
    assert found.r2 is not None
    assert (found.r2 - found.r2_shared < 0.001) == (noise == 0)


@torch.no_grad()
def activations(model: Any, block: int, text: Calibration) -> tuple[Any, Any]:
    """x and z of a block over all text, each [tokens, d], with hooks of this test's own."""
    if model.config.model_type == "gpt_neox":
        attention = model.gpt_neox.layers[block].attention
        first, last = attention.query_key_value, attention.dense
    else:
        attention = model.transformer.h[block].attn.attention
        first, last = attention.v_proj, attention.out_proj
    seen: list[list[torch.Tensor]] = [[], []]
    hooks = [
        module.register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0]))
        for module, kept in zip((first, last), seen, strict=True)
    ]
    for batch in text.batches():
        model(torch.from_numpy(batch.astype(np.int64)), use_cache=False)
    for hook in hooks:
        hook.remove()
    x, z = (torch.cat([part.flatten(0, 1) for part in kept]).double().numpy() for kept in seen)
    return x, z


@pytest.mark.parametrize("source", [neox_config, neo_config], indirect=True)
def test_fits_are_of_the_inputs_after_earlier_edits(source: Path) -> None:
    model, words = load_model(source), calibration()
    selection = parse_selection("1,3", "mean", 4, HEADS)
    fits = Fitter(model, words).fit(selection)
    assert list(fits) == [1, 3]
    _, z = activations(model, 1, words)
    np.testing.assert_allclose(fits[1].mean.reshape(-1), z.mean(0), atol=1e-5)
    _, unedited = activations(model, 3, words)
    with surgery.short_circuit(model, selection[:1], fits=fits):
        _, z = activations(model, 3, words)
    np.testing.assert_allclose(fits[3].mean.reshape(-1), z.mean(0), atol=1e-5)
    assert np.abs(z.mean(0) - unedited.mean(0)).max() > 1e-3
    alone = Fitter(model, words).fit(parse_selection("3", "mean", 4, HEADS))
    np.testing.assert_allclose(alone[3].mean.reshape(-1), unedited.mean(0), atol=1e-5)


def assert_same(found: dict[int, Fit], expected: dict[int, Fit]) -> None:
    """To the last bit."""
    assert list(found) == list(expected)
    for block in found:
        for name in ("mean", "weight", "bias", "ridge", "r2", "r2_shared"):
            one, other = getattr(found[block], name), getattr(expected[block], name)
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name


def block_calls(model: Any) -> list[int]:
    """Grows by the number of every block that begins to run."""
    called: list[int] = []
    for number, layer in enumerate(find_layers(model)):
        layer.register_forward_pre_hook(lambda m, args, number=number: called.append(number))
    return called


@pytest.mark.parametrize("group", [1, 3, 4])
@pytest.mark.parametrize("source", [neox_config, neo_config], indirect=True)
def test_all_blocks_in_one_pass_equal_one_by_one(
    source: Path, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks' sums fit into memory: no block runs twice."""
    monkeypatch.setattr(fitter, "_ROOM", group * count_bytes(D))
    model, words = load_model(source), calibration()
    called = block_calls(model)
    together = Fitter(model, words)
    found = together.fit_alone(range(4), ["linear", "identity"])
    batches = len(list(words.batches()))
    ended = range(group, 4, group)  # a group's pass ends where the next one begins
    assert sorted(called) == sorted([*range(4), *ended] * batches)
    called.clear()
    again = {b: together.fit(parse_selection(str(b), "linear", 4, HEADS))[b] for b in range(4)}
    assert_same(again, found)
    assert not called, "all were known"
    for block in range(4):
        single = Fitter(model, words).fit(parse_selection(str(block), "linear", 4, HEADS))
        assert_same(single, {block: found[block]})
        assert found[block].ridge in RIDGES
        assert found[block].r2 <= 1


@pytest.mark.parametrize("source", [neox_config, neo_config], indirect=True)
def test_several_blocks_are_one_walk(source: Path) -> None:
    """As whole passes with every edit below in force give it, and each fitted block runs twice."""
    model, words = load_model(source), calibration()
    selection = (*parse_selection("0,2", "linear", 4, HEADS), *parse_selection("3", "mean", 4, 2))
    called = block_calls(model)
    found = Fitter(model, words, layout="compact").fit(selection)
    batches = len(list(words.batches()))
    assert len(called) <= (4 + 2) * batches
    for part in selection:
        below = tuple(other for other in selection if other.block < part.block)
        edit: Any = nullcontext()
        if below:
            edit = surgery.short_circuit(model, below, layout="compact", fits=found)
        with edit:
            x, z = activations(model, part.block, words)
        expected = fit_rows(x, z, (np.arange(len(x)) // WINDOW + 1) % 5 != 0, HEADS)
        np.testing.assert_allclose(found[part.block].mean, expected.mean, atol=1e-6)
        if part.variant == "linear":
            np.testing.assert_allclose(found[part.block].weight, expected.weight, atol=1e-4)
    again = Fitter(model, words, layout="compact")
    again.fit(selection[:2])
    assert_same(again.fit(selection), found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (neox_config, 3),
        (neo_config, 2),
        pytest.param(neox_config, 2, marks=pytest.mark.slow),
        pytest.param(neo_config, 3, marks=pytest.mark.slow),
    ],
    indirect=["source"],
)
def test_processes_share_the_text_and_fit_as_one(
    source: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, and each sees its share of the windows."""
    monkeypatch.setattr(fitter, "_ROOM", 2 * count_bytes(D))  # states of two passes are kept
    words, models = calibration(), [load_model(source) for _ in range(count)]
    selection = (*parse_selection("0,2", "linear", 4, HEADS), *parse_selection("3", "mean", 4, 2))

    def fitted(rank: int) -> tuple[dict[int, Fit], dict[int, Fit], int]:
        model = models[rank]
        called = block_calls(model)
        fits = Fitter(model, words, layout="compact")
        alone = fits.fit_alone(range(4), ["linear"])
        return alone, fits.fit(selection), called.count(0)

    one = fitted(0)
    shared = by_threads(count, fitted)
    for found in shared:
        assert_same(found[0], one[0])
        assert_same(found[1], one[1])
    assert sum(calls for *_, calls in shared) == one[2]
    assert max(calls for *_, calls in shared) < one[2]


def test_a_mean_costs_a_mean(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No products are summed for it, and it is the same beside a map."""
    model = load_model(source)
    selection = parse_selection("1,3.0", "mean", 4, HEADS)
    beside = Fitter(model, calibration())
    beside.fit_alone(range(4), ["mean", "linear"])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "addmm_", None)
        alone = Fitter(model, calibration())
        found = alone.fit(selection)
        alone.fit_alone(range(4), ["mean"])
    assert all(fit.weight is None for fit in found.values())
    assert_same(beside.fit(selection), found)


def test_fits_are_kept_within_bounds() -> None:
    """The longest unused go first; what somebody still holds stays whole."""
    fits = random_fits(range(3), 2, 8)
    kept = KeptFits(room=2 * fits[0].weight.nbytes)
    held = [kept.put(block, fit) for block, fit in fits.items() if block < 2]
    assert kept.get(0) is held[0]
    kept.put(2, fits[2])
    assert kept.get(1) is None
    assert kept.get(0) is not None
    assert kept.get(2) is not None
    np.testing.assert_array_equal(held[1].weight, fits[1].weight)
    assert isinstance(held[1].weight.base, np.memmap)


def test_no_file_is_seen_or_left(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "room"))
    monkeypatch.setattr(fitter, "_ROOM", 1)
    seen: list[str] = []
    watch = lambda tokens: seen.extend(p.name for p in (tmp_path / "room").iterdir())  # noqa: E731
    found = Fitter(load_model(source), calibration(), advance=watch).fit_alone([0, 2], ["linear"])
    assert len(found) == 2
    assert not [*seen, *(tmp_path / "room").iterdir()]


def test_no_room_for_fits(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("surgery.fitting.passes.tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match=r"no room for fits .*no space left .*set TMPDIR"):
        Fitter(load_model(source), calibration()).fit_alone([0], ["linear"])


@pytest.mark.parametrize("source", [neox_config, neo_config], indirect=True)
def test_offloaded_blocks_are_fitted_as_others(source: Path, tmp_path: Path) -> None:
    """Every weight waits on the disk, and comes back for its turn."""
    whole = load_model(source)
    model = disk_offload(load_model(source), tmp_path / "disk", torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    words = calibration()
    assert_same(
        Fitter(model, words).fit_alone(range(4), ["linear"]),
        Fitter(whole, words).fit_alone(range(4), ["linear"]),
    )
    several = parse_selection("0,2", "linear", 4, HEADS)
    one, other = (Fitter(which, words, layout="compact").fit(several) for which in (model, whole))
    assert_same(one, other)


def test_sums_on_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken on the CPU. The device here is torch's own for shapes alone."""
    device, empty = torch.device("meta"), torch.empty

    def limited(*shape: int, **options: Any) -> torch.Tensor:
        if options.get("device") == device and options.get("dtype") == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", limited)
    assert Moments(4, device).sums["z"].device == torch.device("cpu")


def test_attention_that_is_not_finite(source: Path) -> None:
    model = load_model(source)
    with torch.no_grad():
        model.gpt_neox.layers[1].attention.query_key_value.bias.fill_(float("nan"))
    for variant in ("mean", "linear"):
        with pytest.raises(CheckpointError, match=r"not finite .*float32"):
            Fitter(model, calibration()).fit_alone([1], [variant])


def test_only_fitted_variants_need_a_fit(source: Path) -> None:
    selection = parse_selection("0-3", "zero", 4, HEADS)
    assert Fitter(load_model(source), calibration()).fit(selection) == {}


def test_an_extension_is_the_same_in_capitals(tmp_path: Path) -> None:
    """Else a table would be one document, with its header, ids, and quotes."""
    tokenizer, rows = tiny_tokenizer(), [{"id": at, "text": text(300, at)} for at in range(4)]
    for name in ("rows.jsonl", "ROWS.JSONL"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = gzip.compress((tmp_path / "rows.jsonl").read_bytes())
    (tmp_path / "PACKED.JSONL.GZ").write_bytes(packed)
    found = [
        open_calibration([tmp_path / name]).tokenize(tokenizer, DIMENSIONS).windows
        for name in ("rows.jsonl", "ROWS.JSONL", "PACKED.JSONL.GZ")
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "B.TXT"):
        (tmp_path / "folder" / name).write_text(name)
    assert [one.name for one in find_sources(tmp_path / "folder")] == ["B.TXT", "a.txt"]


def test_windows_stream_over_documents(tmp_path: Path) -> None:
    """Documents follow one another with an end-of-text token between them; the rest is left out."""
    tokenizer = tiny_tokenizer()
    texts = [text(300), text(500, 1), text(700, 2)]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    cut = open_calibration([path]).tokenize(tokenizer, DIMENSIONS)
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    whole = np.concatenate([[*part, tokenizer.eos_token_id] for part in ids])
    batches = list(cut.batches())
    assert all(len(batch) == ROWS for batch in batches[:-1])
    found = np.concatenate(batches).reshape(-1)
    assert np.array_equal(found, whole[: len(found)])
    assert len(whole) - len(found) < WINDOW + 1
    assert np.array_equal(np.concatenate(list(cut.batches())).reshape(-1), found), "read again"


def test_every_text_has_its_share() -> None:
    """A limit takes as much of every text as of the others, as long as it lasts."""
    texts = [text(100), text(2000, 1), text(3000, 2)]
    tokenizer = tiny_tokenizer()
    all_there_is = make_calibration(texts, name="t")
    few = all_there_is.tokenize(tokenizer, DIMENSIONS, most_tokens=25 * WINDOW + 5)
    found = np.concatenate(list(few.batches()))
    ids = [np.asarray(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
    short = len(ids[0]) // WINDOW
    assert 0 < short < 8
    second = (25 - short) // 2
    expected = [
        ids[0][: short * WINDOW],
        ids[1][: second * WINDOW],
        ids[2][: (25 - short - second) * WINDOW],
    ]
    assert np.array_equal(found.reshape(-1), np.concatenate(expected))


@pytest.mark.parametrize("variant", ["mean", "linear"])
def test_export_end_to_end(source: Path, tmp_path: Path, variant: str) -> None:
    path = tmp_path / "calibration.txt"
    path.write_text(text(2000))
    arguments = ("--drop-attn", "1,3.0", "--variant", variant, "--calibration", path)
    for name in ("a", "b"):
        done = attn_surgery("export", source, *arguments, "--output", tmp_path / name, "--json")
        assert done.code == 0, done.stderr
    record = done.json["calibration"]
    assert [part["name"] for part in record["sources"]] == ["calibration.txt"]
    assert set(record["blocks"]) == {"1", "3"}
    for block in record["blocks"].values():
        assert -1 < block["r2"] <= 1 if variant == "linear" else set(block.values()) == {None}
    assert (tmp_path / "a/surgery.json").read_bytes() == (tmp_path / "b/surgery.json").read_bytes()
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None
    assert manifest.step.calibration is not None
    words = open_calibration([path]).tokenize(tiny_tokenizer(), DIMENSIONS)
    assert manifest.step.calibration.sha256 == words.record({}).sha256
    assert manifest.step.calibration.sources[0].sha256 is not None
    assert attn_surgery("verify", tmp_path / "a", "--source", source).code == 0
    surgery.export(source, "1,3.0", variant=variant, calibration=[path], output=tmp_path / "python")
    assert (tmp_path / "python" / "model.safetensors").read_bytes() == (
        tmp_path / "a" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_lab_model_brings_its_own_text(tmp_path: Path) -> None:
    """A trained block adds much that can be told from the token alone, and much that cannot."""
    done = attn_surgery(
        "export", "lab:pythia", "--drop-attn", "1", "--variant", "linear",
        "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert [part["name"] for part in done.json["calibration"]["sources"]] == [
        "lab calibration text"
    ]
    assert 0.1 < done.json["calibration"]["blocks"]["1"]["r2"] < 0.9


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "too little text (expected at least 320 tokens, got fewer than 32)"),
        (b"a few words", "too little text"),
    ],
)
def test_text_that_cannot_be_used(source: Path, tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    done = attn_surgery(
        "export", source, "--drop-attn", "1", "--variant", "mean", "--calibration", path,
        "--output", tmp_path / "out",
    )  # fmt: skip
    done.assert_error("words.txt", text)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_plan_file_is_exported(tmp_path: Path) -> None:
    """What `search` writes: several variants in one checkpoint."""
    plan = tmp_path / "plan.json"
    edits = [
        {"drop_attn": "2", "variant": "linear"},
        {"drop_attn": "4.0-1", "variant": "mean"},
        {"drop_attn": "5", "variant": "zero"},
    ]
    plan.write_text(json.dumps({"schema_version": 1, "edits": edits}))
    out = tmp_path / "out"
    done = attn_surgery("export", "lab:pythia", "--plan", plan, "--output", out, "--json")
    assert done.code == 0, done.stderr
    assert done.json["variant"] == "mixed"
    assert [(p["block"], p["variant"]) for p in done.json["parts"]] == [
        (2, "linear"),
        (4, "mean"),
        (5, "zero"),
    ]
    assert attn_surgery("verify", out, "--source", "lab:pythia").code == 0


@given(st.sampled_from([0.0, 1.0, -3.7, 1e-30, 1e15]), st.booleans(), st.integers(0, 2**31))
def test_what_does_not_vary_has_no_r2(value: float, x_varies: bool, seed: int) -> None:
    """There is nothing to explain: the map is the mean, whatever rounding leaves of a variance."""
    draw, d = np.random.default_rng(seed), 5
    x = draw.normal(size=(50, d)) if x_varies else np.full((50, d), draw.normal())
    z = np.full((50, d), value) * draw.normal(size=d)
    found = fit_rows(x, z, np.arange(50) < 40)
    assert found.r2 is None
    assert not found.weight.any()
    np.testing.assert_allclose(found.bias[0], z[0], rtol=1e-6)
    np.testing.assert_allclose(found.mean[0], z[0], rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1e-12, 1e12])
def test_r2_is_never_above_one(factor: float) -> None:
    draw, d = np.random.default_rng(0), 6
    x = draw.normal(size=(500, d))
    z = factor * (x @ draw.normal(size=(d, d)))  # wholly a map of x
    found = fit_rows(x, z, np.arange(500) < 400)
    assert found.r2 is not None
    assert 1 - 1e-9 < found.r2 <= 1
