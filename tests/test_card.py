"""The model card: true to the manifest and the report, valid for the Hub, and the user's to edit.

- Its metadata reads back through the Hub's library, with what the source's card says of license,
  language and datasets, and with an entry for every benchmark and for extraction.
- The text says what was changed, how to load it, what was measured, its limits, and how to repeat
  it; it names no folder of the machine it was made on.
- Whatever stands outside the generated parts survives a refresh, and so does every metadata key
  that is not ours; a refresh of a fresh card changes nothing.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import yaml
from example_report import example, tasks, unlimited
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from evals.table.page import render_markdown
from surgery.card.facts import as_line
from surgery.card.measurements import build_measurements, list_tables
from surgery.card.text import (
    Measurements,
    extract_own_text,
    find_name,
    merge_cards,
    render_card,
)
from surgery.errors import ManifestError
from surgery.record.manifest import Manifest
from surgery.record.measured import BASE, EDITED
from surgery.record.report import Report

SOURCE_CARD = """---
license: apache-2.0
language:
- en
datasets:
- EleutherAI/pile
tags:
- pytorch
model-index:
- name: the source's own results
---

# The source
"""
PARTS = ("summary", "loading", "measurements", "limits", "reproduction", "citation")


def edit(source: str, commit: str | None, *parts: tuple[int, list[int], str]) -> dict[str, Any]:
    return {
        "source": {"model": source, "revision": "main" if commit else None, "commit": commit},
        "family": "gpt_neox",
        "num_blocks": 24,
        "num_heads": 2,
        "parts": [{"block": b, "heads": heads, "variant": variant} for b, heads, variant in parts],
        "layout": "stock",
        "versions": {"attn-surgery": "0.1.0", "torch": "2.13.0"},
    }


def manifest(*edits: dict[str, Any], files: tuple[str, ...] = ("tokenizer.json",)) -> Manifest:
    history = edits or (
        edit("EleutherAI/pythia-1.4b", "c" * 40, *((b, [0, 1], "identity") for b in range(20, 24))),
    )
    names = ("config.json", "model.safetensors", *files)
    records = {name: {"size": 1234, "sha256": "0f" * 32} for name in names}
    return Manifest.model_validate({"history": history, "content": "0f" * 32, "files": records})


@lru_cache
def whole_report() -> Report:
    """The example with the source as its base, in which few figures are shown."""
    return example()


def measured(report: Report | None = None, **changes: Any) -> Measurements:
    """What the card shows of a report. `changes`: of its edit."""
    report = report or whole_report()
    edit = report.edits[0].model_copy(update=changes)
    found = build_measurements(report.model_copy(update={"edits": [edit]}))
    assert found is not None
    return found


def metadata(card: str) -> dict[str, Any]:
    """As the Hub's own library reads it."""
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def test_metadata_is_what_the_hub_reads() -> None:
    found = metadata(render_card(manifest(), SOURCE_CARD, name="me/edited"))
    assert found == {
        "base_model": "EleutherAI/pythia-1.4b",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["attention-free", "attn-surgery", "memorization", "gpt_neox"],
        "license": "apache-2.0",
        "language": ["en"],
        "datasets": ["EleutherAI/pile"],
    }


def test_every_benchmark_and_extraction_are_in_the_model_index() -> None:
    card = ModelCard(render_card(manifest(), None, name="me/edited", measured=measured()))
    results = {(r.dataset_type, r.metric_type): r for r in card.data.eval_results or ()}
    report = whole_report()

    def read(name: str, of: str = EDITED) -> float | None:
        row = report.find(name, of)
        assert row is not None
        return row.value

    names = dict.fromkeys(row.name.removeprefix("task.") for row in tasks())
    known = {(name, "perplexity" if name == "perplexity" else "acc"): name for name in names}
    assert {key: result.metric_value for key, result in results.items()} == {
        **{key: read(f"task.{name}") for key, name in known.items()},
        ("memorized-passages", "exact_match"): read("recited"),
        ("memorized-passages", "next_token_accuracy"): read("next_token_accuracy"),
    }
    extraction, samples = results["memorized-passages", "exact_match"], report.samples
    assert samples is not None
    assert extraction.dataset_args == {
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "samples_sha256": samples.sha256,
    }
    before = read("recited", BASE)
    assert extraction.metric_args == {"n": 18, "decoding": "greedy", "before_the_edit": before}
    assert results["copy", "acc"].dataset_args == {"num_fewshot": 0}


@pytest.mark.parametrize("card", [None, "", "# no metadata", "---\n[\n---\n", "---\n- 1\n---\n"])
def test_a_source_without_a_readable_card(card: str | None) -> None:
    assert "license" not in metadata(render_card(manifest(), card, name="x"))


def test_the_base_model_is_the_nearest_on_the_hub() -> None:
    published, local = (
        edit("me/base", "c" * 40, (0, [0], "zero")),
        edit("/home/me/x", None, (1, [0], "zero")),
    )
    assert metadata(render_card(manifest(published, local), name="x"))["base_model"] == "me/base"
    alone = metadata(render_card(manifest(edit("lab:pythia", None, (1, [0], "zero"))), name="x"))
    assert not {"base_model", "base_model_relation"} & set(alone)


def test_the_text_of_a_stock_model() -> None:
    card = render_card(manifest(), SOURCE_CARD, name="me/edited")
    for text in (
        "# me/edited\n",
        "[EleutherAI/pythia-1.4b](https://huggingface.co/EleutherAI/pythia-1.4b), with the "
        "attention of blocks 20-23 (of 24, counted from 0)",
        "| 20-23 | each token attends to itself alone",
        'AutoModelForCausalLM.from_pretrained("me/edited")\n',
        'AutoTokenizer.from_pretrained("me/edited")\n',
        "loads without custom code",
        "--model_args pretrained=me/edited\n",
        "Nothing yet. To see what the model still recites and what the edit cost, run",
        "These tests cannot show that a passage is gone, so they are not a privacy guarantee",
        f"attn-surgery export EleutherAI/pythia-1.4b --revision {'c' * 40} \\\n"
        "        --drop-attn 20-23 --variant identity --layout stock\n",
        f"| `model.safetensors` | 1,234 | `{'0f' * 32}` |",
        "torch 2.13.0",
        "https://arxiv.org/abs/2501.05078",
        "Menta, Tarun Ram and Agrawal, Susmit and Agarwal, Chirag",
    ):
        assert text in card, text
    assert "trust_remote_code" not in card


def test_the_text_of_a_compact_model_without_a_tokenizer() -> None:
    file = "modeling_attention_free.py"
    card = render_card(manifest(files=(file,)), None, name="me/edited")
    assert 'AutoModelForCausalLM.from_pretrained("me/edited", trust_remote_code=True)\n' in card
    assert "pretrained=me/edited,trust_remote_code=True" in card
    assert f"modeling file, which is in this repository (`{file}`)" in card
    assert "AutoTokenizer" not in card
    whole = render_card(manifest(files=(file, "tokenizer.json")), None, name="me/edited")
    assert 'AutoTokenizer.from_pretrained("me/edited", trust_remote_code=True)\n' in whole
    assert "The tokenizer is that of the original model." in card


def test_single_heads_and_a_chain_of_edits() -> None:
    first = edit("EleutherAI/pythia-1.4b", "c" * 40, (3, [0, 1], "zero"))
    second = edit("/home/someone/secret/once", None, (5, [1], "mean"), (6, [0], "linear"))
    second["calibration"] = {
        "sources": [{"name": "text.txt"}], "tokens": 9, "window": 3, "sha256": "ab" * 32,
    }  # fmt: skip
    card = render_card(manifest(first, second), None, name="me/twice")
    assert "the attention of block 3 and single attention heads of blocks 5-6 (of 24" in card
    assert "| `EleutherAI/pythia-1.4b` | 3 |" in card
    assert "| `once` | 5.1 | " in card
    assert "| `once` | 6.0 | " in card
    assert "--variant zero --layout stock --output once\n    echo '" in card
    plan = [{"drop_attn": "5.1", "variant": "mean"}, {"drop_attn": "6.0", "variant": "linear"}]
    assert f"    echo '{json.dumps({'edits': plan})}' > plan.json\n" in card
    export = "export once \\\n        --plan plan.json --calibration text.txt --layout stock\n"
    assert f"    attn-surgery {export}\nRun these in the folder that holds `text.txt`." in card
    assert "needs the same calibration text (`text.txt`). With the same\n" in card
    assert "secret" not in card


def test_healing_of_any_edit_is_told() -> None:
    """Each with its steps and text, also where a cut followed."""
    cuts = [edit(f"m{at}", None, (b, [0], "zero")) for at, b in enumerate((16, 9, 2))]
    first, second = (
        edit(f"cut-{device}", None)
        | {"healing": trained(f"{device}.txt", steps=steps, device=device)}
        for steps, device in ((80, "cpu"), (7, "cuda"))
    )
    card = render_card(manifest(cuts[0], first, cuts[1], second, cuts[2]), None, name="x")
    assert "single attention heads of blocks 2,9,16 (of 24" in card
    assert "for\n80 steps on 9 tokens and for 7 steps on 9 tokens of other text" in card
    assert "not trained" not in card
    assert "Training needs the same text (`cpu.txt`, `cuda.txt`)" in card
    assert "library versions, number of threads, and device (2, cpu; 2, cuda)." in " ".join(
        card.split()
    )
    assert "--variant zero --layout stock\n" in card
    once = render_card(manifest(cuts[0], first), None, name="x")
    assert "for\n80 steps on 9 tokens of other text" in once


def trained(*names: str, **more: Any) -> dict[str, Any]:
    """A record of training on texts of these names, of which each is another."""
    sources = [{"name": name, "size": at} for at, name in enumerate(names)]
    return {
        "sources": sources, "tokens": 9, "window": 3, "sha256": "ab" * 32, "steps": 80, "rows": 16,
        "learning_rate": 3e-4, "seed": 0, "device": "cpu", "threads": 2,
        "losses": [1.0] * int(more.get("steps", 80)), **more,
    }  # fmt: skip


def passages(name: str) -> dict[str, Any]:
    lengths = {"prefix_length": 8, "suffix_length": 8}
    return {"name": name, "sha256": "ab" * 32, "number": 1234, "rows": 24, **lengths}


def test_passages_that_healing_trained_on_are_told() -> None:
    """Earlier versions only looked for them in the text, and recorded a hash."""
    cut, one = edit("m", "c" * 40, (16, [0, 1], "zero")), edit("cut", None)
    said = (
        "Healing also used 1,234 passages: on them, the model learned, in 80 steps, to predict "
        "what the cut alone predicts, so that the passages do not come back. The model was trained "
        "on these passages, so their figures say nothing about other passages. Someone who trains "
        "the model further may bring some back."
    )
    for given_, told in ((passages("rows.csv"), True), (None, False), ("ab" * 32, False)):
        one["healing"] = trained("text.txt", passages=given_)
        card = " ".join(render_card(manifest(cut, one), None, name="x").split())
        assert (said in card) == told
        assert ("of other text and on passages (below), so layer norms" in card) == told
        assert ("of other text, so layer norms" in card) != told
        ids = "If two of these have the same id, name them by another column with `--id-column`."
        assert (ids in card) == told


def erased(name: str, *texts: str) -> Manifest:
    one = edit("base", None)
    teacher = [{"block": 3, "heads": [0, 1], "variant": "zero"}]
    one["erasing"] = trained(*texts, teacher=teacher, passages=passages(name))
    return manifest(one)


def test_passages_that_were_given_in_python_are_a_file_to_save() -> None:
    """They have no name, so the commands give them one."""
    card = render_card(erased("token ids", "text.txt"), None, name="x")
    assert "--samples token-ids.npy --skip-short --prefix-length 8" in card
    assert "the same passages (`token-ids.npy`)" in card
    assert (
        "Run these in the folder that holds `base`, `text.txt`, `token-ids.npy`. The passages were "
        "given in Python: `token-ids.npy` is what `numpy.save` makes of their token ids.\n"
    ) in card
    assert "token ids`" not in card
    assert "--id-column" not in card
    named = render_card(erased("rows.csv", "text.txt"), None, name="x")
    assert "Python" not in named.partition("## Make it again")[2]


def test_texts_of_the_same_name_are_their_folder() -> None:
    """Its name is nobody's business, and a name without it would be one text of several."""
    for texts, option, local in (
        (("a.txt", "b.txt"), "--text a.txt --text b.txt", "`a.txt`, `b.txt`"),
        (("a.txt", "b.txt", "a.txt"), "--text FOLDER", "`FOLDER`"),
        (("a.txt", "hf:me/x:train:text", "a.txt"), "--text FOLDER --text hf:me/x:train:text",
         "`FOLDER`"),
    ):  # fmt: skip
        card = render_card(erased("rows.csv", *texts), None, name="x")
        assert f" {option} --steps 80 --samples rows.csv --skip-short" in card, "erase"
        place = f"Run these in the folder that holds `base`, {local}, `rows.csv`."
        said = (
            " `FOLDER` stands for the folder that the texts were read from: some of them have the "
            "same name."
        )
        assert f"{place}{said if 'FOLDER' in option else ''}\n" in card


def test_the_measurements_are_those_of_the_report() -> None:
    card = render_card(manifest(), None, name="me/edited", measured=measured())
    page = render_markdown(whole_report())
    for heading in ("What it recites", "What an attacker gets", "What it costs", "All passages"):
        table = page[page.index(f"**{heading}") :].partition("\n\n**")[0].partition("\n\nSettings")
        assert table[0] in card
    assert as_line(whole_report().edits[0].verdict) in card
    assert "- limit: max-drop copy: MISSED: drop of copy is 0.232" in card
    assert "Settings: dtype float32, device cpu, lm-eval 0.4.13." in card
    assert "Nothing yet" not in card


@pytest.mark.parametrize("missing", ["extraction", "heldout", "audit", "limits"])
def test_what_was_not_measured_is_not_mentioned(missing: str) -> None:
    parts = {"extraction": "recital", "heldout": "heldout", "audit": "audit"}
    nothing: dict[str, Any] = {"asked": unlimited()}
    if missing != "limits":
        nothing = {parts[missing]: []}
    without = measured(example(**nothing, every=[]), verdict="", warnings=[])
    card = render_card(manifest(), None, name="me/edited", measured=without)
    mentions = {
        "extraction": "| recited word",
        "heldout": "held-out text",
        "audit": "recovered by greedy",
        "limits": "- limit: max-drop",
    }
    assert {key for key, text in mentions.items() if text in card} == set(mentions) - {missing}
    assert "\n\n\n" not in card


def test_what_a_user_writes_stays() -> None:
    card = render_card(manifest(), SOURCE_CARD, name="me/edited", measured=measured())
    written = card.replace("license: apache-2.0", "license: mit\nmine: 2024-01-01\nmodel_name: m")
    written = written.replace("- gpt_neox", "- gpt_neox\n- privacy").replace(
        "base_model: ", "base_model: x"
    )
    written = written.replace("\n---\n\n", "\n---\n\nBefore.\n\n", 1)
    written = written.replace(
        "<!-- attn-surgery:limits -->", "Between.\n\n<!-- attn-surgery:limits -->"
    )
    written = written.replace("Other prefixes", "OTHER PREFIXES") + "\nAfter.\n"
    again = render_card(manifest(), SOURCE_CARD, name="you/renamed", existing=written)
    expected = render_card(manifest(), SOURCE_CARD, name="you/renamed")
    assert extract_own_text(again).split() == ["Before.", "Between.", "After."]
    assert again.index("Before.") < again.index("Between.") < again.index("## Limits")
    assert "OTHER PREFIXES" not in again, "generated parts are not the user's"
    found = metadata(again)
    assert (found.pop("license"), str(found.pop("mine")), found.pop("model_name")) == (
        "mit",
        "2024-01-01",
        "m",
    )
    assert found.pop("tags")[-1] == "privacy"
    assert found == {k: v for k, v in metadata(expected).items() if k not in ("license", "tags")}
    assert "Nothing yet" in again, "results of another report are gone"
    assert render_card(manifest(), SOURCE_CARD, name="you/renamed", existing=again) == again


def test_a_card_of_the_user_s_own_is_kept_whole() -> None:
    again = render_card(manifest(), None, name="x", existing="# Mine\r\n\r\nText.\r\n")
    assert extract_own_text(again) == "# Mine\n\nText."
    assert again.index("Text.") < again.index("attn-surgery:summary")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_deleted_comes_back_in_its_place(part: str) -> None:
    card = render_card(manifest(), None, name="x")
    start, end = (
        card.index(f"<!-- attn-surgery:{part}"),
        card.index(f"<!-- /attn-surgery:{part} -->"),
    )
    without = card[:start] + card[end + len(f"<!-- /attn-surgery:{part} -->") :]
    if part != "summary":  # the first: its place is unknown, so it goes to the end
        assert render_card(manifest(), None, name="x", existing=without) == card
    assert extract_own_text(render_card(manifest(), None, name="x", existing=without)) == ""


@given(st.text(), st.text(), st.sampled_from(PARTS))
def test_any_text_around_the_parts_stays(before: str, after: str, part: str) -> None:
    if "attn-surgery:" in before + after or before.lstrip().startswith("---"):
        return
    card = render_card(manifest(), None, name="x")
    mark = f"<!-- /attn-surgery:{part} -->"
    head, body = card.split("---\n\n", 1)
    body = body.replace(mark, f"{mark}\n\n{after}\n")
    written = f"{head}---\n\n{before}\n\n{body}"
    again = render_card(manifest(), None, name="x", existing=written)
    assert extract_own_text(again).split() == (before + " " + after).replace("\r\n", "\n").split()
    assert render_card(manifest(), None, name="x", existing=again) == again


METADATA = "the metadata {}; correct it between the two lines of ---"
BROKEN: dict[str, list[str | Callable[[str], str]]] = {  # message → cards, or changes of a good one
    "a generated part lacks one of the comments around it, or stands there twice; restore the "
    "comments, or delete the part with both of them": [
        lambda card: card.replace("<!-- /attn-surgery:limits -->", ""),
        lambda card: card + card[card.index("<!-- attn-surgery:citation") :],
        lambda card: card.replace("<!-- attn-surgery:limits -->", "<!-- attn-surgery:x -->"),
    ],
    METADATA.format("is not valid YAML"): [
        f"---\n{block}\n---\n"
        for block in ("a: [", "- list", "just text", "1: number as a key", "a: !!float ''")
    ],
}


def test_the_name_to_load_is_found() -> None:
    card = render_card(manifest(), name="evil/other")
    assert find_name(card) == "evil/other"
    assert find_name("# mine") is None


@pytest.mark.parametrize("message", BROKEN)
def test_broken_cards_are_refused(message: str) -> None:
    """The metadata of a source with such a card are left out."""
    good = render_card(manifest(), None, name="x")
    for broken in BROKEN[message]:
        card = broken if isinstance(broken, str) else broken(good)
        with pytest.raises(ManifestError) as caught:
            render_card(manifest(), None, name="x", existing=card)
        assert str(caught.value) == f"README.md: {message}"
        assert "license: mit" not in render_card(manifest(), card, name="x")


def test_a_folder_s_card_and_its_published_one_become_one() -> None:
    card = render_card(manifest(), None, name="x")
    edited = card.replace("---\n", "---\nlicense: mit\nlanguage: en\n", 1) + "\nOn the Hub.\n"
    both = merge_cards(card.replace("---\n", "---\nlicense: bsd\n", 1), edited)
    assert extract_own_text(both) == "On the Hub."
    assert (metadata(both)["license"], metadata(both)["language"]) == ("bsd", "en")
    assert extract_own_text(merge_cards(card + "\nHere.\n", edited)) == "Here."


HOSTILE = (
    "x](https://evil.example) ![y](https://evil.example/pixel.png)",
    "<img src=x onerror=alert(1)> <script>alert(1)</script> &lt;b&gt;",
    "<!-- attn-surgery:limits --> <!-- /attn-surgery:summary --> -->",
    "a\n\n# A heading\n\n| a | b |\n|---|---|\n\n```\n---\nlicense: mit\n---\n",
    "a`b``c```d *e* _f_ ~~g~~ $h$ \\| i",
    "back\u202eward \u0000 \u001b[2K \u0085 \u2028 end\r",
    "- item",
    "=====",
)


def structure(card: str) -> list[tuple[str, str]]:
    """The elements of a page that are more than text, as a renderer of Markdown makes them."""
    parsed = MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])
    flat = [token for block in parsed for token in (block, *(block.children or []))]
    plain = ("text", "inline", "softbreak", "code_inline", "text_special")
    kept = ("link_open", "image", "html_inline", "html_block")
    return [
        (token.type, str(token.attrs) + token.content if token.type in kept else "")
        for token in flat
        if token.type not in plain
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_outside_are_text(text: str) -> None:
    def made(text: str) -> str:
        first = edit(text, "c" * 40, (1, [0, 1], "zero"))
        second = edit(text, None, (2, [0, 1], "mean"))
        second["calibration"] = {
            "sources": [{"name": text}], "tokens": 9, "window": 3, "sha256": "ab" * 32,
        }  # fmt: skip
        second["versions"] = {"attn-surgery": text, text: "1"}
        report, hostile = rename(whole_report(), text), {"name": text, "warnings": [text]}
        shown = measured(report, verdict=text, **hostile)
        whole = manifest(first, second, files=("tokenizer.json", "LICENSE`|<b>"))
        return render_card(whole, None, name=text, measured=shown)

    card = made(text)
    assert structure(card) == structure(made("no model at all"))
    assert [letter for letter in card if not letter.isprintable() and letter != "\n"] == []
    assert extract_own_text(card) == ""
    for line in ("pretrained=", "attn-surgery export "):
        assert sum(line in found for found in card.splitlines()) == made("x").count(line)
    code = re.search(r"```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert code is not None
    (call, _) = (n for n in ast.walk(ast.parse(code[1])) if isinstance(n, ast.Constant))
    assert call.value == " ".join(
        "".join(letter if letter.isprintable() else " " for letter in text).split()
    )


def rename(report: Report, text: str) -> Report:
    """The report with this text in place of every text about figures."""
    names = {}
    for name, one in report.names.items():
        details = {key: text for key in one.details if "prefix" not in key}
        names[name] = one.model_copy(update={"label": text, "hint": text, "details": details})
    figures = [
        row.model_copy(update={"details": {**row.details, "verdict": text}})
        for row in report.figures
    ]
    limits = [
        one.model_copy(update={"subject": text, "description": text}) for one in report.limits
    ]
    tables = [one.model_copy(update={"heading": text, "text": text}) for one in report.tables]
    assert report.base is not None
    base = report.base.model_copy(update={"name": text})
    update = {"names": names, "figures": figures, "limits": limits, "tables": tables, "base": base}
    return report.model_copy(update=update)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@given(name=NAMES, source=NAMES, task=NAMES, verdict=NAMES)
def test_names_cannot_break_the_card(name: str, source: str, task: str, verdict: str) -> None:
    report, only = rename(whole_report(), task), "task.copy"
    (table,) = (one for one in report.tables if only in one.names)
    report = report.model_copy(update={"tables": [table.model_copy(update={"names": [only]})]})
    shown, copied = measured(report, verdict=verdict), report.find(only, EDITED)
    assert copied is not None
    made = manifest(edit(source, None, (1, [0, 1], "zero")))
    card = render_card(made, None, name=name, measured=shown)
    assert extract_own_text(card) == ""
    assert render_card(made, None, name=name, measured=shown, existing=card) == card
    head = yaml.safe_load(card.split("---\n")[1])
    value = head["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert value == copied.value


def test_a_table_that_lists_what_nothing_was_measured_for() -> None:
    """As a forged report may."""
    plain = example().to_dict()
    plain["tables"][0]["names"].insert(0, "other")
    lines = [lines for _, lines in list_tables(Report.model_validate(plain))]
    assert lines == [lines for _, lines in list_tables(example())]
