"""Short names of passages that the field publishes: `hubble:wikipedia`, `pythia-evals:duped.1.4b`.

docs/extraction.md lists their sources and licenses. To add one, add an entry to `_KINDS`.
"""

from __future__ import annotations

from surgery.errors import SamplesError

HUBBLE = ("gutenberg_popular", "gutenberg_unpopular", "wikipedia")
FORMS = "hubble:SUBSET, pythia-evals:SPLIT, or lm-extraction:FOLDER"
_KINDS = {
    "hubble": "hf:allegrolab/passages_{}:train+test:text",
    "pythia-evals": "hf:EleutherAI/pythia-memorized-evals:{}:tokens",
    "lm-extraction": "{0}/train_prefix.npy,{0}/train_suffix.npy",
}


def find_published(source: str) -> str:
    """The full name of the samples that a short name stands for. Other names stay as they are.

    Raises `SamplesError` for a subset that Hubble does not have.
    """
    kind, colon, rest = source.partition(":")
    if kind not in _KINDS or not colon:
        return source
    if not rest or (kind == "hubble" and rest not in HUBBLE):
        expected = ", ".join(f"hubble:{name}" for name in HUBBLE) if kind == "hubble" else FORMS
        raise SamplesError("no such samples", where=source, expected=expected)
    return _KINDS[kind].format(rest)
