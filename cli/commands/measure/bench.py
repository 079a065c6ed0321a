"""attn-surgery bench"""

from __future__ import annotations

from typing import Any

import click
from rich.filesize import decimal

from cli import options
from cli.tables import print_table
from cli.terminal import echo, print_json, show_progress


@click.command("bench")
@click.argument("base")
@click.argument("edited")
@options.count("--prompt-tokens", 128, "Tokens of the random prompt.", least=1)
@options.count("--new-tokens", 64, "Tokens to decode greedily.", least=1)
@options.count("--batch-size", 1, "Rows at a time.", least=1)
@options.count("--rounds", 5, "Turns of each model. More rounds show smaller differences.", least=3)
@options.device
@options.json
def command(base: str, edited: str, rounds: int, as_json: bool, **asked: Any) -> None:
    """Compare the speed, cache, parameters, and memory of the models BASE and EDITED.

    Each model runs in its own process. They take turns after a warm-up, and both are in memory at
    the same time. Speeds are medians over the rounds, with the lowest and the highest. A difference
    counts as noise if these ranges touch.
    """
    from evals.measure.speed import compare_speed

    with show_progress(f"bench {edited}", 2 * rounds) as advance:
        result = compare_speed(base, edited, rounds=rounds, **asked, advance=advance)
    (print_json if as_json else _print)(result)


def _print(result: dict[str, Any]) -> None:
    """Prints one line for each figure, base and edited side by side."""
    settings = result["settings"]
    rows, threads = settings["batch_size"], settings["threads"]
    echo(
        f"{rows} row{'s' * (rows != 1)} of {settings['prompt_tokens']} prompt and "
        f"{settings['new_tokens']} new tokens, {settings['dtype']} on {settings['device']}"
        + (f", {threads} thread{'s' * (threads != 1)}" if settings["device"] == "cpu" else "")
    )
    echo(f"median of {settings['rounds']} rounds, lowest and highest in brackets")
    table = []
    for label, key in (("prefill, tokens/s", "prefill"), ("decode, tokens/s", "decode")):
        speeds = [result[part][f"{key}_tokens_per_second"] for part in ("base", "edited")]
        ratio = result["ratios"][f"{key}_tokens_per_second"]
        noise = "  within noise" if ratio["within_noise"] else ""
        shown = (_format_range(speed, ",.0f") for speed in speeds)
        table.append((label, *shown, _format_range(ratio, ".2f") + noise))
    for label, key, form in (
        ("key/value cache", "cache_bytes", decimal),
        ("parameters", "parameters", "{:,}".format),
        ("peak memory", "peak_memory_bytes", decimal),
    ):
        ratio = result["ratios"][key]
        shown = (form(result[part][key]) for part in ("base", "edited"))
        table.append((label, *shown, "" if ratio is None else f"{ratio:.3f}"))
    print_table(("", "base", "edited", "edited / base"), table)
    echo(f"peak memory: {settings['memory']}")


def _format_range(value: dict[str, Any], form: str) -> str:
    middle, low, high = (format(value[key], form) for key in ("median", "min", "max"))
    return f"{middle} [{low}, {high}]"
