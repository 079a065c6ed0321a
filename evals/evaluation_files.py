"""The folder of an evaluation: report.json, the pages made from it, lm-eval's own results."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evals.benchmarks import write_results
from evals.evaluation import Evaluation
from evals.page import write_page
from evals.writing import write_lines
from surgery.card_file import refresh_card
from surgery.checkpoint.folder import atomic_folder, writing
from surgery.errors import OutputError

__all__ = ["REPORT", "attach", "check_output", "output_folder", "write_evaluation"]

REPORT = "report.json"


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes everything into `folder`, which exists. Raises `OutputError`."""
    report = evaluation.report
    write_lines(folder / REPORT, [report.to_text().rstrip("\n")])
    write_page(report.to_dict(), folder)
    sides = ((report.models.base, "base", evaluation.base_runs),)
    for name, side, runs in (*sides, (report.models.edited, "edited", evaluation.edited_runs)):
        if runs:
            write_results(folder / "lm_eval" / side, name, runs)


def attach(evaluation: Evaluation, folder: Path) -> None:
    """Puts an evaluation into the folder of the edited model, and its figures on the card there.

    `push` then takes them along. Raises `OutputError` when the folder cannot be written.
    """
    with writing(folder), tempfile.TemporaryDirectory(prefix=".evaluation-", dir=folder) as staging:
        write_evaluation(evaluation, Path(staging))
        for part in sorted(Path(staging).iterdir()):
            place = folder / part.name
            if place.is_dir():
                shutil.rmtree(place)  # lm-eval's results of an earlier evaluation
            part.replace(place)
    refresh_card(folder, evaluation.report.to_dict())


def check_output(folder: Path) -> None:
    """Raises `OutputError` for a folder that holds anything but an earlier evaluation."""
    if folder.is_dir():
        if (folder / REPORT).is_file() or not any(folder.iterdir()):
            return
        raise OutputError(
            "holds something else than an evaluation", where=folder, fix="choose another --output"
        )
    if folder.exists() or folder.is_symlink():
        raise OutputError("is not a folder", where=folder, fix="choose another --output")


@contextlib.contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """Yields a folder to write into; it takes the place of `target` when the block ends well."""
    target = target.absolute()
    check_output(target)
    if not target.exists():
        with atomic_folder(target) as folder:
            yield folder
        return
    new, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    with atomic_folder(new) as folder:
        yield folder
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
