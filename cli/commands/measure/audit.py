"""attn-surgery audit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.config import config_of
from cli.options import (
    attack_options,
    control_option,
    json_option,
    measuring_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.tables.audit import print_audit
from evals.inputs import needed_texts, open_model, open_passages, tokenized
from surgery.hub.embedded import lab_of

if TYPE_CHECKING:
    from evals.attacks.audit import Audited


@click.command("audit")
@click.argument("model")
@click.option("--baseline", required=True, metavar="BASE", help="The model before the edit.")
@samples_option("The passages, as for extract.  [default: a lab model's own]")
@control_option(
    "Text the models were not trained on; may be repeated.  [default: a lab model's own]"
)
@attack_options
@measuring_options
@output_option("Folder to create: audit.json and a picture.")
@overwrite_option
@json_option
def command(
    model: str,
    baseline: str,
    samples: str | None,
    attacks: tuple[str, ...],
    controls: tuple[Path, ...],
    max_recovered: dict[str, float],
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what an attacker recovers from MODEL, from BASE, and of text never trained on.

    Exact greedy match is brittle: one wrong token, and a passage counts as forgotten. The attacks
    go on from there; docs/threat-model.md says what each assumes. Exit code 3 when a limit is
    missed.
    """
    lab = lab_of(model, baseline)
    if samples is None and lab is None:
        raise click.UsageError("audit needs passages: give --samples")

    from evals.attacks.audit import Protocol, audit, chosen
    from evals.attacks.report import owned, report, write_audit
    from evals.models import check_precision
    from evals.running.processes import Processes
    from evals.running.request import Measuring
    from evals.samples.windows import control_windows
    from surgery.errors import SamplesError
    from surgery.hub.finding import find_model
    from surgery.output import check_output

    tried = chosen(attacks, max_recovered)
    if output is not None:
        check_output(output, owned, overwrite=overwrite)
    running = Measuring.of(asked)
    passages = open_passages(samples or str(lab), running)
    texts = needed_texts(controls, lab or model, option="control")
    processes = Processes.launched(say=note)
    edited = find_model(model, running.revision)  # measured last, so looked for first
    results: list[Audited] = []
    protocol = None
    for name, place in ((baseline, baseline), (model, edited)):
        loaded = open_model(place, running, processes, say=note)
        if results:
            check_precision(results[0].provenance["dtype"], loaded.dtype, loaded.name)
        if protocol is None:
            if loaded.tokenizer is None:
                raise SamplesError("held-out text needs a tokenizer", where=name)
            rows = tokenized(passages, loaded, note)
            windows = control_windows(texts, loaded.tokenizer, rows.tokens.shape[1])
            protocol = Protocol(rows, windows, tried, running.batch_size)
        with progress(f"audit {name}", len(tried)) as advance:
            found = audit(
                loaded,
                protocol,
                with_control=bool(results),  # of the edited model
                processes=processes,
                advance=advance,
            )
            results.append(found)
        del loaded  # one model in memory at a time
    assert protocol is not None
    if not processes.is_main:
        return
    result = report(protocol, results[0], results[1], max_recovered)
    if output is not None:
        config = config_of(click.get_current_context())
        write_audit(output, result, overwrite=overwrite, config=config)
    if as_json:
        print_json(result)
    else:
        print_audit(result)
    for limit in result["limits"]:
        name, value, most, n = (limit[key] for key in ("name", "value", "limit", "n"))
        low, high = limit["ci95"]
        if not limit["ok"]:
            note(f"limit missed: {name} recovers {value:.3g} of {n:,} passages, above {most:g}")
        elif not limit["conclusive"]:
            note(f"limit inconclusive (n = {n:,}): {name}: its interval is {low:.3g} to {high:.3g}")
    if not all(limit["ok"] for limit in result["limits"]):
        raise click.exceptions.Exit(3)
