"""Fixtures that every test may use, and the rules of the suite: offline, quiet, few threads."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that talks to a local hub unsets it
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

from benchmarks.real.base import find_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evals.run.models import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ATTN_SURGERY_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """Without the slow tests, properties are tried on fewer examples, the same ones each time."""
    settings.register_profile("fast", max_examples=20, deadline=None, derandomize=True)
    settings.register_profile("whole", max_examples=100, deadline=None)
    settings.load_profile("fast" if config.option.markexpr == "not slow" else "whole")
    gc.disable()  # until all is imported


def pytest_collection_finish() -> None:
    """Libraries that are imported make much that stays: it is never looked at for garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = {}
    if not DATA.is_dir():
        absent["real_data"] = "the public data files are absent"
    if find_spec("gguf") is None or find_weights() is None:
        absent["real_model"] = "the real model's weights are not installed (docs/beds/smollm2.md)"
    for item in items:
        for marker in absent.keys() & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=absent[marker]))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data files, for tests marked real_data."""
    return DATA


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """`tiny_model()` with its tokenizer, opened as commands open a model."""
    from tiny_tokenizer import save_tiny

    from evals.run.models import open_model

    return open_model(str(save_tiny(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def blank_pictures() -> Iterator[None]:
    """The pictures of a module's tests are blank."""
    import blank

    with blank.blank_pictures():
        yield


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passages are learned again in 3 steps, at two rates at most, for tests that do not ask what
    that recovers."""
    monkeypatch.setattr("evals.measure.attacks.relearn.STEPS", (1, 2, 3))
    monkeypatch.setattr("evals.measure.attacks.relearn.RATES", (1e-3, 1e-4))


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """`test_overwriting.py` looks at what is synced, and when."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for caches: not that of the user, which may hold what other code measured. What is
    made for a whole module shares the one called shared."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTN_SURGERY_CACHE", str(folder / "shared"))
        yield folder


@pytest.fixture(autouse=True)
def _own_cache(caches: Path) -> Iterator[None]:
    """Each test has a cache of its own: another may have measured with a part replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTN_SURGERY_CACHE", str(caches / uuid.uuid4().hex))
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import torch

    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
