"""The names of ways, and what opens each. A cut has options of its own, so others open it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from surgery.errors import SourceError, UnknownNameError, UnsupportedError

if TYPE_CHECKING:
    from surgery.hub.resolved import ResolvedModel
    from surgery.training.ways.way import Way

CUT = "cut"
CONTEXT = "context:"
WAYS = (f"{CONTEXT}8", CUT)
"""Those that need no other model, in the order that our measurements recommend."""
_TOKENS = re.compile(rf"{CONTEXT}([1-9][0-9]{{0,6}})")


def read_context(by: str) -> int | None:
    """How many tokens the model sees that teaches itself; None for another way.

    Raises `UnknownNameError` if that is no number.
    """
    if not by.startswith(CONTEXT):
        return None
    if (found := _TOKENS.fullmatch(by)) is None:
        raise UnknownNameError(
            "no such way", where="`by`", expected=f"{CONTEXT}K, such as context:8", got=by
        )
    return int(found[1])


def names_model(by: str) -> bool:
    """Whether another model teaches."""
    return by != CUT and not by.startswith(CONTEXT)


def open_way(by: str, student: ResolvedModel) -> Way:
    """The way of a name, but for a cut.

    Raises as `read_context`, and `UnsupportedError` for a teacher with other tokens than the
    student, or another number of them; one on the Hub is then not downloaded.
    """
    from surgery.training.ways.context import ByContext
    from surgery.training.ways.model import ByModel

    if (tokens := read_context(by)) is not None:
        return ByContext(tokens)
    return ByModel(_find_teacher(by, student))


def _find_teacher(by: str, student: ResolvedModel) -> ResolvedModel:
    from surgery.families import family_of
    from surgery.hub.finding import find_model
    from surgery.loading import share_tokens

    number = student.dimensions.vocabulary

    def refuse(expected: object, got: object) -> UnsupportedError:
        return UnsupportedError(
            f"has other tokens than {student.source.model}, so it cannot teach it",
            where=by,
            expected=expected,
            got=got,
            fix="name a model with the same tokens in `by`",
        )

    def check(config: dict[str, Any]) -> None:
        if (others := family_of(config).dimensions(config).vocabulary) != number:
            raise refuse(f"a vocabulary of {number:,}", f"{others:,}")

    try:
        teacher = find_model(by, check=check)
    except SourceError as error:
        if "/" in by or by.startswith("lab:"):  # meant as a model
            raise
        raise UnknownNameError(
            "no such way, and no such model",
            where="`by`",
            expected=f"{CONTEXT}K, {CUT}, a folder, or OWNER/NAME",
            got=by,
        ) from error
    check(teacher.checkpoint.config)
    if not share_tokens(student, teacher):
        raise refuse("the same text for each token id", "another tokenizer")
    return teacher
