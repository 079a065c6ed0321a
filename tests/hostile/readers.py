"""Every reader of foreign files, with a small valid file to begin from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from example_grid import searched
from example_report import example
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from cli.commands.whole.mitigate import command as mitigate
from evals.data import load_samples
from evals.jobs.materials import read_search
from hostile.victims import model
from surgery.card.facts import gather_facts
from surgery.card.measurements import build_measurements
from surgery.card.text import extract_own_text, merge_cards, read_card, render_card
from surgery.checkpoint import open_checkpoint
from surgery.errors import OutputError, SourceError
from surgery.loading import load_tokenizer
from surgery.plan import make_plan
from surgery.reading.corpus import open_corpus, read_windows
from surgery.record.manifest import read_manifest
from surgery.record.plan_file import read_plan_file
from surgery.record.report import Report
from surgery.selection import parse_selection
from surgery.untrusted import parse_json, read_bytes, reraise_as

ROWS = [{"tokens": list(range(i, i + 20)), "id": f"row-{i}", "count": i} for i in range(4)]
TEXTS = [{"text": TEXT[20 * i :], "id": i, "member": i > 0} for i in range(3)]
PAIRS = [{"prefix": "the quick brown fox", "suffix": " jumps over the lazy dog"}] * 2


@dataclass(frozen=True)
class Reader:
    """`read` takes the file at `path`, whose valid content is `content`.

    `form`: how it is made hostile (`hostile.fuzz`); `share`: of all inputs, about.
    """

    path: Path
    content: bytes
    read: Callable[[Path], object]
    form: str = "json"
    share: float = 1.0


Read = Callable[[Path], object]
RECIPE = b"""model: lab:pythia
max-extraction: 0.01
variant: [zero, mean]
max-evaluations: 64
attack: [cheap, relearn]
max: ["any=0.02"]
max-drop: ["lab_copy=0.05"]
"""


def make_readers(folder: Path) -> dict[str, Reader]:
    """All of them, each with a place of its own below `folder`."""
    source = model(folder / "source")
    sharded = model(folder / "sharded", num_shards=2)
    edited = surgery.export(source, "1", output=folder / "edited", layout="compact").output

    def at(path: Path, read: Read, form: str = "json", share: float = 1.0) -> Reader:
        return Reader(path, path.read_bytes(), read, form, share)

    def of(name: str, content: bytes, read: Read, form: str = "json", share: float = 1.0) -> Reader:
        return Reader(folder / name, content, read, form, share)

    plan = {
        "schema_version": 1,
        "edits": [{"drop_attn": "0,1.0", "variant": "zero"}],
        "provenance": {"by": "hand"},
    }
    return {
        "config.json": at(source / "config.json", read_source, share=2),
        "config.json, compact": at(edited / "config.json", read_source, share=2),
        "surgery.json": at(edited / "surgery.json", read_edit, share=2),
        "README.md": at(edited / "README.md", read_cards, "card", 0.3),
        "model.safetensors.index.json": at(sharded / "model.safetensors.index.json", read_source),
        "model.safetensors": at(source / "model.safetensors", read_source, "safetensors", 2),
        "tokenizer.json": at(folder / "source" / "tokenizer.json", read_tokenizer, share=0.3),
        "tokenizer_config.json": at(source / "tokenizer_config.json", read_tokenizer, share=0.3),
        "samples .npy": of("samples.npy", make_npy(), read_passages, "bytes", 2),
        "samples .jsonl, ids": of("ids.jsonl", dump_lines(ROWS), read_passages, "lines"),
        "samples .jsonl, text": of("texts.jsonl", dump_lines(TEXTS), read_passages, "lines"),
        "samples .jsonl, pairs": of("pairs.jsonl", dump_lines(PAIRS), read_passages, "lines"),
        "corpus .txt": of("corpus.txt", TEXT.encode(), read_corpus, "bytes", 0.5),
        "corpus .jsonl": of("corpus.jsonl", dump_lines(TEXTS), read_corpus, "lines"),
        "plan.json": of("plan.json", dump(plan), read_plan),
        "search.json (--front)": of("search.json", dump(searched().to_dict()), read_search),
        "recipe.yaml": of("recipe.yaml", RECIPE, read_recipe, "bytes"),
        "report.json": of("report.json", dump(example().to_dict()), read_published, share=0.3),
        "block specification": of("spec.txt", b"0,1.0-1,last:1,-2", read_specification, "bytes"),
    }


def read_source(path: Path) -> object:
    """As inspect, export and verify read a source."""
    surgery.inspect(path.parent)
    opened = open_checkpoint(path.parent)
    make_plan(opened.config, opened.tensors, "0")
    return [opened.read(name) for name in opened.tensors]


def read_edit(path: Path) -> object:
    """As verify, evaluate and the card read one."""
    found = read_manifest(path.parent)
    assert found is not None
    return (
        gather_facts(found, "some"),
        read_source(path),
        surgery.verify(path.parent),
    )


def read_cards(path: Path) -> object:
    """As export and push read one, of a source and of the folder's own."""
    found, text = read_manifest(path.parent), read_card(path.parent)
    assert found is not None
    assert text is not None
    made = render_card(found, name="some", existing=text)
    return extract_own_text(text), merge_cards(text, made), render_card(found, text, name="some")


def read_tokenizer(path: Path) -> object:
    return load_tokenizer(path.parent)


def read_passages(path: Path) -> object:
    """As extract reads samples."""
    found = load_samples(str(path), tokenizer=tiny_tokenizer(), prefix_length=4, suffix_length=4)
    return found.sha256


def read_corpus(path: Path) -> object:
    return list(read_windows(open_corpus([path]), tiny_tokenizer(), 8, 8))


def read_recipe(path: Path) -> object:
    """As `mitigate --recipe` takes it; an option's wrong value is an error of usage."""
    try:
        return mitigate.make_context("mitigate", ["--recipe", str(path), "--output", "out"]).params
    except click.UsageError as error:
        raise SourceError(error.format_message()) from None


def read_plan(path: Path) -> object:
    return read_plan_file(path).make_selection(2, 2)


def read_specification(path: Path) -> object:
    return parse_selection(path.read_text("utf-8", "surrogateescape"), "zero", 4, 2)


def read_published(path: Path) -> object:
    """As push reads a report."""
    with reraise_as(OutputError, "is no report", path):
        report = Report.model_validate(parse_json(read_bytes(path, OutputError)))
    return len(report.edits) == 1 and build_measurements(report)


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def dump_lines(rows: list[Mapping[str, Any]]) -> bytes:
    return b"".join(dump(row) + b"\n" for row in rows)


def make_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(60, dtype=np.uint16).reshape(4, 15))
    return file.getvalue()
