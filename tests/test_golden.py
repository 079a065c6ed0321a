"""What must not change by accident: bytes of exports, and figures on the built-in models.

`python -m golden.write`, in the folder `tests`, writes the golden files anew. A commit that changes
one says why. Figures are compared to five digits: sums of float32 are taken in another order on
another processor, which moves the figures of a trained model in the sixth.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import exports, figures
from golden.models import read

EXPORTS = read("exports.json")
FIGURES = read("figures.json")


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_writes_the_same_bytes(case, tmp_path):
    assert exports.export(case, tmp_path) == EXPORTS[case]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current folder of the commands, in which cut models, samples, and texts lie."""
    folder = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        figures.prepare(folder)
        yield folder


def commands():
    for name, command in (figures.FAST | figures.SLOW).items():
        marks = () if name in figures.FAST else pytest.mark.slow
        for lab in figures.LABS:
            yield pytest.param(name.format(lab=lab), command.format(lab=lab), marks=marks)


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_a_command_measures_the_same(name: str, command: str, folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    found = figures.figures(command)
    for row, values in FIGURES[name].items():
        assert found[row] == pytest.approx(values, rel=1e-5, abs=1e-5), row
