"""Makes passages the documents of an lm-eval task, and scores them.

lm-eval gives text to a model, which tokenizes it again. So a passage fits only if its text gives
back its tokens, for the prefix alone and for prefix and suffix together, after the special tokens
that the tokenizer puts before every text. lm-eval also moves white
space from the end of a context to the continuation, so a prefix must not end in white space. Other
rows are left out and counted. For the rest, scores equal those of `attn-surgery extract`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from evals.data import Samples, load_samples
from surgery.checkpoint import TOKENIZER
from surgery.errors import SamplesError
from surgery.reading.corpus import strip_opening

_log = logging.getLogger("lm_eval")


def load(
    samples: str | None = None,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    prefix_length: int | None = None,
    suffix_length: int | None = None,
    secret: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Loads the task's data set. Arguments: lm-eval's model arguments and metadata together.

    - `samples`: SAMPLES as for `attn-surgery extract`; by default $ATTN_SURGERY_SAMPLES.
    - `tokenizer`: a folder or Hub id; by default $ATTN_SURGERY_TOKENIZER, else `pretrained`.

    Raises `SamplesError` if either is missing or if no row is left.
    """
    import datasets
    from huggingface_hub import snapshot_download

    from surgery.loading import load_tokenizer

    samples = samples or os.environ.get("ATTN_SURGERY_SAMPLES")
    tokenizer = tokenizer or os.environ.get("ATTN_SURGERY_TOKENIZER") or pretrained
    for value, name in ((samples, "samples"), (tokenizer, "tokenizer")):
        if value is None:
            raise SamplesError(
                f"the task needs {name}",
                where="discoverable_extraction",
                fix=f"""give --metadata '{{"{name}": "…"}}' or ATTN_SURGERY_{name.upper()}""",
            )
    if not Path(str(tokenizer)).is_dir():
        tokenizer = snapshot_download(str(tokenizer), allow_patterns=["config.json", *TOKENIZER])
    encoder = load_tokenizer(str(tokenizer))
    loaded = load_samples(
        str(samples),
        tokenizer=encoder,
        prefix_length=prefix_length,
        suffix_length=suffix_length,
        secret=secret,
    )
    return {"test": datasets.Dataset.from_list(make_documents(loaded, encoder))}


def make_documents(samples: Samples, tokenizer: Any) -> list[dict[str, Any]]:
    """One document for every member row whose text keeps its tokens."""
    samples = samples.select(samples.trained_on)
    found = []
    parts = samples.prefix_rows, samples.suffix_rows
    for name, prefix_ids, after in zip(samples.ids, *parts, strict=True):
        before = prefix_ids.tolist()
        row = before + after
        own = strip_opening(tokenizer, np.asarray(before)).tolist()  # lm-eval adds them again
        prefix, suffix = (
            tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (own, after)
        )
        same = tokenizer.encode(prefix) == before and tokenizer.encode(prefix + suffix) == row
        if same and prefix == prefix.rstrip():
            found.append({"id": name, "prefix": prefix, "suffix": suffix, "length": len(after)})
    if not found:
        raise SamplesError("no passage keeps its tokens as text", where=samples.source)
    left_out = len(samples) - len(found)
    if left_out:
        _log.warning(
            "%d of %d passages are left out: their text does not keep their tokens, or their "
            "prefix ends in white space",
            left_out,
            len(samples),
        )
    return [{**document, "left_out": left_out} for document in found]


def score(document: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Exact match (1 or 0) and mean NLL in nats per token, from lm-eval's (log p, is_greedy)."""
    ((log_likelihood, is_greedy),) = results
    return {
        "exact_match": float(is_greedy),
        "suffix_nll": -log_likelihood / document["length"],
        "rows_left_out": document["left_out"],
    }
