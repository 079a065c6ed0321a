"""The request for an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from evals.measure.attacks.request import Attacking
from evals.run.lm_eval.request import Benchmarking
from evals.run.lm_eval.tasks import SUITES
from evals.run.request import Measuring
from surgery.hub.embedded import find_lab
from surgery.privacy import make_public_name


class EvaluationRequest(Measuring, Benchmarking, Attacking):
    """Compares each of `models` with `baseline` on the same documents, passages and text.

    - Neither `tasks` nor `suite`: the suite "lab" for a lab model, and "standard" for others.
      `no_benchmarks`: no tasks at all.
    - `samples`: passages. `control`: text that no model was trained on. A lab model has its own.
    - `twin`: a model that never saw the passages. The report says how far each edit goes from the
      base toward it.
    - `heal`: the text that a healed model was healed on, to heal the baseline the same way.
    - `audit`: try the default attacks; `attack`: only these.
      `draws`: runs of each attack that trains; None: five, or fewer where one takes long.
    - Gates: `max_drop`: task or pattern → the largest loss allowed; `max_extraction`: the highest
      share of passages recited; `max`: attack → the highest share recovered.
    - `front`: a search's JSON, for the picture of the trade-off.
    - `no_cache`: run the base's benchmarks again. `show_text`: write the passages' texts, too.
    """

    models: tuple[str, ...] = Field(min_length=1)
    baseline: str
    no_benchmarks: bool = False
    num_fewshot: int | None = Field(default=None, ge=0)
    samples: str | None = None
    control: tuple[Path, ...] = ()
    max_drop: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    max_extraction: float | None = Field(default=None, ge=0, le=1)
    twin: str | None = None
    heal: tuple[str, ...] = ()
    audit: bool = False
    attack: tuple[str, ...] = ()
    draws: int | None = Field(default=None, ge=1)
    front: Path | None = None
    no_cache: bool = False
    show_text: bool = False

    @model_validator(mode="after")
    def _agree(self) -> EvaluationRequest:
        for name in ("tasks", "suite", "limit", "include_path", "num_fewshot"):
            if self.no_benchmarks and getattr(self, name) not in (None, ()):
                raise ValueError(f"`no_benchmarks` excludes `{name}`")
        if self.no_benchmarks and not (self.lab or self.samples or self.control):
            raise ValueError("nothing is left to measure: give `samples` or `control`")
        if len(self.models) > 1 and self.revision is not None:
            raise ValueError(
                "`revision` applies to one MODEL only: export or download the others first"
            )
        if self.lab is None:
            if self.max_extraction is not None and self.samples is None:
                raise ValueError("`max_extraction` needs passages: give `samples`")
            for name in ("samples", "control"):
                if self._attacked and not getattr(self, name):
                    what = "attacks need passages and held-out text"
                    raise ValueError(f"{what}: give `{name}`")
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among those compared, if any; it has text of its own."""
        return find_lab(*self.models, self.baseline)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, groups and patterns to run."""
        if self.no_benchmarks:
            return ()
        return super().task_names or tuple(SUITES["lab" if self.lab else "standard"])

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks to try: none unless `audit`, `attack` or `max` is given."""
        from evals.measure.attacks.names import choose_attacks

        if not self._attacked:
            return ()
        return choose_attacks(self.attack, self.max, sibling=self.sibling is not None)

    @property
    def limits(self) -> list[float]:
        """The limits on shares of passages."""
        return [*([] if self.max_extraction is None else [self.max_extraction]), *self.max.values()]

    @property
    def _attacked(self) -> bool:
        return bool(self.audit or self.attack or self.max)

    def to_record(self, models: Sequence[str], baseline: str, **measured: Any) -> EvaluationRequest:
        """The request as a report records it, with names for paths and `measured` defaults."""
        return self.model_copy(
            update={
                "models": tuple(models),
                "baseline": baseline,
                "tasks": self.task_names,
                "suite": None,
                "include_path": tuple(Path(make_public_name(place)) for place in self.include_path),
                "twin": self.twin and make_public_name(self.twin),
                "sibling": self.sibling and make_public_name(self.sibling),
                "front": self.front and Path(make_public_name(self.front)),
                "audit": False,
                "attack": self.attacks,
                "no_cache": False,
                "device": None,
                "heal": tuple(make_public_name(text) for text in self.heal),
                "control": tuple(Path(make_public_name(file)) for file in self.control),
                **measured,
            }
        )

    def to_command(self) -> str:
        """The command for the same request, as you would type it."""
        from evals.measure.attacks.names import shorten_names

        plain = self.model_dump(exclude={"models"}) | {
            "tasks": ",".join(self.tasks) or None,
            "attack": shorten_names(self.attack, sibling=self.sibling is not None),
        }
        words = ["attn-surgery", "evaluate", *self.models]
        for name, value in plain.items():
            words += _type_option(f"--{name.replace('_', '-')}", value)
        return shlex.join(words)


def _type_option(option: str, value: Any) -> list[str]:
    if value is None or isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, Mapping):
        value = [f"{name}={str(limit).removesuffix('.0')}" for name, limit in value.items()]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values for word in (option, str(one))]
