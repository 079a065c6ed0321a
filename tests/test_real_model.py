"""The pipeline on a real model: SmolLM2-135M-Instruct, 30 blocks, three query heads to a group.

The reference is the source in the library's own class, with values in the place of context vectors.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import attn_surgery
from fits import export_with_any, random_fits
from transformers import AutoTokenizer, LlamaForCausalLM

import surgery
from benchmarks.real.base import make_base
from benchmarks.real.text import COUNTS, cut_texts, read_rows
from evals.data import load_samples
from evals.run.lm_eval.running import Benchmarks
from evals.run.models import open_model
from surgery.loading import load_model
from surgery.selection import EditedHeads, parse_selection

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

BLOCKS, HEADS, GROUPS, SIZE, WIDTH = 30, 9, 3, 64, 576
PASSAGES = 120
EDIT = (
    *parse_selection("5,26-29", "identity", BLOCKS, HEADS),
    EditedHeads(12, (4,), "zero"),
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "base"
    make_base(folder)
    return folder


@pytest.fixture(scope="session")
def edited(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "edited"
    plan = export_with_any(base, EDIT, folder).plan
    assert plan.layout == "stock"
    return folder


def make_reference(base: Path) -> Any:
    """The base with groups that attend to themselves alone, and a head that is a constant."""
    model = load_model(base)
    (fit,) = random_fits([12], HEADS, WIDTH, SIZE).values()
    for part in EDIT:
        attention = model.model.layers[part.block].self_attn
        out, columns = attention.o_proj, [range(h * SIZE, (h + 1) * SIZE) for h in part.heads]
        if part.variant == "mean":
            (head,) = part.heads
            weight = out.weight.data[:, columns[0]]
            constant = weight.double() @ torch.from_numpy(fit.mean[head]).double()
            out.bias = torch.nn.Parameter(constant.float())
            weight.zero_()
            out.weight.data[:, columns[0]] = weight
            continue
        seen: list[torch.Tensor] = []
        attention.v_proj.register_forward_hook(lambda m, a, v, seen=seen: seen.append(v))

        def put(
            module: Any, args: Any, part: EditedHeads = part, seen: Any = seen
        ) -> tuple[torch.Tensor]:
            values = seen.pop()
            each = values.view(*values.shape[:2], GROUPS, SIZE)
            z = args[0].view(*values.shape[:2], HEADS, SIZE).clone()
            for head in part.heads:
                z[:, :, head] = each[:, :, head // (HEADS // GROUPS)]
            return (z.view_as(args[0]),)

        out.register_forward_pre_hook(put)
    return model


def test_inspect(base: Path, edited: Path) -> None:
    facts = attn_surgery("inspect", base, "--json").json
    assert (facts["family"], facts["num_blocks"], facts["dtype"]) == ("llama", BLOCKS, "F32")
    assert facts["parameters"] == 134_515_008
    assert facts["attention_free"] == {}
    found = attn_surgery("inspect", edited, "--json").json["attention_free"]
    assert {block: found[block] for block in ("26", "29")} == {"26": "identity", "29": "identity"}


def test_verify(base: Path, edited: Path) -> None:
    assert attn_surgery("verify", edited, "--source", base, "--json").json["ok"]


def test_the_edited_folder_equals_the_reference(base: Path, edited: Path) -> None:
    """Bit for bit, as the stock class loads it; and it says the same, padded and cached."""
    model, reference = load_model(edited), make_reference(base)
    assert type(model) is LlamaForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(base)
    text = "The museum opened in 1902, and most of what it shows was found nearby. Visitors enter"
    ids = tokenizer([text], return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, reference(ids).logits)
    padded = torch.cat([torch.zeros_like(ids[:, :5]), ids], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 5).long()[None]
    ways = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 2, "eos_token_id": None}
    said = [m.generate(padded, attention_mask=mask, **ways) for m in (model, reference)]
    assert torch.equal(*said)
    with torch.inference_mode():
        assert not torch.equal(model(ids).logits, load_model(base)(ids).logits)


def test_texts_are_cut_once(base: Path, tmp_path: Path) -> None:
    """Passages, controls, benchmark and texts have no row in common; `extract` reads them."""
    topics = [f"Chapter {n}. " + f"The {n} rivers of region {n} ran dry. " * 20 for n in range(900)]
    pages = [topics[n] + topics[-1 - n] for n in range(0, 300, 4)]  # neighbors: some hold others
    topics += [f"{n}. {page}" for n, page in enumerate(pages)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": topic}) + "\n" for topic in topics))
    tokenizer = AutoTokenizer.from_pretrained(base)
    cut_texts(read_rows(source), tokenizer, tmp_path, PASSAGES, seed=0)
    samples = load_samples(str(tmp_path / "records.jsonl"), tokenizer=tokenizer)
    assert int(samples.trained_on.sum()) == PASSAGES == len(samples) // 2
    assert set(samples.counts[samples.trained_on]) == set(COUNTS)
    beginnings = [tokenizer.decode(row) for row in samples.tokens]
    measured = (tmp_path / "heldout.txt").read_text() + (tmp_path / "calibration.txt").read_text()
    for name in ("other", "reference", "later", "lambada"):
        measured += "\n\n".join(row["text"] for row in read_rows(tmp_path / f"{name}.jsonl"))
    assert [text for text in beginnings if text in measured] == []
    other = {row["text"] for row in read_rows(tmp_path / "other.jsonl")}
    kept = (tmp_path / "heldout.txt").read_text() + (tmp_path / "lambada.jsonl").read_text()
    assert other.intersection(topics)
    assert [text for text in other if any(part in kept for part in text.split("Chapter")[1:])] == []
    few = tmp_path / "few.jsonl"
    few.write_text("".join(source.read_text().splitlines(keepends=True)[:300]))
    with pytest.raises(SystemExit, match="too few texts"):
        cut_texts(read_rows(few), tokenizer, tmp_path, PASSAGES, seed=0)


def test_it_copies_words_that_stand_in_no_text(base: Path) -> None:
    """What the task `induction` measures: nearly all with attention, few without some of it."""
    suite = Benchmarks.load(["induction"], limit=40)
    early = surgery.apply(load_model(base), "3-8")
    opened = open_model(str(base))
    right = []
    for model in (opened.model, early):
        run = suite.run("induction", replace(opened, model=model), batch_size=8)
        right.append(suite.scores("induction", run)["acc"].value)
    assert right[0] > 0.75
    assert right[1] < 0.25
