"""Contract of `evaluate A B …`: the figures of every report in one table, a column for each edit.

The base is measured once; each edit's report is the one that it gets alone.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from command_line import attn_surgery
from example_report import example, task
from local_tasks import write_tasks
from page_figures import assert_figures, parse
from tiny_tokenizer import TEXT, tiny_model, tiny_tokenizer

import surgery
from evals.evaluation.evaluation import Evaluation
from evals.evaluation.page import side_by_side_pages
from evals.evaluation.report import read_report
from evals.evaluation.side_by_side import FILES, side_by_side, write_side_by_side


def test_text_with_line_separators_is_written_as_it_is(tmp_path) -> None:
    text = "one line\u2028still\x85still\x1cstill"
    report = read_report(example(warnings=[text]))
    one = Evaluation(report, {}, {})
    beside = write_side_by_side({f"1-{text}": one, "2-second": one}, tmp_path)
    assert read_report(json.loads((tmp_path / "2-second" / "report.json").read_text())) == report
    assert json.loads((tmp_path / FILES[0]).read_text()) == beside.to_dict()


def two() -> dict[str, Any]:
    other = example(tasks={**example()["tasks"], "copy": task(0.934, 0.901)})
    return {"1-first": read_report(example()), "2-second": read_report(other)}


def test_every_figure_is_the_reports() -> None:
    reports = two()
    record = side_by_side(reports).to_dict()
    rows = {row["name"]: row for row in record["rows"]}
    first, second = (report.to_dict() for report in reports.values())
    shown = {
        "recited word for word": [
            one["extraction"]["exact_match"]["rate"] for one in (first, second)
        ],
        "recovered by greedy": [
            one["audit"]["attacks"][0]["edited"]["rate"] for one in (first, second)
        ],
        "held-out loss, nats per token": [
            one["heldout"]["edited"]["mean"] for one in (first, second)
        ],
        "perplexity, acc, lower is better": [61.77, 61.77],
        "copy, acc": [0.702, 0.901],
    }
    for name, values in shown.items():
        assert [cell["value"] for cell in rows[name]["edits"]] == values
    copy = rows["copy, acc"]
    assert (copy["base"], copy["n"]) == (0.934, first["tasks"]["copy"]["n"])
    assert copy["edits"][0]["ci95"] == list(first["tasks"]["copy"]["ci95"])
    assert [point["kind"] for point in record["points"]] == ["base", "edited", "edited"]
    page, text = side_by_side_pages(record)
    assert assert_figures(page, record) > 50
    names = [one.text for one in parse(page).xpath("//*[name()='text'][contains(@class, 'name')]")]
    assert sorted(names) == ["1", "2", "base"]
    for row in record["rows"]:
        assert f"| {row['name'].replace('_', chr(92) + '_').replace('~', chr(92) + '~')} |" in text
    links = parse(page).xpath("//h3/a/@href")
    assert links == ["1-first/report.html", "2-second/report.html"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("work")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for block in ("0", "1"):
        surgery.export(folder / "base", block, variant="zero", output=folder / f"block-{block}")
    write_tasks(folder / "tasks")
    (folder / "control.txt").write_text(TEXT)
    return folder


def test_a_column_for_each_edit(work, monkeypatch) -> None:
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(work / "cache"))
    edits, gate = [work / "block-0", work / "block-1"], ("--max-drop", "local_choice=1")
    common = ("--baseline", work / "base", "--tasks", "local_choice", *gate)
    common += ("--include-path", work / "tasks", "--control", work / "control.txt")
    done = attn_surgery("evaluate", *edits, *common, "--output", work / "both", "--json")
    assert done.code == 0, done
    names = [column["folder"] for column in done.json["columns"]]
    assert names == ["1-block-0", "2-block-1"]
    assert done.json["columns"][0]["drop_attn"] == "0"
    assert {path.name for path in (work / "both").iterdir()} == {
        *names, "config.yaml", "side-by-side.html", "side-by-side.json", "side-by-side.md",
    }  # fmt: skip
    alone = attn_surgery("evaluate", edits[1], *common, "--output", work / "alone", "--json").json
    together = read_report((work / "both" / "2-block-1" / "report.json").read_text()).to_dict()
    for report in (alone, together):
        del report["created"], report["provenance"]["baseline_from_cache"]
    assert together == alone
    refused = attn_surgery("evaluate", *edits, *common, "--output", work / "both")
    refused.assert_error("already exists")
    again = attn_surgery("evaluate", *edits, *common, "--output", work / "both", "--overwrite")
    assert again.code == 0
    assert "2-block-1" in again.stdout
    assert "side-by-side.html" in again.stdout


def test_a_missed_gate_names_its_model(work, monkeypatch) -> None:
    """The passages are what the second edit says: it recites them all."""
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(work / "cache"))
    edited = AutoModelForCausalLM.from_pretrained(work / "block-1")
    prefixes = torch.arange(10, 58).reshape(8, 6)
    said = edited.generate(prefixes, max_new_tokens=4, do_sample=False, pad_token_id=0)
    rows = [json.dumps({"id": str(n), "tokens": row}) for n, row in enumerate(said.tolist())]
    (work / "said.jsonl").write_text("\n".join(rows) + "\n")
    done = attn_surgery(
        "evaluate", work / "block-0", work / "block-1", "--baseline", work / "base",
        "--tasks", "local_choice", "--include-path", work / "tasks", "--max-extraction", 0,
        "--samples", work / "said.jsonl", "--prefix-length", 6, "--suffix-length", 4,
        "--output", work / "missed",
    )  # fmt: skip
    assert done.code == 3
    assert "block-1: gate failed: max-extraction" in done.stderr
    assert (work / "missed" / "side-by-side.json").is_file()


def test_a_revision_is_of_one_model(tmp_path) -> None:
    done = attn_surgery("evaluate", "a", "b", "--baseline", "c", "--revision", "main")
    assert done.code == 2
    assert "--revision is of one MODEL" in done.stderr
