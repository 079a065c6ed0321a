"""attn-surgery push"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.terminal import echo, note, print_json


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
@options.json
def command(folder: Path, repo: str, as_json: bool, **asked: Any) -> None:
    """Publish the exported folder DIR as REPO (OWNER/NAME) on the Hub.

    Verifies DIR first. Uploads the files of its manifest, the manifest, a new model card, and the
    report that the manifest records. Samples and rows are never sent. The repository is private
    unless you pass --public. After an interruption, run the same command again: files that have
    arrived are not sent twice. Log in with `hf auth login`.

    A folder whose report says that a limit is missed is refused. So is one whose report does not
    decide a limit, unless you pass --allow-undecided.
    """
    from surgery.publishing.upload import push

    done = push(folder, repo, **asked)
    if asked["create_pr"] and done.pr is None:
        note("Nothing differs from the Hub, so no pull request was opened.")
    if as_json:
        print_json(done.to_json())
        return
    seen = "private" if done.private else "public"
    echo(f"{done.pr or done.url}: {len(done.files)} files at {done.commit[:12]}, {seen}")
