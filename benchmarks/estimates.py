"""How near the estimates of a sweep come to what it measures, and how much faster they are.

    python benchmarks/estimates.py lab:pythia
    python benchmarks/estimates.py DIR --samples FILE --corpus FILE --calibration FILE

Runs `attn-surgery sweep MODEL --heads` with and without `--estimate`. For single heads and for
whole blocks it prints Spearman's rank correlation of the estimated and the measured KL divergence
on held-out text, the quartiles of their ratio, and the rank correlation of the estimated change of
margins with the measured rise of the passages' negative log-likelihood. Seconds are CPU seconds of
whole processes; what estimating takes is the difference of the two.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import click
import numpy as np
from scipy.stats import spearmanr


def run_sweep(arguments: list[str]) -> tuple[dict[str, Any], float]:
    """What the command prints, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cli.main", "sweep", *arguments, "--heads", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(done.stdout), after.ru_utime - before.ru_utime


@click.command()
@click.argument("model")
@click.option("--samples", help="[default: a lab model's own]")
@click.option("--corpus")
@click.option("--calibration")
def main(model: str, samples: str | None, corpus: str | None, calibration: str | None) -> None:
    """Compare estimates with what is measured on MODEL."""
    texts = {"--samples": samples or model, "--corpus": corpus, "--calibration": calibration}
    variants = [word for name in ("identity", "zero", "mean", "linear")
                for word in ("--variant", name)]  # fmt: skip
    given = [word for option, value in texts.items() if value for word in (option, value)]
    _, measuring = run_sweep([model, *given, *variants, "--no-last"])
    result, both = run_sweep([model, *given, *variants, "--no-last", "--estimate"])
    figures = {(row["of"], row["name"]): row["value"] for row in result["figures"]}
    edits = result["edits"]
    estimated = {(one["spec"], one["variant"]): one["of"] for one in result["estimates"]}
    click.echo(
        f"{model}: {len(edits)} edits measured in {measuring:.0f} s of CPU time, "
        f"{len(estimated)} estimated in {both - measuring:.0f} s more"
    )
    for kind in ("head", "block"):
        some = [one for one in edits if one["kind"] == kind]
        units = [estimated[one["spec"], one["variant"]] for one in some]
        kl, margin = (
            np.array([figures[unit, f"estimated_{key}"] for unit in units])
            for key in ("kl", "margin")
        )
        true_kl = np.array([figures[one["of"], "kl"] for one in some])
        nll = np.array([figures[one["of"], "suffix_nll"] for one in some])
        rise = nll - figures["base", "suffix_nll"]
        low, median, high = np.quantile(kl / true_kl, [0.25, 0.5, 0.75])
        click.echo(
            f"  {kind}s, n {len(some)}: rank correlation of KL {spearmanr(kl, true_kl)[0]:.3f}, "
            f"estimated / measured {median:.2f} ({low:.2f} to {high:.2f}); margins and NLL "
            f"{spearmanr(margin, rise)[0]:.3f}"
        )


if __name__ == "__main__":
    main()
