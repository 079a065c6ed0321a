"""Finds the sibling of an edited model, and refuses one that cannot give its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from evals.measure.memorization.measures import Scores
from surgery.card.text import read_card, read_metadata
from surgery.checkpoint import Entry
from surgery.errors import MeasurementError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.tensors import BYTES, FLOATS, Array, decode

_FIX = "name the model that it was fine-tuned from, or an earlier checkpoint, with `sibling`"
_ANY_SIZE = ("vocabulary", "max_positions")
"""Sizes that no tensor of a block depends on."""
_RELATED = 0.1
"""The least cosine of two related models' weight matrices. A fine-tune and its base have almost 1;
two models that were trained apart, or not at all, almost 0."""
_MATRICES, _NUMBERS = 16, 2**20
"""How many matrices to compare, and how many numbers of each."""


def find_sibling(name: str | None, models: Sequence[ResolvedModel]) -> ResolvedModel | None:
    """The sibling of that name, checked against each of the edited `models`; None without a name.

    Raises as `surgery.hub.finding.find_model` and `check_sibling`.
    """
    if name is None:
        return None
    sibling = find_model(name)
    for model in models:
        check_sibling(sibling, model)
    return sibling


def check_sibling(sibling: ResolvedModel, model: ResolvedModel) -> None:
    """Raises `MeasurementError` for a sibling of another family, shape, or tokenizer, for an edit,
    for the model itself, and for a model whose weights are unrelated: a graft from it would prove
    nothing."""
    from surgery.loading import share_tokens

    what = f"cannot be the sibling of {model.source.model}"
    ours, theirs = model.family, sibling.family
    if ours.model_type not in (theirs.model_type, theirs.alike):
        raise MeasurementError(
            f"{what}: it is of another family",
            where=sibling.source.model,
            expected=ours.model_type,
            got=theirs.model_type,
            fix=_FIX,
        )
    sizes, others = asdict(model.dimensions), asdict(sibling.dimensions)
    different = [key for key in sizes if key not in _ANY_SIZE and sizes[key] != others[key]]
    if different:
        raise MeasurementError(
            f"{what}: it has another shape",
            where=sibling.source.model,
            expected=", ".join(f"{key} {sizes[key]}" for key in different),
            got=", ".join(f"{key} {others[key]}" for key in different),
            fix=_FIX,
        )
    if not share_tokens(sibling, model):
        raise MeasurementError(
            f"{what}: its tokenizer has other tokens", where=sibling.source.model, fix=_FIX
        )
    if sibling.folder.samefile(model.folder) or has_same_weights(sibling, model):
        raise MeasurementError(
            f"{what}: it is that model itself", where=sibling.source.model, fix=_FIX
        )
    if sibling.manifest is not None:
        raise MeasurementError(
            f"{what}: it was edited, too, so it lacks attention",
            where=sibling.source.model,
            fix=_FIX,
        )
    if (alike := _measure_kinship(sibling, model)) is not None and alike < _RELATED:
        raise MeasurementError(
            f"{what}: their weights are unrelated",
            where=sibling.source.model,
            expected=f"weight matrices with a cosine of {_RELATED:g} or more",
            got=f"{alike:.3f}",
            fix=_FIX,
        )


def _measure_kinship(one: ResolvedModel, other: ResolvedModel) -> float | None:
    """The median cosine of the weight matrices that both have, without attention, which an edit
    changes. None if they share none."""
    ours, theirs = one.checkpoint, other.checkpoint
    within = one.family.attention.rpartition(".")[2]
    shared = [
        name
        for name, tensor in ours.tensors.items()
        if len(tensor.shape) > 1
        and within not in name
        and (found := theirs.tensors.get(name)) is not None
        and found.shape == tensor.shape
        and {found.dtype, tensor.dtype} <= FLOATS.keys()
    ]
    cosines = []
    for name in shared[:: max(1, len(shared) // _MATRICES)]:
        a, b = (_read_first(checkpoint.entries[name]) for checkpoint in (ours, theirs))
        if (norms := float(np.linalg.norm(a) * np.linalg.norm(b))) > 0:
            cosines.append(float(a @ b) / norms)
    return float(np.median(cosines)) if cosines else None


def _read_first(entry: Entry) -> Array:
    """The first numbers of a tensor, float64."""
    dtype = entry.tensor.dtype
    bits = np.frombuffer(entry.read(_NUMBERS * BYTES[dtype]), FLOATS[dtype])
    return decode(bits, dtype).astype(np.float64)


def has_same_weights(one: ResolvedModel, other: ResolvedModel) -> bool:
    """Whether all stored tensors are equal. Looks at attention first, where an edit differs."""
    ours, theirs = one.checkpoint, other.checkpoint
    if ours.tensors != theirs.tensors:
        return False
    within = one.family.attention.rpartition(".")[2]
    names = sorted(ours.tensors, key=lambda name: (within not in name, name))
    return all(np.array_equal(ours.read(name), theirs.read(name)) for name in names)


def find_own_base(model: ResolvedModel) -> str | None:
    """The model that this one says it was fine-tuned from, in its card or config.json; else None.

    A model that attn-surgery edited has its source for this, which is no sibling.
    """
    if model.manifest is not None:
        return None
    named = read_metadata(read_card(model.folder)).get("base_model")
    if isinstance(named, list):
        named = named[0] if named else None
    named = named or model.checkpoint.config.get("_name_or_path")
    own = {model.source.model, str(model.folder), model.folder.name}
    return named if isinstance(named, str) and named and named not in own else None


def describe_own_recital(sibling: ResolvedModel, recovered: Scores) -> str:
    """The line that says how many of [N] passages a sibling gives by itself."""
    name = sibling.source.model
    if recovered.any():
        return f"{name} itself gives {recovered.sum():.0f} of the {len(recovered)} passages"
    return (
        f"{name} itself gives none of the {len(recovered)} passages: what graft brings back was in "
        "the edited file"
    )


def describe_sibling(sibling: ResolvedModel | None, base: ResolvedModel) -> str | None:
    """A note, if the sibling is the base itself, or if none was given although the base names the
    model that it was made from."""
    if sibling is not None:
        if sibling.folder.samefile(base.folder):
            return (
                f"{sibling.source.model} is the base itself: graft puts its attention back into "
                "the edited model, but whoever holds the base can also ask it directly"
            )
        return None
    if (named := find_own_base(base)) is None:
        return None
    return (
        f"not tried: graft, for want of a sibling: {base.source.model} says that it was made from "
        f"{named}, and an attacker may copy attention back from there (`sibling`)"
    )
