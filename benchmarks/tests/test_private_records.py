"""Contract: what the benchmarks of attackers teach and test shares nothing that it must not.

Records to learn and records that stay unseen are apart, and neither are the lab's. A kind that is
left out of a search is in none of its files.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.kinds import write_kinds
from benchmarks.knowing import choose_records
from benchmarks.lab.records import KINDS, LENGTH, read_records
from benchmarks.lengths import EACH, LEARNED, UNSEEN, join_records
from benchmarks.lengths import LENGTH as LONG
from benchmarks.private import draw_unseen, make_private
from evals.lab import find_lab_folder, samples_path


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(find_lab_folder("pythia"))


@pytest.mark.parametrize("choose", [choose_records, join_records])
def test_private_records_are_new(tokenizer, choose) -> None:
    drawn = choose(draw_unseen(tokenizer), tokenizer)
    taught = {record.tokens[: LENGTH // 2] for record in read_records(samples_path("pythia"))}
    firsts = [record.tokens[: LENGTH // 2] for record in drawn if record.member]
    assert not taught & set(firsts)
    assert len({record.tokens for record in drawn}) == len(drawn)
    kinds = Counter((record.kind, record.member) for record in drawn)
    assert {kind for kind, _ in kinds} == set(KINDS)
    assert len({kinds[kind, True] for kind in KINDS}) == 1


def test_long_passages_share_no_record(tokenizer) -> None:
    drawn = join_records(draw_unseen(tokenizer), tokenizer)
    assert len(drawn) == len(KINDS) * (LEARNED + UNSEEN)
    assert {len(record.tokens) for record in drawn} == {LONG}
    parts = [record.tokens[at : at + 32] for record in drawn for at in range(0, EACH * 64, 64)]
    assert len(set(parts)) == len(parts)
    assert sum(record.member for record in drawn) == len(KINDS) * LEARNED


def test_a_kind_that_is_left_out_is_in_one_file_alone(tmp_path) -> None:
    records = read_records(samples_path("pythia"))
    others, left_out = map(read_records, write_kinds(records, "key", tmp_path))
    assert {record.kind for record in left_out} == {"key"}
    assert {record.kind for record in others} == set(KINDS) - {"key"}
    assert len(others) + len(left_out) == len(records)
    assert {record.member for record in left_out} == {True, False}


def test_a_private_model_differs_from_the_public_one(tmp_path) -> None:
    folder = make_private("lab:gpt-neo", choose_records, 1, tmp_path)
    private, public = (
        AutoModelForCausalLM.from_pretrained(one)
        for one in (
            folder,
            find_lab_folder("gpt-neo"),
        )
    )
    changed = [
        name
        for name, weight in private.named_parameters()
        if not torch.equal(weight, public.get_parameter(name))
    ]
    assert len(changed) == len(list(private.named_parameters()))
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_private("lab:gpt-neo", choose_records, 1, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
