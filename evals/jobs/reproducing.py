"""A history that is replayed from the record of a folder, with the same text and passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.data.inputs import find_calibration_text, fit_prepared, read_lab_text
from evals.jobs.lessons import read_never
from evals.measure.healing import find_healing_text, take_members
from evals.run import groups
from evals.run.console import show_progress
from surgery.errors import SamplesError, UnsupportedError
from surgery.hub.embedded import LAB_TEXT, find_lab
from surgery.record.manifest import ErasingRecord, PassagesRecord, Source

if TYPE_CHECKING:
    from evals.data import PassageSource
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Export, Trained
    from surgery.fitting.calibration import Calibration, Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import (
        ChosenOn,
        HealingRecord,
        Step,
        TextRecord,
    )
    from surgery.reproduction import Reproduction
    from surgery.training.distillation import TaughtRows
    from surgery.training.erasing import NeverRows
    from surgery.training.training import Schedule
    from surgery.training.ways.way import Way


def reproduce_history(
    model: str,
    output: Path | None = None,
    *,
    revision: str | None = None,
    source: str | None = None,
    calibration: Sequence[str] = (),
    heal: Sequence[str] = (),
    text: Sequence[str] = (),
    by: str | None = None,
    samples: str | None = None,
    never: str | None = None,
    id_column: str | None = None,
    secret: str | None = None,
    overwrite: bool = False,
) -> Reproduction:
    """Replays the steps that `model` records: cuts fitted on `calibration` or a lab's own text,
    erasings on `text`, `samples`, and `never`, and healings on `heal` and `samples`. `by`: the
    model that taught an erasing, if the recorded one cannot be found.

    Arguments and errors are those of `surgery.reproduction.reproduce`. Raises `SamplesError`,
    which names what is recorded, for a model that needs text or passages which were not given, and
    `UnsupportedError` for one that an earlier version healed.
    """
    from surgery.exporting import check_target
    from surgery.reproduction import open_original, reproduce

    if output is not None:
        check_target(model, output, overwrite=overwrite)
    original = open_original(model, revision)
    inputs = Inputs(model, calibration, heal, text, by, samples, never, id_column, secret)
    inputs.check(original.manifest.history)
    with show_progress("reproduce", None):
        return reproduce(original, inputs.repeat, output, source=source, overwrite=overwrite)


@dataclass(frozen=True)
class Inputs:
    """What a replay of `model` is given: text and passages, by the option that names them."""

    model: str
    calibration: Sequence[str] = ()
    heal: Sequence[str] = ()
    text: Sequence[str] = ()
    by: str | None = None
    samples: str | None = None
    never: str | None = None
    id_column: str | None = None
    secret: str | None = None

    def check(self, history: Sequence[Step]) -> None:
        """Raises `SamplesError` for what the model was not made with, and one that names all that
        is missing, if more than one thing is."""
        healed = [step.healing for step in history if step.healing]
        erased = [step.erasing for step in history if step.erasing]
        teachers = [one.teacher for one in erased if isinstance(one.teacher, Source)]
        kept = [one.never.kept for one in erased if one.never]
        fitted = [step.fitted_on for step in history if step.fitted_on]
        taught = [step.training.passages for step in history if step.training]
        taught = [passages for passages in taught if passages is not None]
        for option, used, what in (
            ("heal", healed, "was not healed"),
            ("text", erased, "was not erased"),
            ("by", teachers, "was not taught by another model"),
            ("samples", taught, "was made without passages"),
            ("never", kept, "was made without records to keep"),
            ("id_column", taught, "was made without passages"),
            ("secret", taught, "was made without passages"),
        ):
            if getattr(self, option) and not used:
                raise SamplesError(what, where=self.model, fix=f"leave `{option}` out")
        records: dict[str, Sequence[TextRecord]] = {
            "calibration": fitted,
            "heal": healed,
            "text": erased,
        }
        lacks = {}
        for option, texts in records.items():
            sources = {str(source): source.name for text in texts for source in text.sources}
            if sources and not getattr(self, option) and {*sources.values()} != {LAB_TEXT}:
                lacks[option] = ", ".join(sources)
        named = [
            one for one in taught if isinstance(one, PassagesRecord) and not find_lab(one.name)
        ]
        if named and not self.samples:
            lacks["samples"] = f"{named[0].name}: {named[0].number:,} passages"
        if kept and not self.never:
            lacks["never"] = f"{kept[0].name}: half of its records, {kept[0].number:,}"
        if len(lacks) > 1:
            raise SamplesError(
                "needs what it was made with",
                where=self.model,
                expected="; ".join(lacks.values()),
                fix="give it with " + ", ".join(f"`{option}`" for option in lacks),
            )
        for teacher in teachers:
            self._find_teacher(teacher)

    def repeat(
        self,
        step: Step,
        model: ResolvedModel,
        output: Path,
        first: ResolvedModel,
        fitting: Fitting | None = None,
    ) -> tuple[Export, Fitting | None]:
        """Repeats one step (`surgery.reproduction.Repeat`)."""
        from surgery.editing.preparing import prepare
        from surgery.exporting import write

        parts = tuple(step.cut_parts) or None
        cut: dict[str, Any] = {}
        if step.kind == "cut":
            cut = {"layout": step.layout, "save_as": step.family, "scrubbed": step.scrubbed}
        prepared = prepare(model, parts, name=step.source.model, **cut)
        prepared = replace(prepared, chosen=step.chosen)
        if fitting is None:
            fitting = self._fit(step, prepared)
        trained = None
        if step.erasing is not None:
            trained = self._erase(step, step.erasing, prepared, fitting)
        elif step.healing is not None:
            trained = self._heal(step, step.healing, prepared, first)
        export = write(
            prepared if step.kind == "cut" else prepared.without_cut,
            output,
            fitting=fitting if step.kind == "cut" else None,
            trained=trained,
            max_shard_size=step.max_shard_size,
        )
        return export, fitting

    def _fit(self, step: Step, prepared: Prepared) -> Fitting | None:
        """Fits what was cut, in the model or in its teacher, on the recorded text."""
        from surgery.reproduction import check_fitted_text

        record = step.fitted_on
        if record is None:
            variants = [part.variant for part in step.cut_parts]
            text = find_calibration_text(self.calibration, step.source.model, variants)
            return None if text is None else fit_prepared(prepared, text)
        text = self._find_text(self.calibration, record, "calibration")
        fitting = fit_prepared(prepared, replace(text, spread=record.spread))
        if fitting.record is not None:
            check_fitted_text(record, fitting.record)
        return fitting

    def _erase(
        self, step: Step, record: ErasingRecord, prepared: Prepared, fitting: Fitting | None
    ) -> Trained:
        from surgery.training.erasing import teach_to_forget

        text, schedule, passages = self._read_again(step, record, prepared.model, "text")
        assert passages is not None
        never = self._read_never(step, record, prepared.model)
        with show_progress("erase", schedule.steps) as advance:
            return teach_to_forget(
                prepared.without_cut,
                self._find_way(record, prepared, fitting),
                *(passages, text, schedule, never),
                as_adapter=step.is_adapter,
                advance=advance,
                **_choose_place(record),
            )

    def _read_never(
        self, step: Step, record: ErasingRecord, model: ResolvedModel
    ) -> NeverRows | None:
        """The records whose predictions were kept, and the others. Raises `SamplesError` for
        others than the recorded ones."""
        if record.never is None:
            return None
        recorded = record.never.kept
        if self.never is None:
            raise SamplesError(
                "needs the records that it was made to keep",
                where=self.model,
                expected=f"{recorded.name}: half of its records, {recorded.number:,}",
                fix="give them with `never`",
            )
        cut: dict[str, Any] = {"prefix_length": recorded.prefix_length, "skip_short": True}
        cut |= {"suffix_length": recorded.suffix_length, "secret": self.secret}
        asked = groups.Passages(**cut, id_column=self.id_column)
        passages = self._open_passages(record.passages, step.chosen)
        found = read_never(self.never, asked, passages, model)
        if found.kept.sha256 != recorded.sha256:
            raise SamplesError(
                "does not hold the records that the model was made to keep",
                where=self.never,
                expected=f"{recorded.name}: {recorded.number:,} records of SHA-256 "
                f"{recorded.sha256[:12]}",
                got=f"{len(found.kept.tokens):,} of {found.kept.sha256[:12]}",
                fix="give the same records, and the same `secret` if there was one",
            )
        return found

    def _find_way(self, record: ErasingRecord, prepared: Prepared, fitting: Fitting | None) -> Way:
        """The recorded way. `prepared`: with the cut of a teacher that is one."""
        from surgery.editing.preparing import Fitting
        from surgery.training.ways.cut import ByCut
        from surgery.training.ways.model import ByModel
        from surgery.training.ways.names import open_recorded

        if isinstance(record.teacher, list):
            return ByCut(prepared, fitting or Fitting())
        if isinstance(record.teacher, Source):
            return ByModel(self._find_teacher(record.teacher))
        return open_recorded(record.teacher)

    def _find_teacher(self, recorded: Source) -> ResolvedModel:
        """The model that taught. Raises `SourceError` if it is not here, or is another one."""
        from surgery.hub.finding import check_source, find_folder, find_recorded, require_source

        beside = find_folder(self.model)
        named = self.by or require_source(recorded, beside, self.model, "by")
        found = find_recorded(named, None, recorded)
        check_source(found, recorded, named, "by")
        return replace(found, source=recorded)

    def _heal(
        self, step: Step, record: HealingRecord, prepared: Prepared, first: ResolvedModel
    ) -> Trained:
        from surgery.training.healing import find_teacher, heal_by_source

        _refuse_earlier(step, self.model)
        text, schedule, passages = self._read_again(step, record, prepared.model, "heal")
        is_teacher = record.teacher is None or first.is_that(record.teacher)
        # one that no step made is the first source, maybe split into other files
        teacher = first if is_teacher or first.manifest is None else find_teacher(first)
        with show_progress("heal", schedule.steps) as advance:
            return heal_by_source(
                *(prepared, teacher, text, schedule, passages),
                advance=advance,
                **_choose_place(record),
            )

    def _read_again(
        self, step: Step, record: ErasingRecord | HealingRecord, model: ResolvedModel, option: str
    ) -> tuple[Calibration, Schedule, TaughtRows | None]:
        """How and on what a model was trained. Raises `SamplesError` for other text or passages."""
        from surgery.editing.loading import load_tokenizer
        from surgery.training.training import Schedule

        done = "taught" if step.erasing else "healed"
        schedule = Schedule(record.steps, record.seed, record.rank, record.learning_rate)
        if isinstance(record, ErasingRecord):
            schedule = replace(schedule, hardened=bool(record.hardened))
        given = self.text if option == "text" else self.heal
        text, named = self._find_text(given, record, option), ", ".join(map(str, record.sources))
        tokenizer, size = load_tokenizer(model.folder), model.inventory.dimensions
        tokens = schedule.tokenize(
            text, tokenizer, size, lambda windows: f"give the recorded text, {named}"
        )
        now = tokens.record_text()
        if now.sha256 != record.sha256:
            raise SamplesError(
                f"is not the text that the model was {done} on",
                where=", ".join(source.name for source in now.sources),
                expected=f"{named}, tokens of SHA-256 {record.sha256[:12]}",
                got=now.sha256[:12],
            )
        if step.passages is None:
            return tokens, schedule, None
        opened, recorded = self._open_passages(step.passages, step.chosen), step.passages
        taught = take_members(opened.tokenize(tokenizer), size, opened.leave_out)
        if taught.sha256 != recorded.sha256:
            raise SamplesError(
                f"does not hold the passages that the model was {done} with",
                where=taught.name,
                expected=f"{recorded.name}: {recorded.number:,} passages of SHA-256 "
                f"{recorded.sha256[:12]}",
                got=f"{len(taught.tokens):,} of {taught.sha256[:12]}",
                fix="give the same passages, and the same `secret` if there was one",
            )
        return tokens, schedule, taught

    def _find_text(self, named: Sequence[str], record: TextRecord, option: str) -> Text:
        """The recorded text, which `option` names, or which is the lab's. Raises `SamplesError` if
        none is `named`; whoever reads the text compares its tokens."""
        if named:
            return find_healing_text(named)
        if {source.name for source in record.sources} == {LAB_TEXT}:
            return read_lab_text()
        raise SamplesError(
            "needs the text that it was made with",
            where=self.model,
            expected=", ".join(map(str, record.sources)),
            fix=f"give each file with `{option}`",
        )

    def _open_passages(self, record: PassagesRecord, chosen: ChosenOn | None) -> PassageSource:
        """The recorded passages, which `samples` names, or which are a lab's. Raises
        `SamplesError`; whoever reads them compares their tokens."""
        from evals.data import open_samples

        if self.samples is None and not find_lab(record.name):
            raise SamplesError(
                "needs the passages that it was made with",
                where=self.model,
                expected=f"{record.name}: {record.number:,} passages",
                fix="give them with `samples`",
            )
        return open_samples(
            self.samples or record.name,
            prefix_length=record.prefix_length,
            suffix_length=record.suffix_length,
            skip_short=True,
            leave_out=record.leave_out,
            chosen=chosen if chosen is not None and chosen.passages == record.sha256 else None,
            id_column=self.id_column,
            secret=self.secret,
        )


def _choose_place(record: HealingRecord | ErasingRecord) -> dict[str, Any]:
    """The recorded device, and the dtype of passes there."""
    import torch

    from surgery.training.training import get_passes

    return {"device": torch.device(record.device), "passes": get_passes(record)}


def _refuse_earlier(step: Step, model: str) -> None:
    """Raises `UnsupportedError` for healing by the loss of earlier versions."""
    if step.healing and step.healing.loss == "text":
        wrote = step.versions.get("attn-surgery", "an earlier version")
        raise UnsupportedError(
            "was healed by another loss, the next-token loss, so it cannot be healed again",
            where=model,
            expected="a model that this version healed",
            got=f"attn-surgery {wrote}",
            fix="use that version to reproduce it",
        )
