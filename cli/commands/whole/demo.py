"""attn-surgery demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import note, overwrite_option

MODEL = "lab:pythia"
BLOCKS = "last:2"
SHOWN = 3  # records whose text is shown: they are synthetic, so nobody's


@click.command("demo")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="attn-surgery-demo",
    show_default=True,
    metavar="DIR",
    help="Folder for the edited model, with its report.",
)
@overwrite_option
def command(output: Path, overwrite: bool) -> None:
    """Run the whole story on an embedded model, offline, in under three minutes.

    Exports lab:pythia with its deep blocks edited, verifies it, reloads it through transformers,
    measures what both models recite and what they can do, and writes the report.
    """
    from cli.after_export import evaluated
    from cli.evaluating import UNASKED, make_plan
    from cli.tables import console
    from cli.tables.evaluation import print_evaluation
    from surgery.editing.preparing import prepare
    from surgery.exporting import check_target, write
    from surgery.proof.verification import verify

    prepared = prepare(MODEL, BLOCKS)
    check_target(prepared.checkpoint.folder, output, overwrite=overwrite, say=note)
    out = console()
    out.rule("1. Export")
    out.print(f"attn-surgery export {MODEL} --drop-attn {BLOCKS} --output {output}", style="bold")
    export = write(prepared, output, overwrite=overwrite)
    blocks = ", ".join(map(str, export.plan.blocks))
    total = prepared.plan.inventory.dimensions.num_blocks
    out.print(
        f"Blocks {blocks} of {total} are attention-free now ({export.plan.variant}, "
        f"{export.plan.layout.NAME} layout): {len(export.plan.rewritten)} tensors rewritten."
    )
    out.rule("2. Verify")
    out.print(f"attn-surgery verify {output} --source {MODEL}", style="bold")
    verification = verify(output, source=prepared.model)
    for check in verification.checks:
        out.print(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.detail}")
    if not verification.ok:
        raise click.exceptions.Exit(1)
    out.rule("3. Evaluate")
    out.print(
        f"attn-surgery evaluate {output} --baseline {MODEL}",
        style="bold",
    )
    report = evaluated(output, prepared.model, make_plan(UNASKED, MODEL))
    print_evaluation(report, output)
    out.rule("4. See for yourself")
    _show(output, out)
    out.rule("Done")
    out.print(f"The edited model is in {output.absolute()}", soft_wrap=True)
    out.print(f'It loads as any other: AutoModelForCausalLM.from_pretrained("{output}")')
    out.print(f"The report: {output.absolute() / 'report.html'}", soft_wrap=True)


def _show(output: Path, out: Any) -> None:
    """A few planted records, as both models go on with them."""
    from evals.memorization.extraction import extract
    from evals.models import open_model
    from evals.samples import load_samples

    before, after = open_model(MODEL), open_model(str(output))
    samples = load_samples(MODEL)
    base, edited = (extract(loaded.model, samples).exact for loaded in (before, after))
    forgotten = [row for row in range(len(samples)) if base[row]]
    forgotten.sort(key=lambda row: bool(edited[row]))
    for row in forgotten[:SHOWN]:
        prefix, suffix = samples.prefixes[row], samples.suffixes[row]
        out.print()
        out.print(f"record {samples.ids[row]}, given", style="dim")
        out.print(repr(before.tokenizer.decode(prefix.tolist())))
        for label, loaded in (("before", before), ("after", after)):
            text, same = _continued(loaded, prefix, suffix)
            verdict = "recites it" if same else "does not recite it"
            out.print(f"{label} ({verdict})", style="bold")
            out.print(repr(text))


def _continued(loaded: Any, prefix: Any, suffix: Any) -> tuple[str, bool]:
    """What the model writes after a prefix, greedily, and whether that is the suffix."""
    import torch

    ids = torch.tensor([prefix.tolist()])
    new = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=len(suffix),
        min_new_tokens=len(suffix),
        do_sample=False,
        pad_token_id=0,
    )[0, len(prefix) :].tolist()
    return loaded.tokenizer.decode(new), new == suffix.tolist()
