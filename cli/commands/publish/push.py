"""attn-surgery push"""

from __future__ import annotations

from typing import Any

import click

from cli.options import echo, json_option, print_json


@click.command("push")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.argument("repo", metavar="REPO")
@click.option("--public", is_flag=True, help="Publish for everyone.  [default: private]")
@click.option("--create-pr", is_flag=True, help="Propose the commit as a pull request.")
@click.option("--revision", metavar="R", help="Branch to push to; created if it is not there.")
@click.option(
    "--report",
    "evaluation",
    type=click.Path(),
    metavar="FOLDER",
    help="What `evaluate` wrote about DIR; its report goes along.  [default: one in DIR]",
)
@click.option("--message", metavar="TEXT", help="Title of the commit.  [default: what was edited]")
@json_option
def command(folder: str, repo: str, as_json: bool, **asked: Any) -> None:
    """Publish the exported folder DIR as REPO (OWNER/NAME) on the Hub.

    DIR is verified first. Uploads the files of its manifest, the manifest, a fresh model card, and
    its report, with fresh sentences and pages, if no text can be in it; never samples or rows.
    Private unless --public. After an interruption, run it again: what has arrived is not sent
    twice. Log in with `hf auth login`.
    """
    from evals.publication.report import render_report
    from surgery.publishing.upload import push

    done = push(folder, repo, **asked, render=render_report)
    if as_json:
        print_json(done.to_json())
        return
    seen = "private" if done.private else "public"
    echo(f"{done.pr or done.url}: {len(done.files)} files at {done.commit[:12]}, {seen}")
