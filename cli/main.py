"""Entry point: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import FrameType

import click

from cli.config import with_config
from cli.options import note
from surgery.errors import SurgeryError

GROUPS: dict[str, dict[str, str]] = {
    "edit": {
        "export": "Rewrite chosen blocks into attention-free ones and save a checkpoint.",
        "inspect": "Show a model's blocks, and which of them are attention-free.",
        "verify": "Prove that an exported folder is what it claims to be.",
    },
    "measure": {
        "extract": "Test what a model recites, before and after an edit.",
        "audit": "Measure what an attacker recovers, before and after an edit.",
        "collect": "Find the passages of a corpus that a model recites.",
        "evaluate": "Measure what an edit cost and bought: benchmarks, gates, one report.",
        "bench": "Time an edited model beside its base; measure cache and memory.",
        "tasks": "Print the folder of lm-eval tasks.",
    },
    "choose": {
        "sweep": "Measure what editing each block, or each head, does.",
        "search": "Find the blocks or heads whose edit meets a goal at the least cost.",
    },
    "publish": {
        "push": "Publish an exported folder on the Hub, with its model card.",
        "reproduce": "Repeat a recorded edit and compare the result file by file.",
    },
    "whole": {
        "mitigate": "Search, export, verify, attack and evaluate, in one command.",
        "demo": "Run the whole story on an embedded model, offline.",
    },
}
"""Folder of `cli.commands` -> its commands, each a module of that name, and one line of help."""
HEADINGS = {"whole": "The whole job"}
COMMANDS = {name: group for group, commands in GROUPS.items() for name in commands}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"cli.commands.{COMMANDS[cmd_name]}.{cmd_name}")
        return with_config(module.command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and close and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))  # so that all groups have their texts in one column
        for group, commands in GROUPS.items():
            with formatter.section(HEADINGS.get(group, group.capitalize())):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attn-surgery", message="attn-surgery %(version)s")
def main() -> None:
    """Rewrite chosen blocks of a Pythia or GPT-Neo model into attention-free variants, save a
    checkpoint that loads anywhere, and prove what it no longer recites and what it still can do.

    Exit codes: 0 done, 1 an error, 2 usage, 3 a gate failed, 130 interrupted.
    """


def run(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits. The one place where errors become exit codes."""
    _open_streams()
    stopped = _catch_signals()
    try:
        code = main.main(arguments, prog_name="attn-surgery", standalone_mode=False)
    except BaseException as error:  # an import that a signal stops may end in any of them
        if stopped or isinstance(error, click.Abort | KeyboardInterrupt):
            note("interrupted" + "".join(map(_how_it_goes_on, stopped[:1])))
            code = 130
        else:
            code = _said(error)
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:  # said above; Python would try once more as it ends, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Standard streams that a shell has closed (`>&-`) take and give nothing.

    In this order they get the numbers 0, 1 and 2, which no file of ours may have.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path need not be text in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")


def _catch_signals() -> list[click.Context | None]:
    """From now on Ctrl-C and SIGTERM raise KeyboardInterrupt; for each, the command that ran."""
    stopped: list[click.Context | None] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(click.get_current_context(silent=True))
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # others may not
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as of a job in the background
                signal.signal(number, stop)
    return stopped


def _how_it_goes_on(ctx: click.Context | None) -> str:
    """What the same command does when it is started again, where it need not begin anew."""
    given = {} if ctx is None else ctx.params
    kept = {
        "search": True,
        "mitigate": not given.get("overwrite"),
        "sweep": given.get("output") is not None,
        "collect": True,
        "push": True,
    }
    goes_on = ctx is not None and kept.get(str(ctx.info_name), False)
    return ": run the same command again to continue" if goes_on else ""


def _said(error: BaseException) -> int:
    """Says what is wrong, in one line, and returns the exit code. Raises what no user can mend."""
    if isinstance(error, click.ClickException):
        usage = io.StringIO()
        error.show(usage)
        for line in usage.getvalue().splitlines():
            note(line, anywhere=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return 0  # the reader of our output has seen enough
    if isinstance(error, OSError):  # a file that may not be read, a disk that is full
        from surgery.untrusted import describe_error

        error = SurgeryError(describe_error(error), where=error.filename)
    if not isinstance(error, SurgeryError):
        raise error
    note(f"error: {error}", anywhere=True)
    return 1


if __name__ == "__main__":
    run()
