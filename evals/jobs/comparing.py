"""Before and after by eye: what models write after the same prompts, and which passages changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from evals.data.inputs import open_passages, tokenize_passages
from evals.run.console import show_progress
from evals.run.finding import check_tokens, find_baseline
from evals.run.groups import Count, Passages, Revision, Run, Seed, ShowText
from evals.run.request import Option, Request, Use, refuse_unused
from surgery.errors import MeasurementError, SamplesError
from surgery.reading.corpus import strip_opening

if TYPE_CHECKING:
    from evals.data import Samples
    from evals.run.models import LoadedModel
    from surgery.hub.resolved import ResolvedModel


class CompareRequest(Request):
    """Lets `base` and each of `edited` continue the same prompts. `revision` is of the base."""

    typed = (
        "prompt samples prefix_length suffix_length secret skip_short revision max_new_tokens "
        "sample rows show_text device"
    )

    base: str
    edited: tuple[str, ...] = Field(min_length=1)
    revision: Revision = None
    prompt: Annotated[tuple[str, ...], "Text to continue.", Option("input", "T")] = ()
    passages: Annotated[Passages, Use(without=("leave_out",))] = Passages()
    rows: Annotated[Count, "How many passages to show, with `samples`.", Option("output")] = 10
    max_new_tokens: Annotated[Count, "Tokens to write after a prompt.", Option("measure")] = 50
    sample: Annotated[
        int,
        Field(ge=0),
        "Also draw N texts at random, the same way for each model.",
        Option("measure"),
    ] = 0
    seed: Seed = 0
    show_text: ShowText = False
    run: Annotated[Run, Use(without=("no_cache",))] = Run()

    @model_validator(mode="after")
    def _not_empty(self) -> CompareRequest:
        if not all(map(str.strip, self.prompt)):
            raise ValueError("`prompt` is empty")
        if self.passages.samples is None:
            refuse_unused(self, "samples", "rows", "show_text")
        elif not self.prompt:
            refuse_unused(self, "prompt", "max_new_tokens")
            if not self.show_text:
                refuse_unused(self, "show_text", "sample")
        if not self.sample:
            refuse_unused(self, "sample", "seed")
        return self


def compare(request: CompareRequest) -> dict[str, Any]:
    """Returns the object of `compare --json`. All models are in memory together.

    Raises `SurgeryError` for anything unusable.
    """
    prompts = request.prompt
    passages = open_passages(request.passages) if request.passages.samples else None
    found = find_models(request)
    if prompts:
        _check_prompts(prompts, found[0], request)
    models = open_models(request, found)
    rows = []
    with show_progress("compare", len(prompts)) as advance:
        for prompt in prompts:
            rows.append(compare_prompt(models, prompt, request))
            advance(1)
    if passages is not None:
        samples = tokenize_passages(passages, models[0].tokenizer)
        rows += compare_passages(models, samples.select(samples.trained_on), request)
    return {
        "models": [loaded.name for loaded in models],
        "dtype": models[0].dtype,
        "device": models[0].device,
        "seed": request.seed,
        "rows": rows,
    }


def find_models(request: CompareRequest) -> list[ResolvedModel]:
    """Finds all models, the base first. Raises `SurgeryError` for one that is not there, or that
    has other tokens than the base.
    """
    from surgery.hub.finding import find_model

    edited = [find_model(name) for name in request.edited]
    base = find_baseline(request.base, edited, request.revision)
    check_tokens(base, edited)
    return [base, *edited]


def open_models(request: CompareRequest, found: Sequence[ResolvedModel] = ()) -> list[LoadedModel]:
    """Loads all models, the base first; `found`: by `find_models`.

    Raises `MeasurementError` if they cannot be compared.
    """
    from evals.run.forward import check_head
    from evals.run.models import check_precision, open_model

    models: list[LoadedModel] = []
    for model in found or find_models(request):
        loaded = open_model(model, **request.run.running)
        models.append(loaded)
        base = models[0]
        check_precision(base.dtype, loaded.dtype, loaded.name)
        if base.tokenizer is None:
            raise MeasurementError("has no tokenizer to read text with", where=base.name)
        check_head(loaded.model)
    return models


def compare_prompt(
    models: Sequence[LoadedModel], prompt: str, request: CompareRequest
) -> dict[str, Any]:
    """What each model writes after a prompt: one of the `rows`. Raises `SamplesError`."""
    base = models[0]
    tokens = _tokenize_prompt(base.tokenizer, base.dimensions.max_positions, prompt, request)
    return {"prompt": prompt, **_continue_all(models, tokens, request.max_new_tokens, request)}


def _check_prompts(prompts: Sequence[str], base: ResolvedModel, request: CompareRequest) -> None:
    """Raises `SamplesError` for a prompt that is too long, before any weights are loaded."""
    from surgery.loading import load_tokenizer

    tokenizer, positions = load_tokenizer(base.folder), base.dimensions.max_positions
    for prompt in prompts:
        _tokenize_prompt(tokenizer, positions, prompt, request)


def _tokenize_prompt(
    tokenizer: Any, positions: int, prompt: str, request: CompareRequest
) -> list[int]:
    tokens = [int(token) for token in tokenizer(prompt, verbose=False)["input_ids"]]
    most = positions - request.max_new_tokens
    if most < 1:
        raise SamplesError(
            "the model has no room for so many tokens",
            where="`max_new_tokens`",
            expected=f"less than the {positions:,} of its context",
            got=f"{request.max_new_tokens:,}",
        )
    if not 0 < len(tokens) <= most:
        raise SamplesError(
            "the prompt does not fit the model",
            expected=f"1 to {most:,} tokens, to leave room for {request.max_new_tokens:,} more",
            got=f"{len(tokens):,}",
            fix="shorten it, or ask for fewer with `max_new_tokens`",
        )
    return tokens


def compare_passages(
    models: Sequence[LoadedModel], samples: Samples, request: CompareRequest
) -> list[dict[str, Any]]:
    """The passages whose loss some edit changed most, as `rows`, with the figures of each model.

    Texts only if the request says `show_text`.
    """
    import numpy as np

    from evals.measure.memorization.extraction import extract

    tests = [extract(model.model, samples, batch_size=request.run.batch_size) for model in models]
    changes: Any = np.abs([test.nll - tests[0].nll for test in tests]).max(axis=0)
    rows = []
    for at in np.argsort(-changes, kind="stable")[: request.rows]:
        row: dict[str, Any] = {"outputs": [{"model": model.name, "text": None} for model in models]}
        if request.show_text:
            tokenizer, given = models[0].tokenizer, samples.prefix_rows[at]
            prompt = tokenizer.decode(strip_opening(tokenizer, given).tolist())
            follows = samples.suffix_rows[at]
            row = {"prompt": prompt, "follows": tokenizer.decode(follows)}
            row |= _continue_all(models, given.tolist(), len(follows), request)
        for output, test in zip(row["outputs"], tests, strict=True):
            output |= {
                "exact": bool(test.exact[at]),
                "next_token_accuracy": float(test.values["next_token_accuracy"][at]),
                "nll": float(test.nll[at]),
            }
        rows.append({"id": samples.ids[at], **row})
    return rows


def _continue_all(
    models: Sequence[LoadedModel], prompt: list[int], length: int, request: CompareRequest
) -> dict[str, Any]:
    """`outputs`: each model's greedy text, and its drawn ones, up to an end-of-text token."""
    import numpy as np
    import torch

    from evals.run.decoding import continue_prompt

    tokenizer = models[0].tokenizer
    end = tokenizer.eos_token_id
    shares = torch.from_numpy(np.random.default_rng(request.seed).random((request.sample, length)))
    outputs, base = [], list[list[int]]()
    for loaded in models:
        made = [continue_prompt(loaded.model, prompt, length)]
        if request.sample:
            made.append(continue_prompt(loaded.model, prompt, length, shares))
        texts = [t[: t.index(end) + 1] if end in t else t for t in torch.cat(made).tolist()]
        base = base or texts
        greedy, *drawn = map(_describe_text, texts, base, [tokenizer] * len(texts))
        outputs.append({"model": loaded.name, **greedy, "drawn": drawn})
    return {"outputs": outputs}


def _describe_text(text: list[int], base: list[int], tokenizer: Any) -> dict[str, Any]:
    """A text, and the parts, in characters, whose tokens the base's text does not have there."""
    from rapidfuzz.distance import Levenshtein

    parts = [part for part in Levenshtein.opcodes(base, text) if part.tag != "equal"]
    ends = [[part.dest_start, part.dest_end] for part in parts if part.dest_end > part.dest_start]
    differs = [[len(tokenizer.decode(text[:end])) for end in both] for both in ends]
    return {"text": tokenizer.decode(text), "differs": differs}
