"""The demo: a lab model edited in two ways, and what each of the models writes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.record.report import Report

MODEL = "lab:pythia"
BLOCKS = "last:2"
LIMIT = 0.01
ATTACKS = ("cheap", "relearn")
DRAWS = 1  # training takes long, and a demo is to be quick
PLACES = {"deep blocks": "deep-blocks", "searched": "searched"}
"""Each edit, and its folder in the output."""
_NUM_RECORDS = 2  # their text is shown: they are synthetic, so nobody's


def run_demo(
    output: Path,
    *,
    overwrite: bool = False,
    announce: Callable[[str, list[str]], None] = lambda title, commands: None,
) -> Report:
    """Edits `MODEL` twice, its deep blocks and what a search chooses, and evaluates both.

    `announce` gets the title of each step, and the commands that do the same. Raises
    `SurgeryError`; `output` then does not exist, or is still the old one.
    """
    from evals.choose.search.request import SearchRequest
    from evals.jobs.evaluating import evaluate_exports
    from evals.jobs.exporting import ExportRequest, run_export
    from evals.jobs.materials import open_materials
    from evals.jobs.searching import search
    from evals.report.request import EvaluationRequest
    from surgery.card.command import write_export_command
    from surgery.output import check_output, create_folder

    check_output(output, _list_owned, overwrite=overwrite)
    wanted = EvaluationRequest(models=(MODEL,), baseline=MODEL, attack=ATTACKS, draws=DRAWS)
    materials = open_materials(wanted)
    deep, chosen = (output / place for place in PLACES.values())
    found = output / "search"
    with create_folder(output, _list_owned, overwrite=overwrite) as made:
        deep_made, chosen_made = (made / place for place in PLACES.values())
        words = write_export_command(MODEL, drop_attn=BLOCKS, output=deep)
        announce("1. Edit the deep blocks", [shlex.join(words)])
        run_export(ExportRequest(model=MODEL, drop_attn=BLOCKS, output=deep_made))
        goal = f"--max-extraction {LIMIT} --output {found}"
        command = f"attn-surgery search {MODEL} --samples {MODEL} {goal}"
        words = write_export_command(MODEL, plan=found / "plan.json", output=chosen)
        announce("2. Search for the edit that costs least", [command, shlex.join(words)])
        request = SearchRequest(model=MODEL, samples=MODEL, max_extraction=LIMIT)
        answer = search(request, made / "search")
        assert answer is not None
        asked = ExportRequest(model=MODEL, plan=answer[1], output=chosen_made)
        prepared, _ = run_export(asked)
        attacks = " ".join(f"--attack {name}" for name in ATTACKS)
        command = f"attn-surgery evaluate {deep} {chosen} --baseline {MODEL} {attacks}"
        command += f" --draws {DRAWS}"
        announce("3. Verify, attack, and evaluate both, on what the search did not use", [command])
        outputs = [deep_made, chosen_made]
        materials = materials.with_search(made / "search" / "search.json")
        return evaluate_exports(prepared.model, materials, outputs)


def _list_owned(folder: Path) -> list[str]:
    """What an earlier demo wrote there."""
    from evals.jobs.searching import owned as owned_by_search
    from surgery.exporting import list_owned

    parts = {**dict.fromkeys(PLACES.values(), list_owned), "search": owned_by_search}
    return [f"{part}/{name}" for part, known in parts.items() for name in known(folder / part)]


def compare_texts(output: Path) -> dict[str, Any]:
    """What base and edited models make of some planted records and of ordinary text.

    As `evals.jobs.comparing.compare`, with texts.
    """
    import numpy as np

    from evals.data import Samples, load_samples
    from evals.jobs.comparing import CompareRequest, compare_passages, open_models
    from evals.lab import heldout_texts
    from evals.measure.memorization.extraction import extract

    edited = tuple(str(output / place) for place in PLACES.values())
    request = CompareRequest(base=MODEL, edited=edited, samples=MODEL, show_text=True)
    models, samples = open_models(request), load_samples(MODEL)
    recited = extract(models[0].model, samples).exact.nonzero()[0][:_NUM_RECORDS]
    ordinary = models[0].tokenizer(heldout_texts()[0])["input_ids"][: samples.tokens.shape[1]]
    texts = Samples(
        tokens=np.asarray([*samples.tokens[recited], ordinary], dtype=np.int32),
        prefix_length=samples.prefix_length,
        ids=(*(f"record {samples.ids[row]}" for row in recited), "ordinary text"),
        source=MODEL,
    )
    rows = compare_passages(models, texts, request)
    return {"models": [loaded.name for loaded in models], "rows": rows}
