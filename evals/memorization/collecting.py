"""Which passages of a corpus does a model recite? A stream of windows, tested as it passes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from evals.files import Journal
from evals.inputs import Progress, Say, open_model, say_nothing, show_nothing
from evals.memorization.extraction import run_pass
from evals.memorization.measures import token_accuracy
from evals.memorization.request import CollectRequest, Cut
from evals.running.batching import rows_per_batch
from evals.running.early_exit import read_divergences
from evals.running.forward import check_head
from evals.samples import row_hash
from surgery.errors import SamplesError
from surgery.output import check_output, write_lines
from surgery.processes import current_processes, join_launch, leave_launch
from surgery.reading.corpus import Corpus, Place, Window, open_corpus, windows


@dataclass(frozen=True)
class Collection:
    """Windows tested and kept, different ones among them, and tokens and seconds of this run."""

    windows: int
    recited: int
    distinct: int
    tokens: int
    seconds: float
    resumed: bool

    def to_dict(self, output: Path) -> dict[str, Any]:
        """The object of `collect --json`."""
        speed = {"tokens_per_second": self.tokens / self.seconds}
        return {"output": str(output), **asdict(self), **speed}


class _Row(BaseModel):
    """A window that was kept, as the journal has it."""

    file: int
    document: int
    position: int
    next_token_accuracy: float
    tokens: list[int]


class _Step(BaseModel):
    place: Place
    windows: int
    found: list[_Row]


def collect_from(
    request: CollectRequest,
    output: Path,
    *,
    show_text: bool = False,
    overwrite: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> Collection | None:
    """As `collect`, for what a request names. None on all processes but the main one."""
    check_output(output, overwrite=overwrite)
    corpus = open_corpus(request.corpora)
    join_launch(say)
    loaded = open_model(request.model, request, request.revision, say=say)
    with progress(f"collect {request.model}: tokens", None) as advance:
        found = collect(
            loaded.model,
            loaded.tokenizer,
            corpus,
            output,
            request.cut,
            settings=lambda: {**loaded.identity, "dtype": loaded.dtype},
            text=show_text,
            overwrite=overwrite,
            batch_size=request.batch_size,
            advance=advance,
            check=loaded.check_unchanged,
        )
    return found if leave_launch() else None


def collect(
    model: PreTrainedModel,
    tokenizer: Any,
    corpus: Corpus,
    output: Path,
    cut: Cut,
    *,
    settings: Callable[[], dict[str, Any] | None] = lambda: None,
    text: bool = False,
    overwrite: bool = False,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
    check: Callable[[], None] = lambda: None,
) -> Collection:
    """Writes the windows of `corpus` that `model` recites to `output`, as samples.

    One JSON line for each different window, at its first place: `id`, `tokens`, `file`, `document`,
    `position` (of its first token in the document), `next_token_accuracy`, `hash`, `seen` (windows
    of the corpus that equal it), and `text` if asked for.

    Progress is kept in `output` + ".progress". A run that was killed is taken up there when it is
    started again with the same model, corpus and cut, and ends with the same file.

    **Arguments:** `settings` gives what identifies the model, and is asked by the main process
    alone, as it may hash the weights; `overwrite`: replace an earlier output, once the new one is
    whole; `advance` is told of tokens read; `check` raises where the model is no longer what
    `settings` say.

    Raises `SamplesError`, also when the progress is that of another run; `OutputError`.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and cut.length > most:
        raise SamplesError(
            "windows longer than the model's context",
            expected=f"prefix + suffix of at most {most} tokens",
            got=cut.length,
        )
    if tokenizer is None:
        raise SamplesError("a corpus needs a tokenizer", got="a model without one")
    processes, begun = current_processes(), time.perf_counter()
    size = batch_size or rows_per_batch(model, cut.length)
    journal = None
    if processes.is_main:
        described = {"model": settings(), "corpus": corpus.fingerprint, "cut": cut.model_dump()}
        journal = Journal(Path(f"{output}.progress"), described, check)
    steps = processes.once(lambda: [] if journal is None else journal.read(_Step.model_validate))
    found = [row.model_dump() for step in steps for row in step.found]
    tested = steps[-1].windows if steps else 0
    after = steps[-1].place if steps else None
    read = 0

    def count(tokens: int) -> None:
        nonlocal read
        read += tokens
        advance(tokens)

    stream = windows(corpus, tokenizer, cut.length, cut.stride, after=after, tokens_read=count)
    with nullcontext() if journal is None else journal.open_to_append():
        while batch := list(islice(stream, size * processes.count)):
            if not tested:
                check_head(model, _tokens(batch[:1])[:, :4])
            parts = [batch[i : i + size] for i in range(0, len(batch), size)]
            scores = np.concatenate(
                processes.map_in_order(lambda part: _scores(model, part, cut), parts)
            )
            kept = [
                {
                    **asdict(window.place),
                    "next_token_accuracy": float(score),
                    "tokens": window.tokens.tolist(),
                }
                for window, score in zip(batch, scores, strict=True)
                if score >= cut.min_score
            ]
            tested += len(batch)
            found.extend(kept)
            if journal is not None:
                journal.append({"place": asdict(batch[-1].place), "windows": tested, "found": kept})
        if not tested:
            raise SamplesError(
                "nothing to test: no document has a whole window",
                where=", ".join(corpus.names[:3]),
                expected=f"at least {cut.length} tokens in a document",
            )
    rows = list(_distinct(found, corpus, tokenizer if text else None))
    if journal is not None:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write_lines(output, lines, overwrite=overwrite)
        journal.remove()
    seconds = time.perf_counter() - begun
    return Collection(tested, len(found), len(rows), read, seconds, bool(steps))


def _tokens(batch: list[Window]) -> torch.Tensor:
    return torch.from_numpy(np.stack([window.tokens for window in batch]).astype(np.int64))


def _scores(model: PreTrainedModel, batch: list[Window], cut: Cut) -> Any:
    tokens = _tokens(batch)
    if cut.min_score == 1.0:
        leaves = read_divergences(model, tokens, cut.prefix_length).numpy()
        return (leaves == cut.suffix_length).astype(np.float64)
    rows = tokens.numpy().astype(np.int32)
    result = run_pass(model, rows, cut.prefix_length, batch_size=len(rows))
    return token_accuracy(result.predictions.greedy, rows[:, cut.prefix_length :])


def _distinct(
    found: list[dict[str, Any]], corpus: Corpus, decoder: Any
) -> Iterator[dict[str, Any]]:
    seen: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        seen.setdefault(row_hash(np.asarray(row["tokens"], dtype=np.int32)), []).append(row)
    for name, (first, *others) in seen.items():
        file = corpus.names[first["file"]]
        yield {
            "id": f"{file}:{first['document']}:{first['position']}",
            **first,
            "file": file,
            "hash": name,
            "seen": 1 + len(others),
            **({} if decoder is None else {"text": decoder.decode(first["tokens"])}),
        }
