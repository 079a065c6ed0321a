"""attn-surgery export"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from cli.evaluating import evaluation_options, say_gates
from cli.exporting import evaluate_exports, open_wanted, push_if_passed
from cli.options import (
    PATH,
    Size,
    ask,
    calibration_option,
    echo,
    json_option,
    layout_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    revision_option,
)
from cli.progress import progress
from cli.tables.evaluation import print_evaluation
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from evals.evaluation.materials import Materials
    from surgery.exporting import Export
    from surgery.hub.resolved import ResolvedModel


@click.command("export")
@click.argument("model", default="EleutherAI/pythia-1.4b")
@click.option(
    "--drop-attn",
    metavar="SPEC",
    help="Blocks to make attention-free: 20-23, 20,22, last:4, -1; or single heads of a block: "
    "6.0, 7.1-3.",
)
@click.option(
    "--plan",
    type=PATH,
    metavar="FILE",
    help="Take blocks, heads and variants from a file that `search` wrote.",
)
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    help="; ".join(f"{name}: {variant.SUMMARY}" for name, variant in VARIANTS.items())
    + ".  [default: identity]",
)
@layout_option(
    "stock: loads in the library's own class. compact: smaller, no key/value cache for these "
    "blocks, needs its modeling file. auto: stock where it can hold the variant exactly."
)
@click.option(
    "--as",
    "save_as",
    metavar="TYPE",
    help="Save the result as another model type with the same tensors, which can hold the edit: "
    "llama, for a Mistral model without a window.",
)
@calibration_option
@revision_option
@output_option("Folder to create.  [default: NAME-VARIANT-BLOCKS]")
@click.option("--dry-run", is_flag=True, help="Show the plan; read no weights and write nothing.")
@overwrite_option
@click.option(
    "--max-shard-size",
    type=Size(),
    metavar="S",
    help="Largest weight file (5GB).  [default: as the source is sharded]",
)
@click.option(
    "--evaluate",
    "with_evaluation",
    is_flag=True,
    help="Verify the result, evaluate it against MODEL, and put the report into DIR; the options "
    "below say what is measured. Exit code 3 when a gate is missed.",
)
@evaluation_options
@click.option(
    "--push-to-hub",
    "repo",
    metavar="REPO",
    help="Push the result to OWNER/NAME on the Hub, private; not when a gate is missed.",
)
@json_option
def command(
    dry_run: bool, with_evaluation: bool, repo: str | None, as_json: bool, **options: Any
) -> None:
    """Rewrite chosen blocks of MODEL into attention-free ones and save a checkpoint.

    MODEL is a folder, a Hub id, or an embedded model (lab:pythia, lab:gpt-neo); by default
    EleutherAI/pythia-1.4b. The source is never touched, and the output appears only when complete.
    """
    if repo is not None and dry_run:
        raise click.UsageError("--push-to-hub and --dry-run exclude each other")

    from evals.exporting import ExportRequest, run_export
    from surgery.publishing.upload import check_destination

    request = ask(ExportRequest, options)
    if repo is not None:
        check_destination(repo)
    if not dry_run:
        request.check_output()
    asked = {key: value for key, value in options.items() if key not in ExportRequest.model_fields}
    wanted = open_wanted(asked, request.model, request.revision, with_evaluation, dry_run)
    prepared, export = run_export(request, dry_run=dry_run, say=note, progress=progress)
    if request.layout == "auto":
        note(f"layout {prepared.plan.layout.NAME}: {prepared.plan.reason}")
    if export is None:
        _show_plan(prepared.plan.to_json(), as_json)
        return
    if wanted is None:
        note(
            "nothing measured yet; to see what it still recites and what it lost, run: "
            f"attn-surgery evaluate {export.output} --baseline {request.model} --audit"
        )
    if not _show_export(prepared.model, export, wanted, repo, as_json):
        raise click.exceptions.Exit(3)


def _show_export(
    source: ResolvedModel, export: Export, wanted: Materials | None, repo: str | None, as_json: bool
) -> bool:
    """Evaluates and pushes an export as asked, and prints what came of it.

    Returns whether all gates hold.
    """
    result, passed = export.to_json(), True
    if not as_json:
        plan, size = export.plan, decimal(result["bytes"])
        echo(
            f"{export.output}: {plan.spec} attention-free ({plan.variant}, {plan.layout.NAME}), "
            f"{size}"
        )
    try:
        if wanted is not None:
            result["evaluation"] = None
            report = evaluate_exports(source, wanted, export.output)
            result["evaluation"] = report.to_dict()
            passed = say_gates(report)
            if not as_json:
                print_evaluation(report, export.output)
        if repo is not None:
            result["push"] = None
            result["push"] = push_if_passed(export, repo, passed)
    finally:  # the export is there, whatever becomes of the rest
        if as_json:
            print_json(result)
    if result.get("push") and not as_json:
        echo(f"pushed to {result['push']['url']}")
    return passed


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
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
    for change in plan["changes"]:
        echo(f"{change['action'] + ':':<12}{change['name']} {list(change['shape']) or ''}")
