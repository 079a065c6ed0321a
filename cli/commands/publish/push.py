"""attn-surgery push"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from cli import options
from cli.terminal import echo, name_options, note, print_json


@click.command("push")
@click.argument("folder", metavar="DIR", type=options.PATH)
@click.argument("repo", metavar="REPO")
@options.flag("--public", "Publish for everyone.  [default: private]")
@options.flag("--create-pr", "Propose the commit as a pull request.")
@options.option("--revision", "R", "Branch to push to. It is created if it does not exist.")
@options.option(
    "--report",
    "FOLDER",
    "Folder that `evaluate` wrote about DIR alone, whose report is published, too.  [default: the "
    "report in DIR]",
    options.PATH,
    "evaluation",
)
@options.flag("--allow-undecided", "Also publish if the report does not decide a limit.")
@options.option("--message", "TEXT", "Title of the commit.  [default: what was edited]")
@options.flag("--dry-run", "Send nothing. Show what would be sent, and the result of each check.")
@options.json
def command(folder: Path, repo: str, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Publish the exported folder DIR as REPO (OWNER/NAME) on the Hub.

    DIR holds a model, or an adapter (erase --as-adapter). Verifies DIR first. Uploads the files of
    its manifest, the manifest, a new model card, and the report that the manifest records.
    Signatures (*.sig, *.asc), pictures, and results in .eval_results/ go along. Samples and rows
    are never sent. The repository is private unless you pass --public. After an
    interruption, run the same command again: files that have arrived are not sent twice. Log in
    with `hf auth login`.

    A folder whose report says that a limit is missed is refused. So is one whose report does not
    decide a limit, unless you pass --allow-undecided.

    With --dry-run, nothing is sent or created, and the exit code is 1 if a check fails. The Hub is
    only asked about REPO, if you are logged in.
    """
    if dry_run:
        _rehearse(folder, repo, as_json, asked)
        return
    from surgery.publishing.upload import push

    done = push(folder, repo, **asked)
    if asked["create_pr"] and done.pr is None:
        note("Nothing differs from the Hub, so no pull request was opened.")
    if as_json:
        print_json(done.to_json())
        return
    seen = "private" if done.private else "public"
    for claim in done.claims:
        echo(f"claimed {claim.name}: {claim.detail}")
    echo(f"{done.pr or done.url}: {len(done.files)} files at {done.commit[:12]}, {seen}")


def _rehearse(folder: Path, repo: str, as_json: bool, asked: dict[str, Any]) -> None:
    """Prints what a push would do. Exits with 1 if a check fails."""
    from surgery.publishing.upload import plan_push

    del asked["message"]
    found = plan_push(folder, repo, **asked)
    if as_json:
        print_json(found.to_json())
    else:
        for check in found.checks:
            echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {name_options(check.detail)}")
        for name, size in found.files.items():
            echo(f"would send {name}: {decimal(size)}")
        for claim in found.claims:
            echo(f"claimed {claim.name}: {claim.detail}")
        for name in found.removed:
            echo(f"would remove {name}, of an earlier push")
        for key, value in found.describe_card().items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            echo(f"card, {key}: {shown}")
        state = {True: "exists", False: "would be created", None: "was not looked up"}
        seen = "private" if found.private else "public"
        total = decimal(sum(found.files.values()))
        echo(f"{repo} ({seen}) {state[found.exists]}: {len(found.files)} files, {total}; none sent")
    if failed := [check.name for check in found.checks if not check.ok]:
        note(f"error: {folder}: {' and '.join(failed)} failed, so a push would be refused")
        raise click.exceptions.Exit(1)
