"""attn-surgery export"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from cli import options
from cli.requests import request_command
from cli.terminal import echo, note, note_unmeasured, print_json
from evals.jobs.exporting import ExportRequest, open_export

if TYPE_CHECKING:
    from evals.jobs.exporting import OpenedExport
    from surgery.exporting import Export


@request_command("export", ExportRequest, alone=True)
@click.argument("model", default="EleutherAI/pythia-1.4b")
@options.flag(
    "--dry-run",
    "Show the plan. Read no weights and write nothing. A Hub model is downloaded first.",
    group="run",
)
@options.overwrite
@options.option(
    "--push-to-hub",
    "REPO",
    "Push the result to OWNER/NAME on the Hub, as a private repository.",
    None,
    "repo",
    group="output",
)
@options.json
def command(request: ExportRequest, dry_run: bool, repo: str | None, as_json: bool) -> None:
    """Make chosen blocks of MODEL attention-free and save a checkpoint.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). The default is
    EleutherAI/pythia-1.4b. The source is never changed, and the output appears only when it is
    complete. If it is there already, with the same content, it stays as it is.
    """
    if repo is not None and dry_run:
        raise click.UsageError("--push-to-hub and --dry-run exclude each other")
    if repo is not None:
        from surgery.publishing.upload import check_destination

        check_destination(repo)
    from surgery.hub.finding import name_first

    opened = open_export(request, dry_run=dry_run)
    if dry_run:
        _print_plan(opened, as_json)
        return
    export = opened.run()
    if not as_json:
        _print_export(export)
    _note_loading(export)
    note_unmeasured(export.output, opened.prepared.model)
    first = name_first(source := opened.prepared.model)
    if source.source.commit is None and not first.startswith("lab:"):  # no record holds a path
        words = ["attn-surgery", "heal", str(export.output), "--source", first]
        note(f"To heal it: {shlex.join(words)} --text TEXT --samples SAMPLES")
    _push(export, repo, as_json)


def _print_export(export: Export) -> None:
    from surgery.selection import name_blocks

    result, step = export.to_json(), export.manifest.step
    blocks = name_blocks(step.parts, step.num_heads)
    how = f"{result['variant']}, {result['layout']}"
    echo(f"{export.output}: {blocks} attention-free ({how}), {decimal(result['bytes'])}")
    for block, fit in ((result["calibration"] or {}).get("blocks") or {}).items():
        if fit["r2"] is not None:
            shared = fit["r2_shared"] if export.plan.layout == "stock" else None
            stored = "" if shared is None else f", {shared:.3f} with one map for each group"
            echo(f"  block {block}: R² of the fit {fit['r2']:.3f}{stored}")


def _note_loading(export: Export) -> None:
    """Says how the result loads, a line for each way."""
    name, folder = str(export.output), shlex.quote(str(export.output))
    if export.plan.layout == "stock":
        note(f"To load it: AutoModelForCausalLM.from_pretrained({name!r})")
        return
    note(f"To load it: AutoModelForCausalLM.from_pretrained({name!r}, trust_remote_code=True)")
    note(f"In lm_eval: --model_args pretrained={folder},trust_remote_code=True")
    note("For a model that loads without trust_remote_code: export it with --variant zero")


def _push(export: Export, repo: str | None, as_json: bool) -> None:
    """Pushes an export, if that is asked for. It is there whatever becomes of the push, so its JSON
    is printed in any case."""
    result: dict[str, Any] = export.to_json()
    try:
        if repo is not None:
            from surgery.publishing.upload import push

            result["push"] = None
            result["push"] = push(export.output, repo).to_json()
    finally:
        if as_json:
            print_json(result)
    if result.get("push") and not as_json:
        echo(f"pushed to {result['push']['url']}")


def _print_plan(opened: OpenedExport, as_json: bool) -> None:
    from surgery.plan import plan_as_json

    plan = {"output": str(opened.target), **plan_as_json(opened.prepared.plan)}
    if as_json:
        print_json({"dry_run": True, **plan})
        return
    for key in ("family", "num_blocks", "dtype", "variant", "layout", "reason", "blocks"):
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
    for what in ("rewritten", "added", "dropped"):
        for name in plan[what]:
            echo(f"{what + ':':<12}{name}")
