"""Finds the passages of a corpus that a model recites: streams windows and tests them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evals.data import hash_row
from evals.run.console import show_progress
from evals.run.groups import Count, PrefixLength, Revision, Run, SuffixLength
from evals.run.keep import Store
from evals.run.request import Group, Option, Request
from surgery.errors import SamplesError
from surgery.output import check_output, recognize_lines, write_lines
from surgery.processes import current_processes, read_clock, share
from surgery.reading.corpus import (
    Corpus,
    Place,
    Window,
    open_corpus,
    read_windows,
    strip_opening,
)
from surgery.record.manifest import LENGTH

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evals.run.models import LoadedModel
FOUND = recognize_lines("a file of samples", "id", "tokens", "position", "hash", "seen")


class Windows(Group):
    """How to cut a corpus into windows, and which windows to keep.

    Windows of prefix + suffix tokens start at every multiple of `stride`.
    """

    prefix_length: PrefixLength = None
    suffix_length: SuffixLength = None
    stride: Annotated[
        Count,
        "Tokens from one window to the next. 1 finds most and takes longest.",
        Option("measure"),
    ] = 16
    min_score: Annotated[
        float,
        Field(gt=0, le=1),
        "Keep windows with at least this next-token accuracy on the suffix. 1 is an exact match.",
        Option("measure"),
    ] = 1.0

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.prefix + self.suffix

    @property
    def prefix(self) -> int:
        return self.prefix_length or LENGTH

    @property
    def suffix(self) -> int:
        return self.suffix_length or LENGTH


class CollectRequest(Request):
    """Collects what a model recites of `corpus`."""

    typed = "corpus revision prefix_length suffix_length stride min_score device"

    model: str
    revision: Revision = None
    corpus: Annotated[
        tuple[Path, ...],
        "Text, or JSON, CSV, or parquet with a column text: a file, a folder, or "
        "hf:DATASET:SPLIT:COLUMN.",
        Option("input"),
    ]
    windows: Windows = Windows()
    run: Run = Run()


@dataclass(frozen=True)
class _Step:
    """A batch that was tested: the place of its last window, and the windows to keep. The last step
    has no place."""

    place: Place | None
    windows: int
    found: list[dict[str, Any]]


def collect(
    request: CollectRequest, output: Path, *, show_text: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the windows of a corpus that the model recites to `output`, as samples.

    One JSON line for each different window, at its first place: `id` (the file's number, counted
    from 1, `document`, and `position`; no name, as reports show ids), `tokens`, `file`, `document`,
    `position` (of its first token in the document), `next_token_accuracy`, `hash`, `seen` (windows
    of the corpus that equal it), and with `show_text` also `text`.

    Returns the object of `collect --json`. Its `tokens` and `seconds` are of this run. Raises
    `SurgeryError` for inputs that it cannot use, and `OutputError`.
    """
    from evals.run.models import open_model

    check_output(output, FOUND, overwrite=overwrite)
    corpus = open_corpus(request.corpus)
    loaded = open_model(request.model, revision=request.revision, **request.run.running)
    _check_length(loaded, request.windows)
    begun = read_clock()
    files = [[file.full_name, file.size, file.changed] for file in corpus]
    store = loaded.narrow(request.run.store, files, request.windows.model_dump())
    with show_progress(f"collect {request.model}: tokens", None) as advance:
        found, windows, tokens, resumed = _find_recited(loaded, corpus, request, store, advance)
    rows = list(_merge_equal(found, corpus, loaded.tokenizer if show_text else None))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_lines(output, lines, overwrite=overwrite, owned=FOUND)
    seconds = read_clock() - begun
    return {
        "output": str(output),
        "windows": windows,
        "recited": len(found),
        "distinct": len(rows),
        "tokens": tokens,
        "seconds": seconds,
        "resumed": resumed,
        "tokens_per_second": tokens / seconds,
    }


def _find_recited(
    loaded: LoadedModel,
    corpus: Corpus,
    request: CollectRequest,
    store: Store,
    advance: Callable[[int], None],
) -> tuple[list[dict[str, Any]], int, int, bool]:
    """The windows to keep of the whole corpus, and how many there are; the tokens that this run
    read, and whether it went on from an earlier one.

    `store` keeps every step under the place at which the step before it ended.
    """
    from evals.run.batching import rows_per_batch
    from evals.run.forward import check_head

    model, cut, processes = loaded.model, request.windows, current_processes()
    size = request.run.batch_size or rows_per_batch(model, cut.length)
    check_head(model)
    found, tested, read, taken = list[dict[str, Any]](), 0, 0, 0
    after: Place | None = None
    at: Place | None = None  # where the stream is, which a step that was kept leaves behind
    stream: Iterator[Window] | None = None

    def count(tokens: int) -> None:
        nonlocal read
        read += tokens
        advance(tokens)

    def test_more() -> _Step:
        nonlocal stream, at, taken
        taken -= 1
        if stream is None or at != after:
            given = corpus, loaded.tokenizer, cut.length, cut.stride
            stream = read_windows(*given, after=after, tokens_read=count)
        batch = list(islice(stream, size * processes.count))
        at = place = batch[-1].place if batch else None
        return _Step(place, len(batch), _keep_recited(model, batch, cut, size) if batch else [])

    while True:
        step = store.get(after, test_more, _Step, Place)
        taken += 1
        if step.place is None:
            break
        after, tested = step.place, tested + step.windows
        found += step.found
    if not tested:
        raise _explain_nothing(corpus, cut)
    return found, tested, read, taken > 0


def _check_length(loaded: LoadedModel, cut: Windows) -> None:
    longest = getattr(loaded.model.config, "max_position_embeddings", None)
    if longest is not None and cut.length > longest:
        raise SamplesError(
            "windows are longer than the model's context",
            expected=f"prefix + suffix of at most {longest} tokens",
            got=cut.length,
        )
    if loaded.tokenizer is None:
        raise SamplesError("a corpus needs a tokenizer", got="a model without one")


def _explain_nothing(corpus: Corpus, cut: Windows) -> SamplesError:
    return SamplesError(
        "nothing to test: every document is shorter than a window",
        where=", ".join(file.name for file in corpus[:3]),
        expected=f"at least {cut.length} tokens in a document",
    )


def _keep_recited(
    model: PreTrainedModel, batch: list[Window], cut: Windows, size: int
) -> list[dict[str, Any]]:
    """Tests a batch in parts of `size` rows, and returns the windows to keep."""
    from evals.measure.memorization.extraction import run_pass
    from evals.measure.memorization.measures import token_accuracy
    from evals.run.batching import row_ranges

    tokens = np.stack([window.tokens for window in batch])

    def score(rows: slice) -> npt.NDArray[np.floating[Any]]:
        some = tokens[rows]
        result = run_pass(model, some, cut.prefix, batch_size=size)
        return token_accuracy(result.predictions.greedy, some[:, cut.prefix :])

    parts = share(score, row_ranges(len(batch), size))
    return [
        {
            **asdict(window.place),
            "next_token_accuracy": float(score),
            "tokens": window.tokens.tolist(),
        }
        for window, score in zip(batch, np.concatenate(parts), strict=True)
        if score >= cut.min_score
    ]


def _merge_equal(
    found: list[dict[str, Any]], corpus: Corpus, decoder: Any
) -> Iterator[dict[str, Any]]:
    names = [file.name for file in corpus]
    seen: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        seen.setdefault(hash_row(np.asarray(row["tokens"], dtype=np.int32)), []).append(row)
    for name, (first, *others) in seen.items():
        yield {
            "id": f"{first['file'] + 1}:{first['document']}:{first['position']}",
            **first,
            "file": names[first["file"]],
            "hash": name,
            "seen": 1 + len(others),
            **({} if decoder is None else {"text": _decode(first["tokens"], decoder)}),
        }


def _decode(tokens: list[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(strip_opening(tokenizer, np.asarray(tokens, np.int32)).tolist())
    return text
