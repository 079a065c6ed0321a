"""attn-surgery export"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from cli.evaluating import evaluation_options, say_gates
from cli.exporting import evaluated, evaluation_wanted, fitted_and_written
from cli.options import (
    PATH,
    Size,
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
from cli.tables.evaluation import print_evaluation
from evals.inputs import calibration_text
from surgery.variants import VARIANTS


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
    "plan_file",
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
    model: str,
    drop_attn: str | None,
    plan_file: Path | None,
    variant: str | None,
    layout: str,
    save_as: str | None,
    calibration: tuple[str, ...],
    revision: str | None,
    output: Path | None,
    dry_run: bool,
    overwrite: bool,
    max_shard_size: int | None,
    with_evaluation: bool,
    repo: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Rewrite chosen blocks of MODEL into attention-free ones and save a checkpoint.

    MODEL is a folder, a Hub id, or an embedded model (lab:pythia, lab:gpt-neo); by default
    EleutherAI/pythia-1.4b. The source is never touched, and the output appears only when complete.
    """
    if drop_attn is None and plan_file is None:
        raise click.UsageError("name the blocks with --drop-attn, or give a --plan")
    if drop_attn is not None and plan_file is not None:
        raise click.UsageError("give --drop-attn or --plan, not both")
    if variant is not None and plan_file is not None:
        raise click.UsageError("a --plan names the variants itself: give it without --variant")
    if repo is not None and dry_run:
        raise click.UsageError("--push-to-hub and --dry-run exclude each other")

    from surgery.editing.preparing import prepare, variants_of
    from surgery.exporting import check_target
    from surgery.families import left_out
    from surgery.publishing.upload import check_destination, push
    from surgery.record.plan_file import read_plan_file

    if repo is not None:
        check_destination(repo)
    check = partial(check_target, model, overwrite=overwrite)
    if output is not None and not dry_run:
        check(output)
    wanted = evaluation_wanted(asked, model, revision, with_evaluation, dry_run)
    variant = variant or "identity"
    edit = read_plan_file(plan_file) if plan_file is not None else drop_attn or ""
    text = None
    if calibration or not dry_run:
        text = calibration_text(calibration, model, variants_of(edit, variant))
    prepared = prepare(
        model,
        edit,
        variant=variant,
        layout=layout,
        revision=revision,
        save_as=save_as,
        check_default=check if output is None and not dry_run else None,
    )
    plan = prepared.plan
    unknown = plan.family.unknown_keys(prepared.checkpoint.config)
    if unknown:
        note(f"{model}: {left_out(unknown)}")
    export = None
    if not dry_run:
        if output is None:
            check(prepared.default_output)
        export = fitted_and_written(
            prepared, text, output, overwrite=overwrite, max_shard_size=max_shard_size
        )
    if layout == "auto":
        note(f"layout {plan.layout.NAME}: {plan.reason}")
    if export is None:
        if as_json:
            print_json({"dry_run": True, **plan.to_json()})
        else:
            _show_plan(plan.to_json())
        return
    result = export.to_json()
    if not as_json:
        echo(
            f"{export.output}: {plan.spec} attention-free ({plan.variant}, {plan.layout.NAME}), "
            f"{decimal(result['bytes'])}"
        )
    if wanted is None:
        note(
            "nothing was measured: what it still recites, and what it lost, tells attn-surgery "
            f"evaluate {export.output} --baseline {model} --audit"
        )
    passed = True
    try:
        if wanted is not None:
            result["evaluation"] = None
            [report] = evaluated(prepared.model, wanted, export.output)
            result["evaluation"] = report.to_dict()
            passed = say_gates(report)
            if not as_json:
                print_evaluation(report, export.output)
        if repo is not None:
            result["push"] = None
            if passed:
                from evals.publication.report import public_report

                result["push"] = push(export.output, repo, render=public_report).to_json()
    finally:  # the export is there, whatever becomes of the rest
        if as_json:
            print_json(result)
    if repo is not None and not as_json and passed:
        echo(f"pushed to {result['push']['url']}")
    if not passed:
        if repo is not None:
            note(f"not pushed to {repo}: a gate failed")
        raise click.exceptions.Exit(3)


def _show_plan(plan: dict[str, Any]) -> None:
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
