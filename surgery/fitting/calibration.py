"""Calibration text: token windows spread over your files, as many as a model needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import SamplesError, UnsupportedError
from surgery.families import Dimensions
from surgery.reading.corpus import (
    Tokens,
    find_opening,
    leave_room,
    open_corpus,
    read_documents,
    tokenize,
)
from surgery.reading.passages import Documents, scatter, share_evenly, spread_passages
from surgery.reading.sources import TextOrTable
from surgery.record.manifest import BlockFit, CalibrationRecord, TextRecord, TextSource
from surgery.variants import VARIANTS, Fit, needs_text, variant_of

WINDOW = 512
"""Tokens per window; fewer for a model with fewer positions."""
TOKENS_PER_WIDTH = 64
"""Tokens for each dimension of the model, so that least squares are well posed."""
FEWEST_TOKENS = 1 << 15
"""The least for a narrow model, if there is that much text."""
FEWEST_WINDOWS = 10
ROWS = 8
"""Windows in a batch."""
PASSAGE = 8
"""Windows of one passage of a file."""


@dataclass(frozen=True)
class Text:
    """Text that is found but not tokenized.

    `spread`: large files give passages from all over (`surgery.reading.passages`), not only from
    their beginning.
    """

    sources: tuple[TextOrTable, ...]
    spread: bool = True

    def tokenize(
        self,
        tokenizer: Any,
        dimensions: Dimensions,
        *,
        window: int = WINDOW,
        most_tokens: int | None = None,
        fewest: int = FEWEST_WINDOWS,
        advise: Callable[[int], str] = lambda windows: "give more text",
    ) -> Calibration:
        """Reads as much text as fits of a model of these dimensions need, or `most_tokens` of it.

        Every source gives an equal share while it lasts. An end-of-text token, if the tokenizer
        has one, separates the documents of a passage. Each window begins with the tokenizer's
        opening tokens. The last incomplete window is left out.
        Raises `SamplesError` for a malformed file, and for fewer than `fewest` windows: `advise`
        gets the number found and says what to do.
        """
        window = min(window, dimensions.max_positions)
        most = (most_tokens or max(FEWEST_TOKENS, TOKENS_PER_WIDTH * dimensions.d)) // window
        digests: dict[int, Any] = {}

        def read_passage(number: int, place: Documents, share: int) -> Iterator[Tokens]:
            digest = digests.setdefault(number, hashlib.sha256())
            return _cut_windows(place(), tokenizer, window, digest)

        def read_source(number: int, source: TextOrTable, share: int) -> Iterator[Tokens]:
            places: Sequence[Documents] = [partial(read_documents, source)]
            if self.spread:
                places = spread_passages(source, -(-share // PASSAGE), number)
            return share_evenly([partial(read_passage, number, place) for place in places], share)

        readers = [partial(read_source, *numbered) for numbered in enumerate(self.sources)]
        if self.spread and len(readers) > most:
            readers = scatter(readers)
        found = list(share_evenly(readers, most))
        if len(found) < fewest:
            raise SamplesError(
                "too little text",
                where=", ".join(dict.fromkeys(source.name for source in self.sources)),
                expected=f"at least {fewest * window:,} tokens",
                got=f"fewer than {(len(found) + 1) * window:,}",
                fix=advise(len(found)),
            )
        records = []
        for number in sorted(digests):
            source = self.sources[number]  # folders inside a folder of texts may name people
            name = Path(source.full_name).name if source.size is not None else source.full_name
            size = source.size
            sha256 = None if size is None else digests[number].hexdigest()
            records.append(TextSource(name=name, size=size, sha256=sha256))
        return Calibration(np.stack(found), tuple(dict.fromkeys(records)), self.spread)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows of text, int32 [n, window]; their sources, and whether they are spread over them."""

    windows: Tokens
    sources: tuple[TextSource, ...]
    spread: bool

    def batches(self) -> Iterator[Tokens]:
        """int32 [B, window] with B <= `ROWS`."""
        for begin in range(0, len(self.windows), ROWS):
            yield self.windows[begin : begin + ROWS]

    def record_text(self) -> TextRecord:
        """The manifest's record of the text."""
        return TextRecord(
            sources=list(self.sources),
            spread=self.spread,
            tokens=self.windows.size,
            window=self.windows.shape[1],
            sha256=hashlib.sha256(self.windows.astype("<i4").tobytes()).hexdigest(),
        )

    def record(self, fits: dict[int, Fit]) -> CalibrationRecord:
        """The manifest's record of the text and of how well blocks fit."""
        return CalibrationRecord(
            **dict(self.record_text()),
            blocks={
                block: BlockFit(ridge=fit.ridge, r2=_round(fit.r2), r2_shared=_round(fit.r2_shared))
                for block, fit in fits.items()
            },
        )


def _round(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)


def _cut_windows(
    documents: Iterator[Iterator[str]], tokenizer: Any, length: int, digest: Any
) -> Iterator[Tokens]:
    if tokenizer is None:
        raise SamplesError("text needs a tokenizer", got="a model without one")
    end, opening = tokenizer.eos_token_id, find_opening(tokenizer)
    length = leave_room(opening, length)
    buffer = np.empty(0, dtype=np.int32)
    for pieces in documents:
        for piece in pieces:
            digest.update(piece.encode())
            buffer = np.concatenate([buffer, tokenize(tokenizer, piece)])
            start = 0
            while start + length <= len(buffer):
                yield np.concatenate([opening, buffer[start : start + length]])
                start += length
            buffer = buffer[start:]
        if end is not None:
            buffer = np.append(buffer, np.int32(end))


def find_calibration(
    variants: Iterable[str],
    named: Sequence[str | Path],
    own: Callable[[], Text] | None = None,
    read: Callable[[Sequence[str | Path]], Text] | None = None,
) -> Text | None:
    """Returns the text to fit `variants` on: what you `named`, else a model's `own`.

    None if no variant is fitted. `read`: finds what you named (default: `open_calibration`).
    """
    chosen = sorted(set(variants))
    fitted = [name for name in chosen if variant_of(name).fitted]
    if named and not fitted:
        raise UnsupportedError(
            "calibration text is given, but no variant is fitted",
            expected="variant " + " or ".join(n for n, v in VARIANTS.items() if v.fitted),
            got=" and ".join(chosen),
        )
    if not fitted:
        return None
    if named:
        return (read or open_calibration)(named)
    if own is None:
        raise needs_text(fitted)
    return own()


def open_calibration(sources: Sequence[str | Path]) -> Text:
    """Finds calibration text. `sources`: as for `surgery.reading.corpus.open_corpus`.

    Reads a data set on the Hub from its start.
    """
    return Text(open_corpus(sources))


def make_calibration(texts: Iterable[str], *, name: str) -> Text:
    """Makes calibration text from strings, under one name."""
    return Text(tuple(TextOrTable(Path(name), name, text=text) for text in texts))
