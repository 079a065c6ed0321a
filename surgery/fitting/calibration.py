"""Calibration text: a stream of token windows that can be read again, never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from surgery.checkpoint.copying import sha256_of
from surgery.errors import SamplesError, UnsupportedError
from surgery.fitting.corpus import Tokens, documents, open_corpus, token_ids
from surgery.hub.datasets import PREFIX, HubDataset
from surgery.record.manifest import BlockFit, CalibrationRecord, TextSource
from surgery.variants import VARIANTS, Fit, needs_text, variant_of

WINDOW = 512
"""Tokens that attend to each other; fewer where the model has fewer positions."""
TOKENS_PER_WIDTH = 64
"""Tokens read for each dimension of the model, so that its least squares are well posed."""
FEWEST_TOKENS = 1 << 15
"""What is read, if it is there, for a narrow model too."""
FEWEST_WINDOWS = 10
ROWS = 8
"""Windows that go through the model together."""

Pieces = Iterator[str]


@dataclass(frozen=True)
class Text:
    """Text that was found, before there is a tokenizer for it.

    Each of `streams` gives its documents anew at every call, in pieces; `sources` are their names.
    """

    streams: tuple[Callable[[], Iterator[Pieces]], ...]
    sources: tuple[TextSource, ...]

    def tokenized(
        self, tokenizer: Any, *, max_positions: int, most_tokens: int | None = None
    ) -> Calibration:
        """The text for a model with that many positions."""
        window = min(WINDOW, max_positions)
        return Calibration(self.streams, self.sources, tokenizer, window, most_tokens)


@dataclass(frozen=True)
class Calibration:
    """A `Text` and how it is cut.

    At most `most_tokens` are read, from every stream as many as from the others while it lasts;
    None: as many as a model's width asks for (`for_width`).
    """

    streams: tuple[Callable[[], Iterator[Pieces]], ...]
    sources: tuple[TextSource, ...]
    tokenizer: Any
    window: int
    most_tokens: int | None = None

    def for_width(self, d: int) -> Calibration:
        """The same text, limited to what a model of width `d` needs, unless it is already."""
        if self.most_tokens is not None:
            return self
        return replace(self, most_tokens=max(FEWEST_TOKENS, TOKENS_PER_WIDTH * d))

    def batches(self) -> Iterator[Tokens]:
        """int32 [B, window] with B <= `ROWS`, at most `most_tokens` in all.

        Documents of a stream follow one another, an end-of-text token between them where the
        tokenizer has one; its last incomplete window is left out. Raises `SamplesError` when there
        is too little.
        """
        rows: list[Tokens] = []
        count = 0
        for window in self._windows():
            rows.append(window)
            count += 1
            if len(rows) == ROWS:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)
        if count < FEWEST_WINDOWS:
            raise SamplesError(
                "too little calibration text",
                where=", ".join(source.name for source in self.sources),
                expected=f"at least {FEWEST_WINDOWS * self.window:,} tokens",
                got=f"fewer than {(count + 1) * self.window:,}",
            )

    def record(self, fits: dict[int, Fit]) -> CalibrationRecord:
        """What a manifest keeps: where the text came from, its hash, and how well blocks fit."""
        digest, tokens = hashlib.sha256(), 0
        for batch in self.batches():
            digest.update(batch.astype("<i4").tobytes())
            tokens += batch.size
        return CalibrationRecord(
            sources=list(self.sources),
            tokens=tokens,
            window=self.window,
            sha256=digest.hexdigest(),
            blocks={
                block: BlockFit(ridge=fit.ridge, r2=None if fit.r2 is None else round(fit.r2, 6))
                for block, fit in fits.items()
            },
        )

    def _windows(self) -> Iterator[Tokens]:
        left = self.most_tokens
        for number, stream in enumerate(self.streams):
            share = None if left is None else left // (len(self.streams) - number)
            most = None if share is None else max(1, share // self.window)
            for window in islice(self._windows_of(stream), most):
                if left is not None:
                    if left < self.window:
                        return
                    left -= self.window
                yield window

    def _windows_of(self, stream: Callable[[], Iterator[Pieces]]) -> Iterator[Tokens]:
        end = self.tokenizer.eos_token_id
        buffer = np.empty(0, dtype=np.int32)
        for pieces in stream():
            for piece in pieces:
                buffer = np.concatenate([buffer, token_ids(self.tokenizer, piece)])
                start = 0
                while start + self.window <= len(buffer):
                    yield buffer[start : start + self.window]
                    start += self.window
                buffer = buffer[start:]
            if end is not None:
                buffer = np.append(buffer, np.int32(end))


def calibration_of(
    variants: Iterable[str],
    named: Sequence[str | Path],
    own: Callable[[], Text] | None = None,
) -> Text | None:
    """The text that an edit with `variants` is fitted on; None where none of them is fitted.

    It is what the user has `named`, else a model's `own`.

    **Raises:** `UnsupportedError` for text where nothing is fitted, and for none where something
    is; `SamplesError` as `open_calibration`.
    """
    chosen = sorted(set(variants))
    fitted = [name for name in chosen if variant_of(name).FITTED]
    if named and not fitted:
        raise UnsupportedError(
            "calibration text is given, and nothing is fitted on it",
            expected="variant " + " or ".join(n for n, v in VARIANTS.items() if v.FITTED),
            got=" and ".join(chosen),
        )
    if not fitted:
        return None
    if named:
        return open_calibration(named)
    if own is None:
        raise needs_text(fitted)
    return own()


def open_calibration(sources: Sequence[str | Path]) -> Text:
    """Calibration text from files and folders (see `surgery.fitting.corpus`) or a Hub dataset.

    `sources`: paths, or `hf:DATASET:SPLIT:COLUMN`. Each is begun, so that what cannot be read is
    known before any work is done. Raises `SamplesError`.
    """
    names: list[TextSource] = []
    streams: list[Callable[[], Iterator[Pieces]]] = []
    for source in map(str, sources):
        if source.startswith(PREFIX):
            dataset = HubDataset.parse(source)
            next(dataset.texts(), None)
            names.append(TextSource(name=source))
            streams.append(partial(_each_alone, dataset.texts))
            continue
        corpus = open_corpus([Path(source)])
        for path, name in zip(corpus.files, corpus.names, strict=True):
            names.append(TextSource(name=name, sha256=sha256_of(path)))
            streams.append(partial(documents, path))
    return Text(tuple(streams), tuple(names))


def calibration_from_texts(texts: Iterable[str], *, name: str) -> Text:
    """Calibration text that is at hand, under a name of its own."""
    return Text(
        tuple(partial(_each_alone, partial(iter, [text])) for text in texts),
        (TextSource(name=name),),
    )


def _each_alone(texts: Callable[[], Iterator[str]]) -> Iterator[Pieces]:
    return (iter([text]) for text in texts())
