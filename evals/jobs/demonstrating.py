"""The demo: a lab model edited in two ways or three, and what each of the models writes.

It takes a third of the planted records and part of the held-out text, so that it is quick.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.record.plan_file import PlanFile
    from surgery.record.report import Report

MODEL = "lab:pythia"
BLOCKS = "last:2"
SEARCH: dict[str, Any] = {
    "max_extraction": 0.01,
    "choose": 0.25,
    "grain": "blocks",
    "max_evaluations": 6,
}
MEASURED: dict[str, Any] = {"tasks": ("lab_copy",), "attack": ("cheap", "relearn"), "draws": 1}
PLACES = {"deep blocks": "deep-blocks", "searched": "searched"}
"""Each edit, and its folder in the output."""
ERASED = {"erased and cut": "erased-cut"}
"""The third edit, if it is asked for: the searched cut, of a model taught by it before."""
_RECORDS, _TEXT, _SEARCH, _TAUGHT = "records.jsonl", "heldout.txt", "search", "erased"
_EVERY = 3  # of the planted records
_LETTERS = 20_000  # of held-out text: about 130 windows
_SHOWN = 2  # records whose text is shown: they are synthetic, so nobody's


def run_demo(
    output: Path,
    *,
    erase: bool = False,
    overwrite: bool = False,
    announce: Callable[[str, list[str]], None] = lambda title, commands: None,
) -> Report:
    """Edits `MODEL` twice, its deep blocks and what a search chooses, and evaluates both.

    With `erase`, also a third time: the records erased by the searched cut, then the same cut.
    Each part appears in `output` when it is complete, and a part that is there is not made again.
    `announce` gets the title of each step, and the commands that do the same. Raises
    `SurgeryError`.
    """
    from evals.choose.search.request import SearchRequest
    from evals.jobs.asking import MeasureRequest
    from evals.jobs.evaluating import evaluate_exports
    from evals.jobs.materials import open_materials
    from evals.jobs.searching import search
    from surgery.hub.finding import find_model
    from surgery.output import check_output

    if overwrite or not _holds_records(output):
        check_output(output, _list_owned, overwrite=overwrite)
    texts: dict[str, Any] = {"samples": str(output / _RECORDS), "heldout": (output / _TEXT,)}
    _write_texts(output)
    compared = {"command": "evaluate", "models": (MODEL,), "baseline": MODEL}
    asked = MeasureRequest.of(compared, **texts, **MEASURED)
    materials = open_materials(asked)
    deep, chosen = (output / place for place in PLACES.values())
    found = output / _SEARCH
    announce("Edit the deep blocks", [_type("export", MODEL, drop_attn=BLOCKS, output=deep)])
    _cut(MODEL, deep, overwrite, drop_attn=BLOCKS)
    announce(
        "Search for the edit that costs least",
        [
            _type("search", MODEL, **texts, **SEARCH, output=found),
            _type("export", MODEL, plan=found / "plan.json", output=chosen),
        ],
    )
    _, plan = search(SearchRequest.of(texts, model=MODEL, **SEARCH), found, overwrite=overwrite)
    _cut(MODEL, chosen, overwrite, plan=plan)
    exports = [output / place for place in list_places(erase).values()]
    if erase:
        taught, file = output / _TAUGHT, found / "plan.json"
        records = texts["samples"]
        announce(
            "Erase the records by the searched cut, then make the same cut",
            [
                _type("erase", MODEL, plan=file, samples=records, output=taught),
                _type("export", taught, plan=file, calibration=MODEL, output=exports[-1]),
            ],
        )
        _erase(taught, plan, records, overwrite)
        _cut(str(taught), exports[-1], overwrite, plan=plan, calibration=(MODEL,))
    announce(
        "Verify, attack, and evaluate them, on what the search did not use",
        [_type("evaluate", made, baseline=MODEL, **texts, **MEASURED) for made in exports],
    )
    materials = materials.with_search(found / "search.json")
    return evaluate_exports(find_model(MODEL), materials, exports)[1].report


def _cut(model: str, output: Path, overwrite: bool, **edit: Any) -> None:
    from evals.jobs.exporting import ExportRequest, open_export

    open_export(ExportRequest.of(edit, model=model, output=output, overwrite=overwrite)).run()


def _erase(output: Path, plan: PlanFile, samples: str, overwrite: bool) -> None:
    """Teaches the model by the searched cut."""
    from evals.jobs.erasing import EraseRequest, open_erase

    given: dict[str, Any] = {"plan": plan, "samples": samples, "output": output}
    open_erase(EraseRequest.of(given, model=MODEL, overwrite=overwrite)).run()


def list_places(erase: bool) -> dict[str, str]:
    """The edits of a demo, as `PLACES`."""
    return {**PLACES, **ERASED} if erase else PLACES


def _type(*words: object, **options: Any) -> str:
    """A command as you would type it."""
    from surgery.card.command import spell

    given = {
        f"--{name.replace('_', '-')}": value if isinstance(value, tuple) else [value]
        for name, value in options.items()
    }
    typed = spell(given, ("--max-evaluations", "--draws"))
    return shlex.join(["attn-surgery", *map(str, words), *typed])


def _write_texts(output: Path) -> None:
    """Writes some of the records, and the beginning of the held-out text."""
    from evals.lab import heldout_texts
    from surgery.output import write_lines, write_text

    write_lines(output / _RECORDS, _choose_records(), overwrite=True)
    write_text(output / _TEXT, "\n\n".join(heldout_texts())[:_LETTERS], overwrite=True)


def _choose_records() -> list[str]:
    """A third of the lab's records, as lines of JSON."""
    from evals.lab import samples_path

    records = samples_path(MODEL.partition(":")[2]).read_text(encoding="utf-8")
    return records.splitlines()[1::_EVERY]


def _holds_records(folder: Path) -> bool:
    """Whether the records of a demo, and no one else's, are there."""
    if not (folder / _RECORDS).is_file():
        return False
    return (folder / _RECORDS).read_text(errors="replace").splitlines() == _choose_records()


def _list_owned(folder: Path) -> list[str]:
    """What an earlier demo wrote there."""
    from evals.jobs.searching import owned as owned_by_search
    from surgery.exporting import list_owned

    exports = dict.fromkeys((*list_places(erase=True).values(), _TAUGHT), list_owned)
    parts = {**exports, _SEARCH: owned_by_search}
    owned = [f"{part}/{name}" for part, known in parts.items() for name in known(folder / part)]
    if not owned and not _holds_records(folder):
        return []  # these names may be yours, too
    return [_RECORDS, _TEXT, *owned]


def compare_texts(output: Path, places: dict[str, str]) -> dict[str, Any]:
    """What base and the edited models of `places` make of some planted records and ordinary text.

    As `evals.jobs.comparing.compare`, with texts.
    """
    import numpy as np

    from evals.data import Samples, load_samples
    from evals.jobs.comparing import CompareRequest, compare_passages, open_models
    from evals.lab import heldout_texts
    from evals.measure.memorization.extraction import extract

    edited, records = tuple(str(output / place) for place in places.values()), output / _RECORDS
    request = CompareRequest.of(base=MODEL, edited=edited, samples=str(records), show_text=True)
    models = open_models(request)
    samples = load_samples(str(records), tokenizer=models[0].tokenizer)
    recited = extract(models[0].model, samples).exact.nonzero()[0][:_SHOWN]
    ordinary = models[0].tokenizer(heldout_texts()[0])["input_ids"][: samples.tokens.shape[1]]
    texts = Samples(
        tokens=np.asarray([*samples.tokens[recited], ordinary], dtype=np.int32),
        prefix_length=samples.prefix_length,
        ids=(*(f"record {samples.ids[row]}" for row in recited), "ordinary text"),
        source=samples.source,
    )
    rows = compare_passages(models, texts, request)
    return {"models": [loaded.name for loaded in models], "rows": rows}
