"""The lab keeps these promises.

Its models load in the stock classes with no weight missing, mismatched or left over, and are
stored as the Hub repositories they stand for: names, dtypes, buffers, configuration keys. Its
records come from the generator, are 64 tokens each, and survive the tokenizer. They are recited
the more the oftener they were planted, and hardly ever when they were not; the models predict
text they never saw far better than counting does. Training that was stopped goes on as if not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sysconfig
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab.architecture import CONFIGS, CONTEXT, make_model, publish
from benchmarks.lab.measure import find_extracted, mean_loss, rates_by_count
from benchmarks.lab.packing import fold_rows, pack_rows
from benchmarks.lab.records import (
    COUNTS,
    DEEP_COUNTS,
    LENGTH,
    draw_records,
    plant_otherwise,
    read_records,
    write_records,
)
from benchmarks.lab.train import train
from benchmarks.lab.training_texts import training_files, training_texts
from evals.lab import (
    CALIBRATION_FILES,
    HELDOUT_FILES,
    LAB_MODELS,
    calibration_texts,
    find_lab_folder,
    heldout_texts,
    samples_path,
)
from surgery.errors import SamplesError
from surgery.loading import load_model

MOST_BYTES = 12_000_000

SMALL: dict[str, dict[str, object]] = {
    "pythia": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    },
    "gpt-neo": {
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
        "hidden_size": 32,
        "num_heads": 2,
        "num_layers": 2,
    },
}


@cache
def lab_tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(find_lab_folder(name))


def stored(name: str) -> dict[str, torch.Tensor]:
    with safe_open(find_lab_folder(name) / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def config(name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((find_lab_folder(name) / "config.json").read_text())
    return loaded


@pytest.mark.parametrize("name", LAB_MODELS)
def test_loads_in_the_stock_class(name: str) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(
        find_lab_folder(name), output_loading_info=True
    )
    assert [type(model).__name__] == config(name)["architectures"]
    assert model.dtype == (torch.float16 if name == "pythia" else torch.float32)
    assert not any(report[kind] for kind in ("missing_keys", "mismatched_keys", "error_msgs"))
    # The library names GPT-Neo's mask buffers as unexpected, in the Hub's repositories as here.
    masks = {
        key
        for key in stored(name)
        if key.endswith((".attn.attention.bias", ".attn.attention.masked_bias"))
    }
    assert set(report["unexpected_keys"]) <= masks


@pytest.mark.parametrize("name", LAB_MODELS)
def test_tokenizer_loads_without_a_word(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        tokenizer = AutoTokenizer.from_pretrained(find_lab_folder(name))
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert caplog.messages == []
    assert tokenizer.eos_token_id == config(name)["eos_token_id"] == 0


@pytest.mark.parametrize(("name", "like"), [("pythia", neox_config), ("gpt-neo", neo_config)])
def test_a_model_is_stored_as_on_the_hub(name: str, like: Callable[[], dict[str, Any]]) -> None:
    tensors, settings = stored(name), config(name)
    more = {key for key in settings if key.startswith("summary_")}
    assert set(settings) == set(like()) | more
    assert len(more) == (5 if name == "gpt-neo" else 0)
    expected = make_tensors(settings)
    expected.pop("lm_head.weight", None)  # tied
    assert set(tensors) == set(expected)
    for key, tensor in tensors.items():
        assert tensor.shape == expected[key].shape, key
        if key.endswith("attention.bias"):
            assert tensor.dtype == (torch.bool if name == "pythia" else torch.uint8)
            assert torch.equal(tensor.bool(), expected[key]), key
        else:
            assert tensor.dtype == expected[key].dtype, key


def test_both_models_together_are_small() -> None:
    files = [find_lab_folder(name) / "model.safetensors" for name in LAB_MODELS]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


@pytest.mark.parametrize("name", LAB_MODELS)
@given(text=st.text(st.characters(codec="ascii")))
def test_tokenizer_round_trip(name: str, text: str) -> None:
    tokenizer = lab_tokenizer(name)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


@pytest.mark.parametrize("name", LAB_MODELS)
def test_records_come_from_the_generator(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_lab_folder(name))
    records = read_records(samples_path(name))
    drawn = draw_records(lambda text: list(tokenizer(text)["input_ids"]), tokenizer.decode)
    assert drawn == records
    assert {len(record.tokens) for record in records} == {LENGTH}
    assert all(record.member == (record.count > 0) for record in records)
    by_count = Counter(record.count for record in records if record.member)
    assert set(by_count) == set(COUNTS)
    assert len(set(by_count.values())) == 1
    assert len({record.tokens[: LENGTH // 2] for record in records}) == len(records)
    assert len({record.id for record in records}) == len(records)


def test_the_deep_model_has_some_of_them_planted_less_often(tmp_path: Path) -> None:
    """Always the same: the hash is that of the records of the model in the documents."""
    records = plant_otherwise(read_records(samples_path("pythia")))
    counts = Counter(record.count for record in records)
    assert counts == {0: 60, **dict.fromkeys(DEEP_COUNTS, 40)}
    write_records(tmp_path / "records.jsonl", records)
    found = hashlib.sha256((tmp_path / "records.jsonl").read_bytes()).hexdigest()
    assert found == "3d171a1b5576baf3bd7c664ae263931abdee325b5476fd229f049a0fc16698ed"


def test_another_seed_gives_other_records() -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_lab_folder("pythia"))
    first, second = (
        draw_records(lambda text: list(tokenizer(text)["input_ids"]), tokenizer.decode, seed)
        for seed in (1, 2)
    )
    assert not {record.tokens for record in first} & {record.tokens for record in second}


def test_damaged_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": "contact-008-00"}\n')
    with pytest.raises(SamplesError, match=r"records\.jsonl: cannot read the lab's records"):
        read_records(path)


def test_heldout_files_are_never_trained_on() -> None:
    training = set(training_files())
    assert not training & set(HELDOUT_FILES)
    assert not set(HELDOUT_FILES) & set(CALIBRATION_FILES)
    library = Path(sysconfig.get_path("stdlib"))
    for names in (HELDOUT_FILES, CALIBRATION_FILES):
        assert all((library / name).is_file() for name in names)
    assert set(CALIBRATION_FILES) <= training
    texts = set(training_texts())
    assert not texts & set(heldout_texts())
    assert set(calibration_texts()) <= texts


def test_a_python_without_sources_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    for read, purpose in (
        (heldout_texts, "held-out"),
        (calibration_texts, "calibration"),
        (training_texts, "training"),
    ):
        with pytest.raises(SamplesError) as raised:
            read()
        assert f"{tmp_path}: no {purpose} text found" in str(raised.value)


def test_every_record_is_planted_whole_as_often_as_it_should() -> None:
    documents = [list(range(100, 150)), list(range(150, 400))]
    records = [(tuple(range(1, 9)), 12), (tuple(range(11, 19)), 3)]
    rows = pack_rows(documents, records, num_rows=20, row_length=40, seed=0)
    assert rows.shape == (20, 40)
    for tokens, count in records:
        windows = np.lib.stride_tricks.sliding_window_view(rows, len(tokens), axis=1)
        assert (windows == tokens).all(-1).sum() == count
        assert (rows == tokens[0]).sum() == count
        # evenly: as many in the first half of the run as in the second, give or take one
        found = (windows[:10] == tokens).all(-1).sum()
        assert abs(found - count / 2) <= 1
    assert np.array_equal(rows, pack_rows(documents, records, 20, 40, seed=0))
    assert not np.array_equal(rows, pack_rows(documents, records, 20, 40, seed=1))


def test_too_many_records_for_the_run_is_an_error() -> None:
    with pytest.raises(SamplesError, match="train for more steps"):
        pack_rows([[1, 2, 3]], [((5,) * 8, 10)], num_rows=2, row_length=20, seed=0)


def load(name: str) -> Any:
    return load_model(find_lab_folder(name), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAB_MODELS)
def test_recitation_rises_with_count(name: str) -> None:
    records = read_records(samples_path(name))
    rates = rates_by_count(records, find_extracted(load(name), records))
    assert rates[0] <= 0.02
    assert rates[8] <= 0.05
    assert rates[256] >= 0.7
    assert rates[256] >= rates[128] >= rates[32] > rates[8] + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", LAB_MODELS)
def test_heldout_loss_is_far_below_that_of_counting_pairs_of_tokens(name: str) -> None:
    """Both as nats per token; evals/lab/README.md has what this prints."""
    tokenizer = lab_tokenizer(name)
    rows = np.asarray(fold_rows(tokenizer(heldout_texts())["input_ids"], CONTEXT))
    pairs = np.zeros((len(tokenizer), len(tokenizer)))
    for ids in tokenizer(training_texts())["input_ids"]:
        np.add.at(pairs, (ids[:-1], ids[1:]), 1)
    # Where few pairs were seen, the frequency of the second token alone counts.
    alone = (pairs.sum(0) + 1) / (pairs.sum() + len(pairs))
    likely = (pairs + 100 * alone) / (pairs.sum(1, keepdims=True) + 100)
    counting = float(-np.log(likely[rows[:, :-1], rows[:, 1:]]).mean())
    loss = mean_loss(load(name), rows)
    print(f"{name}: {loss:.3f}; counting pairs of tokens: {counting:.2f}")
    assert loss < counting - 0.5


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("name", LAB_MODELS)
def test_a_stopped_training_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.lab.train.CHECKPOINT_EVERY", 2)
    monkeypatch.setitem(CONFIGS, name, {**CONFIGS[name], **SMALL[name]})
    batches = np.random.default_rng(0).integers(0, 1_000, (4, 2, 16))

    def stop() -> None:
        raise KeyboardInterrupt

    whole, stopped, resumed = (make_model(name, seed=0) for _ in range(3))
    train(whole, batches, tmp_path / "whole.pt", resume=False, checkpoint=lambda: None)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, batches, tmp_path / "state.pt", resume=False, checkpoint=stop)
    train(resumed, batches, tmp_path / "state.pt", resume=True, checkpoint=lambda: None)
    for key, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[key]), key
    assert not torch.equal(
        whole.get_input_embeddings().weight, stopped.get_input_embeddings().weight
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_published_weights_are_the_trained_ones(name: str, tmp_path: Path) -> None:
    model = make_model(name, seed=0)
    publish(model, name, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for key, weight in model.named_parameters():
        assert torch.equal(weight.to(loaded.dtype), loaded.get_parameter(key)), key
    assert [path.name for path in tmp_path.glob("*.partial")] == []
