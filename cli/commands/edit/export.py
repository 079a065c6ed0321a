"""attn-surgery export"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.filesize import decimal

from cli import options
from cli.requests import fill_request, options_of, request_command
from cli.tables.figures import print_report
from cli.terminal import echo, note, note_unmeasured, print_json
from evals.jobs.asking import EvaluationRequest
from evals.jobs.exporting import ExportRequest, name_output, run_export
from surgery.hub.embedded import find_lab

if TYPE_CHECKING:
    from evals.jobs.materials import Materials
    from surgery.exporting import Export
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.measured import State


_OF_PASSAGES = {
    "samples", "prefix_length", "suffix_length", "secret", "skip_short", "id_column", "leave_out",
}  # fmt: skip
"""Options that name passages: for --erase, for the guard of --heal, or for --evaluate."""
_OF_BASE = {"baseline", "twin", "sibling", "front", "dtype", "device_map", "batch_size", "no_cache"}
"""Options of `evaluate` that export does not have."""


@request_command("export", ExportRequest)
@click.argument("model", default="EleutherAI/pythia-1.4b")
@options.flag(
    "--dry-run",
    "Show the plan. Read no weights and write nothing. A Hub model is downloaded first.",
    group="run",
)
@options.overwrite
@options.flag(
    "--evaluate",
    "Verify the result, evaluate it against MODEL, and put the report into DIR. The options for "
    "passages, tasks, attacks, and limits say what is measured. The exit code is 3 if a limit is "
    "missed. Otherwise, it is 4 if one is not decided.",
    "with_evaluation",
    group="measure",
)
@options_of(EvaluationRequest, without={*ExportRequest.model_fields, *_OF_BASE, "show_text"})
@options.allow_undecided
@options.option(
    "--push-to-hub",
    "REPO",
    "Push the result to OWNER/NAME on the Hub, as a private repository, unless a limit is "
    "missed or, without --allow-undecided, not decided.",
    None,
    "repo",
    group="output",
)
@options.json
def command(
    request: ExportRequest,
    dry_run: bool,
    with_evaluation: bool,
    repo: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make chosen blocks of MODEL attention-free and save a checkpoint.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). The default is
    EleutherAI/pythia-1.4b. The source is never changed, and the output appears only when it is
    complete.
    """
    for name, given in (("push-to-hub", repo is not None), ("evaluate", with_evaluation)):
        if given and dry_run:
            raise click.UsageError(f"--{name} and --dry-run exclude each other")
    if repo is not None and asked["max_drop"] and (asked["limit"] or asked["suite"] == "quick"):
        what = "--push-to-hub needs whole benchmarks to decide --max-drop"
        raise click.UsageError(f"{what}: leave --limit and --suite quick out")

    from surgery.plan import plan_as_json
    from surgery.publishing.upload import check_destination

    if repo is not None:
        check_destination(repo)
    if not dry_run:
        request.check_output()
    materials = None
    if with_evaluation:
        materials = _open_materials(request, asked)
    else:
        trained = request.heal or request.erase
        _refuse_unused(asked.keys() if trained else asked.keys() | _OF_PASSAGES)
    prepared, export = run_export(request, dry_run=dry_run)
    if request.layout == "auto":
        note(f"layout {prepared.plan.layout.NAME}: {prepared.plan.reason}")
    if export is None:
        target = request.output or name_output(request, prepared)
        _print_plan({"output": str(target), **plan_as_json(prepared.plan)}, as_json)
        return
    one_hot, context = export.plan.one_hot, export.plan.cast_context or 0
    if one_hot is not None and context <= one_hot.num_offsets:
        note(
            "Load it in the dtype you want: from_pretrained(dtype=…). If you cast it later "
            f"(model.to), the edit is exact in contexts of up to {context:,} tokens only."
        )
    if materials is None:
        note_unmeasured(export.output, _find_first(request.model, prepared.model))
    allowed = {"allow_undecided": asked["allow_undecided"], "as_json": as_json}
    _finish_export(prepared.model, export, materials, repo, **allowed)


def _find_first(model: str, found: ResolvedModel) -> str:
    """The model before all edits, if `model` is itself an edit and records where that is found."""
    if found.manifest is None:
        return model
    first = found.manifest.sources[-1]
    return first.model if first.commit or find_lab(first.model) else model


def _open_materials(request: ExportRequest, asked: dict[str, Any]) -> Materials:
    """Opens and checks what is needed to evaluate, so that mistakes come before any work."""
    model = request.model
    edited = {"models": (model,), "baseline": model, "revision": None}
    wanted = fill_request(EvaluationRequest, dict(request) | asked, **edited)

    from evals.jobs.materials import open_materials
    from evals.jobs.measurement import check_inputs
    from surgery.hub.finding import find_model

    materials = open_materials(wanted, [(model, request.revision)])
    check_inputs(find_model(model, request.revision), materials)
    return materials


def _refuse_unused(names: Iterable[str]) -> None:
    """Raises `UsageError` for options of the evaluation where none was asked for."""
    context = click.get_current_context()
    given = (context.get_parameter_source(name) for name in names)
    if any(source not in (None, ParameterSource.DEFAULT) for source in given):
        raise click.UsageError("options that say what to measure need --evaluate")


def _finish_export(
    source: ResolvedModel,
    export: Export,
    materials: Materials | None,
    repo: str | None,
    *,
    allow_undecided: bool,
    as_json: bool,
) -> None:
    """Evaluates, pushes, and prints an export. Exits as its gates demand."""
    result: dict[str, Any] = export.to_json()
    state: State | None = None
    if not as_json:
        how = f"{result['variant']}, {result['layout']}"
        size = decimal(result["bytes"])
        echo(f"{export.output}: {export.plan.spec} attention-free ({how}), {size}")
        for name, file in export.beside.items():
            echo(f"{file}: the same as a {name.upper()} file, {decimal(file.stat().st_size)}")
        for block, fit in ((result["calibration"] or {}).get("blocks") or {}).items():
            if fit["r2"] is not None:
                shared = fit["r2_shared"] if export.plan.layout.NAME == "stock" else None
                stored = "" if shared is None else f", {shared:.3f} with one map for each group"
                echo(f"  block {block}: R² of the fit {fit['r2']:.3f}{stored}")
    try:
        if materials is not None:
            from evals.jobs.evaluating import evaluate_exports

            result["evaluation"] = None
            report = evaluate_exports(source, materials, [export.output])
            result["evaluation"] = report.to_dict()
            state = print_report(report, export.output, table=not as_json)
        if repo is not None:
            result["push"] = None
            if state in ("kept", None) or (state == "undecided" and allow_undecided):
                from surgery.publishing.upload import push

                done = push(export.output, repo, allow_undecided=allow_undecided)
                result["push"] = done.to_json()
            else:
                how = "missed" if state == "missed" else "not decided"
                note(f"not pushed to {repo}: a limit is {how}")
    finally:  # the export is there, whatever becomes of the rest
        if as_json:
            print_json(result)
    if result.get("push") and not as_json:
        echo(f"pushed to {result['push']['url']}")
    options.end_with(state, allow_undecided=allow_undecided)


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, **plan})
        return
    for key in ("family", "num_blocks", "dtype", "variant", "layout", "blocks"):
        echo(f"{key + ':':<12}{plan[key]}")
    for part in plan["parts"]:
        heads = ", ".join(map(str, part["heads"]))
        echo(f"{'part:':<12}block {part['block']}, heads {heads}: {part['variant']}")
    if (one_hot := plan["one_hot"]) is not None:
        echo(
            f"{'one-hot:':<12}constant {one_hot['kappa']} on {one_hot['num_pairs']} rotary pairs, "
            f"gap {one_hot['gap']:.0f} (needs {one_hot['required']:.0f}) over "
            f"{one_hot['num_offsets']} offsets"
        )
        echo(f"{'after cast:':<12}exact in contexts of up to {plan['cast_context']:,} tokens")
    for change in plan["changes"]:
        echo(f"{change['action'] + ':':<12}{change['name']} {list(change['shape']) or ''}")
