"""What a card shows of measurements: figures and sentences, whoever took them.

Intervals are 95 %; losses are in nats per token; `base` and `baseline` are before the edit.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Mean(_Figures):
    mean: float
    ci95: tuple[float, float]


class Count(_Figures):
    count: int
    rate: float
    ci95: tuple[float, float]


class Recall(_Figures):
    """What a model recites: word for word, token by token, and its loss on the passages."""

    exact_match: Count
    next_token_accuracy: Mean
    suffix_nll: Mean


class Extraction(Recall):
    """`n` passages: a prefix is given, and the suffix asked for, each of so many tokens."""

    n: int
    prefix_length: int
    suffix_length: int
    baseline: Recall | None = None


class Task(_Figures):
    """A benchmark's main metric on `n` documents; `ci95` is of the difference."""

    metric: str
    base: float
    edited: float
    difference: float
    ci95: tuple[float, float]
    verdict: str
    n: int
    num_fewshot: int


class Attack(_Figures):
    """Passages that an attack recovers; `control`: of text that was never trained on."""

    name: str
    base: Count
    edited: Count
    control: Count | None


class HeldOut(_Figures):
    """Loss on `n` windows of text that was not trained on (`kind` "text"), or of other passages."""

    kind: str
    n: int
    base: Mean
    edited: Mean
    difference: Mean
    verdict: str


class Shares(_Figures):
    """What is recovered of the same passages before and after."""

    base: Count
    edited: Count


class AllPassages(_Figures):
    """Of all `n` passages, those that chose the edit too; `recovered`: by attack."""

    n: int
    recited: Shares
    recovered: dict[str, Shares]
    heldout: HeldOut | None


class Gate(_Figures):
    """A limit that was set, and what was measured."""

    name: str
    ok: bool
    limit: float
    value: float
    n: int
    conclusive: bool


class Measured(_Figures):
    """`base`: the model before the edit; `settings`: precision, device and versions, in words."""

    verdict: str
    base: str
    tasks: dict[str, Task]
    extraction: Extraction | None
    attacks: tuple[Attack, ...] = ()
    heldout: HeldOut | None
    all_passages: AllPassages | None = None
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    settings: str
    samples_sha256: str | None = None
