"""Contract: a stock export is the same model in other engines, and what it no longer recites in one
it recites in none.

Skipped for an engine that is not installed. docs/cost.md has the figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decoders import write_decoder

from benchmarks.engines.__main__ import decode, decode_with_transformers, is_installed, read_rows
from surgery import export
from surgery.hub.embedded import find_lab_folder

pytestmark = [  # the warnings are the engines' own
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
]
LENGTH = 32


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return read_rows()[:8]


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("lab:pythia", "4-5", output=tmp_path_factory.mktemp("edited") / "out").output


def test_an_export_in_another_engine(rows: np.ndarray, edited: Path, tmp_path: Path) -> None:
    if not is_installed("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    prefixes, suffixes = rows[:, :LENGTH], rows[:, LENGTH:]
    for folder, recited in ((find_lab_folder("pythia"), len(rows)), (edited, 0)):
        said = decode("onnxruntime", folder, prefixes, tmp_path)
        assert (said == suffixes).all(1).sum() == recited
        np.testing.assert_array_equal(said, decode_with_transformers(folder, prefixes, LENGTH))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_vllm_reads_the_biases_of_an_edit(kind: str, tmp_path: Path) -> None:
    """A tiny random model: what the edit sets decides every token."""
    if not is_installed("vllm"):
        pytest.skip("vllm is not installed")
    no_window = {} if kind == "llama" else {"use_sliding_window": False, "sliding_window": None}
    source = write_decoder(tmp_path / "source", kind, **no_window)
    edited = export(source, "0,2", output=tmp_path / "out", layout="stock").output
    prefixes = np.random.default_rng(0).integers(128, size=(4, LENGTH))
    said = decode("vllm", edited, prefixes, tmp_path)
    np.testing.assert_array_equal(said, decode_with_transformers(edited, prefixes, LENGTH))
    assert (said != decode_with_transformers(source, prefixes, LENGTH)).any(1).all()


def test_the_constants_in_few_bits() -> None:
    """Keys of eight bits keep attention one-hot, of four do not: what card and documents say."""
    pytest.importorskip("gguf")
    from benchmarks.engines.constants import KEYS, SHAPES, gap
    from surgery.layouts.one_hot import UNDERFLOW

    worst = {
        name: min(gap(*shape, scheme) for shape in SHAPES.values()) for name, scheme in KEYS.items()
    }
    assert {name for name, nats in worst.items() if nats > UNDERFLOW} == {
        "f16",
        "q8_0",
        "fp8 (e4m3)",
    }


def test_the_card_says_so(edited: Path, tmp_path: Path) -> None:
    warning = "4-bit key cache undoes the edit"
    assert warning in (edited / "README.md").read_text()
    zero = export("lab:pythia", "4-5", variant="zero", output=tmp_path / "zero").output
    assert warning not in (zero / "README.md").read_text()
