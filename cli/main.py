"""Entry point: finds a command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Any

import click

from cli.config import IN_FILE, RESULT, with_config
from cli.examples import format_examples
from cli.terminal import (
    has_printed_json,
    let_first_print,
    name_options,
    note,
    print_json,
    show_progress,
    stopped,
    take_over_warnings,
)
from evals.run import console
from surgery.errors import (
    MeasurementError,
    SamplesError,
    SourceError,
    SurgeryError,
    UnknownNameError,
    suggest,
)

GROUPS: dict[str, dict[str, str]] = {
    "edit": {
        "export": "Make chosen blocks attention-free and save a checkpoint.",
        "erase": "Train a model not to recite listed passages.",
        "heal": "Train a cut model on other text, to win back what the cut cost.",
        "inspect": "Show a model's size and which of its blocks are attention-free.",
        "verify": "Check that an exported model is what its manifest says.",
    },
    "measure": {
        "extract": "Test what a model recites, before and after an edit.",
        "audit": "Measure what an attacker recovers, before and after an edit.",
        "collect": "Find passages of a corpus that a model recites.",
        "compare": "Show side by side what models write, before and after an edit.",
        "evaluate": "Measure what an edit costs and what it achieves, in one report.",
    },
    "choose": {
        "sweep": "Measure the effect of editing each block or head.",
        "search": "Look for the cheapest edit that keeps its limits.",
    },
    "publish": {
        "push": "Publish an exported folder on the Hub, with its model card.",
    },
    "whole": {
        "init": "Look at your passages, and write a configuration for mitigate that fits.",
        "mitigate": "Search, export, verify, attack, and evaluate in one command.",
        "demo": "Show the whole story on a small model, offline.",
    },
}
"""Folder of `cli.commands` → its commands, each a module of that name, and one line of help."""
HEADINGS = {"whole": "The whole job"}
PARTS = ("what", "where", "expected", "got", "fix")
"""Parts of the line of a `SurgeryError`."""
_ABSENT = re.compile("does not exist|no such file|no such folder")
"""In the message of an error about a file that is not there."""
COMMANDS = {name: group for group, commands in GROUPS.items() for name in commands}


_SMALLER = {
    "adapters": "`adapters=8`",
    "batch_size": "a smaller `batch_size`",
    "dtype": "`dtype=bfloat16`",
    "attack": "no `attack` that trains",
}
"""Argument → what to do with it against too little memory."""


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"cli.commands.{COMMANDS[cmd_name]}.{cmd_name.replace('-', '_')}")
        command = with_config(module.command)
        command.epilog = format_examples(cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:  # help COMMAND
            args = [*args[1:2], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        is_known = args[0] in COMMANDS or ctx.resilient_parsing
        if not is_known and (near := suggest(args[0], COMMANDS)):
            ctx.fail(f"No such command {args[0]!r}; {near}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command. Its errors name arguments of the Python API, and leave with options."""
        try:
            with console.use_console(console.Console(note, show_progress)):
                return self._invoke(ctx)
        except click.UsageError as error:
            if _ABSENT.search(error.message):
                _hint_at_folders(ctx)
            raise _correct_usage(error) from None
        except SurgeryError as error:
            if isinstance(error, SourceError | SamplesError) and _ABSENT.search(error.what):
                _hint_at_folders(ctx)
            name = str(ctx.invoked_subcommand)
            command = self.get_command(ctx, name)
            assert command is not None  # it ran
            ran = click.Context(command, ctx, name)
            error.args = (name_options(error, ran),)
            for part in PARTS:
                value = getattr(error, part)
                setattr(error, part, None if value is None else name_options(value, ran))
            if isinstance(error, UnknownNameError):
                raise click.UsageError(str(error), ran) from error
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        """Runs a command. If memory runs out, says what the command offers against that."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_of_memory(error):
                raise
            command = self.get_command(ctx, str(ctx.invoked_subcommand))
            names = {param.name for param in command.params} if command else set()
            names |= {*getattr(command, "in_file", ())}
            ways = [way for name, way in _SMALLER.items() if name in names]
            fix = f"take {' or '.join(ways)}" if ways else "use a machine with more memory"
            said = str(error).partition("\n")[0] or None
            raise MeasurementError("out of memory", got=said, fix=fix) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))  # so that all groups have their texts in one column
        for group, commands in GROUPS.items():
            with formatter.section(HEADINGS.get(group, group.capitalize())):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in commands.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="attn-surgery", message="attn-surgery %(version)s")
def main() -> None:
    """Make chosen blocks of a language model attention-free, save a checkpoint that loads like the
    original, and measure what the model still recites and what it still can do.

    To see which of your passages come out of a model, begin with `attn-surgery audit MODEL
    --samples FILE`. `attn-surgery help COMMAND` explains a command.

    Exit codes: 0 done, 1 an error, 2 usage, 3 a limit is missed, 4 a
    limit is not decided (0 with --allow-undecided), 130 interrupted.
    """


def _hint_at_folders(ctx: click.Context) -> None:
    """Says why a file may not be there if a result's file of options names it."""
    if (file := ctx.meta.get(RESULT)) is not None:
        fix = "run the command in the folder that holds them, or give them as options"
        note(f"{file} names files without their folders: {fix}")


def _correct_usage(error: click.UsageError) -> click.UsageError:
    """An error whose message names options of the command, and the one that may have been meant."""
    if error.ctx is None:
        return error
    said = text = error.format_message()
    if isinstance(error, click.NoSuchOption):
        known = [one for option in error.ctx.command.params for one in option.opts]
        near, flat = suggest(error.option_name, known), error.option_name.strip("-")
        if flat.replace("-", "_") in getattr(error.ctx.command, "in_file", {}):
            what = f"{error.ctx.info_name} takes {flat} from --config alone"
            said = f"{what}: pass --config '{{{flat}: VALUE}}', or a file with that line"
            return click.UsageError(said, error.ctx)
        text = f"No such option {error.option_name!r}{f'; {near}' if near else ''}"
    text = name_options(text, error.ctx)
    return error if text == said else click.UsageError(text, error.ctx)


def run(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits. Only here do errors become exit codes."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # the shell may have closed one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be valid text
    take_over_warnings()
    _catch_signals()
    has_printed_json.set(False)
    with let_first_print():
        code = _run(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # reported above; Python would try again at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    """Runs the command line. Returns the exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = main.main(arguments, prog_name="attn-surgery", standalone_mode=False)
    except BaseException as error:  # an import that a signal stops may end in any of them
        if stopped or isinstance(error, click.Abort | KeyboardInterrupt):
            note("interrupted" + "".join(map(_hint_to_continue, stopped[:1])))
            code = 130
            if as_json:
                _print_error(click.ClickException("interrupted"), code)
        else:
            code = _report_error(error, as_json)
    return code if isinstance(code, int) else 0


def _catch_signals() -> None:
    """Makes Ctrl-C, SIGTERM, and a terminal that closes raise KeyboardInterrupt.

    They note the commands that they stop.
    """
    stopped.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(click.get_current_context(silent=True))
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # other threads cannot
        for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
            if signal.getsignal(number) != signal.SIG_IGN:  # as in a background job
                signal.signal(number, stop)


_CONTINUED = ("search", "sweep", "audit", "evaluate", "collect", "mitigate", "demo", "push")


def _hint_to_continue(ctx: click.Context | None) -> str:
    """Says that the same command continues, if it keeps finished work, or that a long one starts
    anew."""
    given, name = dict[str, Any](), None
    if ctx is not None:
        given, name = {**ctx.meta.get(IN_FILE, {}), **ctx.params}, ctx.info_name
    if name in ("erase", "heal"):
        return ": nothing was written; the same command starts anew"
    keeps = name in _CONTINUED and not given.get("no_cache") and not given.get("dry_run")
    return ": run the same command again to continue" if keeps else ""


def _report_error(error: BaseException, as_json: bool) -> int:
    """Prints one line, with `as_json` also an object on stdout, and returns the exit code.

    Raises an error that no user can fix.
    """
    if isinstance(error, click.ClickException):
        for line in _describe_mistakes(error):
            note(line, anywhere=True)
        if as_json:
            _print_error(error, error.exit_code)
        return error.exit_code
    if isinstance(error, OSError | RecursionError):  # a full disk, or values that are nested deeply
        from surgery.untrusted import describe_error

        error = SurgeryError(describe_error(error), where=getattr(error, "filename", None))
    if not isinstance(error, SurgeryError):
        raise error
    note(f"error: {error}", anywhere=True)
    if as_json:
        _print_error(error, 1)
    return 1


def _describe_mistakes(error: click.ClickException) -> list[str]:
    """A line for each mistake, the last of which says where to read on; or a help that was due."""
    shown = io.StringIO()
    error.show(shown)
    _, _, mistakes = f"\n{shown.getvalue()}".partition("\nError: ")
    lines = [f"error: {line}" for line in _join_choices(mistakes).splitlines()]
    if lines and isinstance(error, click.UsageError) and error.ctx is not None:
        lines[-1] = f"{lines[-1].removesuffix('.')} (see {error.ctx.command_path} --help)"
    return lines or shown.getvalue().splitlines()


def _join_choices(text: str) -> str:
    """A message in which click lists choices on lines of their own."""
    return text.replace("\n\t", " ")


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in Python, on a GPU, or in an allocation of torch, which says so."""
    said = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _print_error(error: click.ClickException | SurgeryError, exit_code: int) -> None:
    """Prints what `--json` promises, one object: the parts of the message, and the exit code.

    Not after the object of a result, to which the exit code then belongs.
    """
    if has_printed_json.get():
        return
    parts = error if isinstance(error, SurgeryError) else error.__cause__
    said = dict.fromkeys(PARTS)
    if isinstance(parts, SurgeryError):
        found = {part: getattr(parts, part) for part in PARTS}
        said = {part: None if value is None else str(value) for part, value in found.items()}
    elif isinstance(error, click.ClickException):
        said["what"] = _join_choices(error.format_message())
    what = said.pop("what")
    with suppress(OSError):  # the line on stderr stays
        print_json({"error": what, **said, "exit_code": exit_code})


if __name__ == "__main__":
    run()
