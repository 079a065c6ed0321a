"""Contract: what the benchmarks of attackers teach and test shares nothing that it must not.

Records to learn and records that stay unseen are apart, and no built-in model has seen them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab.records import KINDS, LENGTH, read_records
from benchmarks.private import choose_records, draw_unseen, make_private
from evals.lab import find_lab_folder, samples_path


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(find_lab_folder("pythia"))


def test_private_records_are_new(tokenizer) -> None:
    drawn = choose_records(draw_unseen(tokenizer), tokenizer)
    taught = {record.tokens[: LENGTH // 2] for record in read_records(samples_path("pythia"))}
    firsts = [record.tokens[: LENGTH // 2] for record in drawn if record.member]
    assert not taught & set(firsts)
    assert len({record.tokens for record in drawn}) == len(drawn)
    kinds = Counter((record.kind, record.member) for record in drawn)
    assert {kind for kind, _ in kinds} == set(KINDS)
    assert len({kinds[kind, True] for kind in KINDS}) == 1


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
