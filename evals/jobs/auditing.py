"""The audit: runs every attack on the base, the edited model, and text never trained on."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, model_validator

from evals.data import Samples, Tokens
from evals.data.held_back import HeldBack, hold_back
from evals.data.inputs import (
    Progress,
    Say,
    find_baseline,
    find_last,
    measure_in_turn,
    open_passages,
    require_heldout_texts,
    say_nothing,
    show_nothing,
    tokenize_passages,
)
from evals.data.windows import cut_windows
from evals.measure.attacks.names import HEALED, choose_attacks
from evals.measure.attacks.request import Attacking
from evals.measure.attacks.result import (
    AllRecovered,
    AuditReport,
)
from evals.measure.attacks.sibling import describe_own_recital, describe_sibling, find_sibling
from evals.measure.attacks.trying import AttackPlan, AuditedModel, compare_models, try_attacks
from evals.measure.verdicts import describe_limits, foresee, join_sentences, settle
from evals.report.attack_sentences import UNTRAINED, describe_attacks, has_trained
from evals.report.attacks_picture import PICTURES, draw_audit
from evals.run.models import LoadedModel
from evals.run.request import Measuring
from surgery.hub.embedded import find_lab
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.output import check_output, create_folder, recognize_by, write_lines
from surgery.processes import join_launch, leave_launch
from surgery.record.manifest import Manifest, list_versions

_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("audit.json", ("attacks", "limits"), *_PICTURES)


class AuditRequest(Measuring, Attacking):
    """Measures what attackers recover of `samples` from `model` and from `baseline`.

    - `samples`, `control`: passages, and text that no model was trained on. Empty: a lab model's
      own.
    - `attack`: names; empty: the default set. Attacks with a limit in `max` also run.
    - `draws`: runs of each attack that trains; None: five, or fewer where one takes long.
    - `twin`: a model that never saw the passages. Results also say how far the edit goes from the
      base toward it.

    Raises `UnknownNameError` for an unknown attack.
    """

    model: str
    baseline: str
    samples: str | None = None
    control: tuple[Path, ...] = ()
    attack: tuple[str, ...] = ()
    draws: int | None = Field(default=None, ge=1)
    twin: str | None = None

    @model_validator(mode="after")
    def _can_be_tried(self) -> AuditRequest:
        if self.samples is None and self.lab is None:
            raise ValueError("audit needs passages: give `samples`")
        assert self.tried
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among the two, if any."""
        return find_lab(self.model, self.baseline)

    @property
    def tried(self) -> tuple[str, ...]:
        """The names of the attacks to run."""
        from evals.measure.attacks.names import choose_attacks

        return choose_attacks(self.attack, self.max, sibling=self.sibling is not None)


def audit(
    request: AuditRequest,
    folder: Path | None = None,
    *,
    overwrite: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> AuditReport | None:
    """Audits a request's models, and writes the result into `folder` if you give one.

    Returns None on all processes but the main one. Raises `SurgeryError` if the request names
    anything unusable, or if the folder cannot be written.
    """
    if folder is not None:
        check_output(folder, owned, overwrite=overwrite)
    passages = open_passages(request.samples or str(request.lab), request)
    texts = require_heldout_texts(request.control, request.lab or request.model, option="control")
    join_launch(say)
    edited = find_last(request.model, request)
    base = find_baseline(request.baseline, [edited], say=say)
    between = [find_model(request.twin)] if request.twin else []
    sibling = find_sibling(request.sibling, [edited])
    if (line := describe_sibling(sibling, base)) is not None:
        say(line)

    def prepare(loaded: LoadedModel) -> tuple[AttackPlan, HeldBack]:
        samples = tokenize_passages(passages, loaded.tokenizer, say)
        windows = cut_windows(texts, loaded.tokenizer, samples.tokens.shape[1])
        return _plan_attacks(request, samples, windows, edited.manifest, sibling, say)

    def attack(
        loaded: LoadedModel, shared: tuple[AttackPlan, HeldBack], is_last: bool
    ) -> AuditedModel:
        plan, _ = shared
        with progress(f"audit {loaded.name}", len(plan.tried)) as advance:
            done.append(try_attacks(loaded, plan, *done[:1], with_control=is_last, advance=advance))
        return done[-1]

    done: list[AuditedModel] = []
    models = [base, *between, edited]
    (plan, left), (before, *twins, after) = measure_in_turn(models, request, prepare, attack, say)
    if sibling is not None and "graft" in after.passages:
        grafted = after.passages["graft"]
        say(describe_own_recital(sibling, grafted.kept, len(grafted.recovered)))
    if not leave_launch():
        return None
    report = _make_report(request, plan, left, before, after, *twins)
    if folder is not None:
        config = request.to_config()
        with create_folder(folder, owned, overwrite=overwrite, config=config) as partial:
            write_lines(partial / "audit.json", [json.dumps(report.to_dict(), indent=2)])
            draw_audit(report.to_dict(), partial)
    return report


def _plan_attacks(
    request: AuditRequest,
    samples: Samples,
    windows: Tokens,
    manifest: Manifest | None,
    sibling: ResolvedModel | None,
    say: Say,
) -> tuple[AttackPlan, HeldBack]:
    """Plans the attacks, and finds out which passages did not choose the edit of `manifest`."""
    left = hold_back([manifest], samples, windows)
    if warning := left.chose.model_copy(update={"windows": 0}).warning:
        say(f"warning: {warning}")
    tried = request.tried
    if manifest is not None and manifest.is_healed:
        tried = choose_attacks((*tried, *HEALED))
    plan = AttackPlan(
        samples, windows, tried, request.batch_size, request.max, request.draws, sibling
    )
    for name, needs in plan.skipped.items():
        say(f"skipped: {name} needs {needs}")
    for line in foresee(request.max.values(), int(left.passages[samples.trained_on].sum())):
        say(line)
    return plan, left


def _make_report(
    request: AuditRequest,
    plan: AttackPlan,
    left: HeldBack,
    base: AuditedModel,
    after: AuditedModel,
    twin: AuditedModel | None = None,
) -> AuditReport:
    """Figures of the passages held back; if some chose the edit, also the rates of all."""
    counted = left.passages[plan.samples.trained_on]
    figures = compare_models(plan, base, after, counted, twin)
    all_passages = None
    if not counted.all():
        every = compare_models(plan, base, after)
        all_passages = AllRecovered(n=every.n, recovered=every.recovered)
    limits = figures.check_limits(request.max)
    said = [describe_limits(limits), *describe_attacks(figures)]
    said += [] if has_trained(figures) else [UNTRAINED]
    return AuditReport(
        **dict(figures),
        chose=left.chose,
        all_passages=all_passages,
        prefix_length=plan.samples.prefix_length,
        suffix_length=plan.samples.suffix_length,
        limits=limits,
        state=settle(limit.state for limit in limits),
        verdict=join_sentences(said),
        provenance={
            "base": base.provenance,
            "edited": after.provenance,
            **({"twin": twin.provenance} if twin else {}),
            **({"sibling": plan.sibling.identified.model_dump()} if plan.sibling else {}),
            "samples_sha256": plan.samples.sha256,
            "versions": list_versions(),
        },
    )
