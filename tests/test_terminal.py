"""Contract: no name out of a foreign file commands the terminal, forges a line, or is markup.

Whatever is printed for people shows characters that are not printable as escapes; JSON does so by
itself. One place sees to it, and nothing in cli/ prints by any other way.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT, Outcome, attn_surgery, on_terminal, running
from rich.text import Text

from cli.console import make_console
from cli.escaping import escape_text
from cli.tables import print_table
from cli.tables.comparison import print_comparison
from cli.terminal import print_json, show_progress

HOSTILE = "a\x1b[2K\x1b[1A\r\x07\x9b31m\u202eb\u2066\u200b\ufeff\u2028\n\tok     every file"
CONTROL = [char for char in HOSTILE if not char.isprintable()]


def assert_harmless(outcome: Outcome) -> None:
    for text in (outcome.stdout, outcome.stderr):
        assert all(char.isprintable() for char in text.replace("\n", "")), repr(text)
        assert not any(line.startswith("ok     every") for line in text.splitlines())


def test_only_what_is_printable_is_shown() -> None:
    assert escape_text("Größe 5 µm, 模型 😀") == "Größe 5 µm, 模型 😀"
    assert (
        escape_text("a\x1b[2K\x9b\u202e\u200b\r\n\udce9") == r"a\x1b[2K\x9b\u202e\u200b\r\n\udce9"
    )
    assert all(char not in escape_text(HOSTILE) for char in CONTROL)
    every = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), 0x2069)))
    assert escape_text(every).isprintable()


def test_names_in_a_manifest_and_of_files(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / HOSTILE, neox_config(max_position_embeddings=64))
    out = tmp_path / "out"
    made = attn_surgery("export", source, "--drop-attn", "1", "--output", out)
    assert made.code == 0, made
    manifest = json.loads((out / "surgery.json").read_text())
    manifest["history"][0]["source"]["model"] = HOSTILE
    (out / "surgery.json").write_text(json.dumps(manifest))
    printed = attn_surgery("inspect", out)
    assert "edited from a\\x1b[2K" in printed.stdout
    manifest["files"][HOSTILE] = {"size": 1, "sha256": "0" * 64}
    (out / "surgery.json").write_text(json.dumps(manifest))
    verified = attn_surgery("verify", out)
    assert verified.code == 1
    for outcome in (made, printed, verified, attn_surgery("inspect", source)):
        assert_harmless(outcome)


def test_names_in_a_plan(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"edits": [{"drop_attn": "1", "variant": HOSTILE}]}))
    outcome = attn_surgery("export", "lab:pythia", "--plan", plan, "--output", tmp_path / "out")
    outcome.assert_error("unknown variant")
    assert_harmless(outcome)
    plan.write_text(json.dumps({"edits": [], HOSTILE: 1}))
    outcome = attn_surgery("export", "lab:pythia", "--plan", plan, "--output", tmp_path / "out")
    outcome.assert_error("plan.json: not a plan (got a\\x1b[2K\\x1b[1A", "not permitted")
    assert_harmless(outcome)


def test_what_was_typed(tmp_path: Path) -> None:
    """A shell completes hostile file names too."""
    for arguments in (["inspect", HOSTILE], [HOSTILE], ["inspect", "lab:pythia", HOSTILE]):
        outcome = attn_surgery(*arguments)
        assert outcome.code in (1, 2)
        assert_harmless(outcome)


def test_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((HOSTILE, HOSTILE), [(HOSTILE, HOSTILE)])
    print_table(("[bold]a", "figure"), [("[link=file:///etc]a[/link] :smiley:", "1")])
    make_console().print(f"[red]{HOSTILE}")
    make_console().print(Text(f"[red]{HOSTILE}"))
    printed = capsys.readouterr().out
    assert all(char.isprintable() for char in printed.replace("\n", ""))
    assert printed.count("\n\tok     every") == 0
    for text in ("[red]a\\x1b[2K", "[link=file:///etc]a[/link] :smiley:", "[bold]a"):
        assert text in printed


def rows_of(id: str) -> list[dict[str, Any]]:
    """Rows of `compare`: one with texts, and one with figures only."""
    figures = {"next_token_accuracy": 1.0, "nll": 0.1}
    output = {**figures, "text": HOSTILE, "differs": [[0, 3]], "drawn": [], "model": "m"}
    texts = {"id": id, "prompt": HOSTILE, "follows": HOSTILE}
    return [{**texts, "outputs": [output, output]}, {"id": id, "outputs": [figures, figures]}]


def test_ids_of_passages_are_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe and on a terminal, where styles and lines are ours and the rest is not."""
    result = {"models": [f"{HOSTILE}a", f"{HOSTILE}b"], "rows": rows_of(HOSTILE)}
    print_comparison(result)
    assert_harmless(Outcome(0, capsys.readouterr().out, ""))
    for columns in (40, 200):
        drawn = on_terminal(columns, lambda: print_comparison(result))
        plain = re.sub("\x1b\\[[0-9;]*m", "", drawn)
        assert all(char.isprintable() for char in plain.replace("\n", "")), repr(plain)
        assert "\x1b[2K" not in drawn


def test_json_is_ascii_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: "\x7f"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {HOSTILE: "\x7f"}
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_progress("export [red]model\x07\u202e", 10) as advance:
        advance(10)
    drawn = terminal.getvalue()
    assert "export [red]model\\x07\\u202e" in drawn
    assert "\x07" not in drawn
    assert "\u202e" not in drawn


def test_bars_within_bars_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two displays at once would each overwrite the other."""
    from rich.progress import Progress

    terminal, started, start = Terminal(), [], Progress.start
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(Progress, "start", lambda self: started.append(self) or start(self))
    with running("audit"), show_progress("audit cut", 9) as advance:
        for run in (1, 2):
            with show_progress(f"relearn, run {run}", None) as step:
                step(1_234)
                started[0].refresh()
        advance(9)
        started[0].refresh()
        assert [task.completed for task in started[0].tasks] == [9]
    assert len(started) == 1
    drawn = terminal.getvalue()
    for text in ("audit cut", "relearn, run 1", "relearn, run 2", "1,234", "100%"):
        assert text in drawn


def wait_for(err: io.StringIO, text: str) -> str:
    """The first line with that text, once it is there."""
    for _ in range(500):
        for line in err.getvalue().splitlines():
            if text in line:
                return line
        time.sleep(0.02)
    pytest.fail(f"{text!r} is not in {err.getvalue()!r}")


def test_a_pipe_gets_a_line_in_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while one step takes longer. It has the count and the time left, as far as known."""
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with show_progress("search \x07x", 64, interval=0.05) as advance:
        wait_for(err, r"search \x07x: 0 of 64 after 0:00:0")
        advance(2_000)
        wait_for(err, "search \\x07x: 2,000 of 64, about 0:00:00 left")
        advance(-1_999)
        wait_for(err, ": 1 of 64 after 0:0")
        advance(9)
        left = wait_for(err, ": 10 of 64, about 0:0").partition("about ")[2]
        assert left.endswith(" left")
    with show_progress("look", None, interval=0.05) as advance:
        wait_for(err, "look: 0:00:0")
        advance(1_234)
        wait_for(err, "look: 1,234 after 0:00:0")
    said = err.getvalue()
    time.sleep(0.2)
    assert err.getvalue() == said


def test_work_that_silences_libraries_still_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval runs with stderr turned away, and for minutes."""
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with show_progress("run tasks", 24, interval=0.05) as advance, redirect_stderr(io.StringIO()):
        advance(3)
        wait_for(err, "run tasks: 3 of 24 after 0:00:0")


def test_all_bars_of_a_command_share_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short bars are one long wait; of two that are open, the one that moves is shown."""
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with running("search"):
        deadline = time.monotonic() + 30
        while not err.getvalue() and time.monotonic() < deadline:
            with show_progress("short", 1, interval=0.3):
                time.sleep(0.02)
        assert err.getvalue().startswith("short: ")
        with (
            show_progress("estimate", None, interval=1),
            show_progress("search", 8, interval=1) as advance,
        ):
            advance(4)
            wait_for(err, "search: 4 of 8")
        assert "estimate" not in err.getvalue()


def test_a_short_command_prints_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("short", 2) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_nothing_is_printed_by_another_way() -> None:
    """Every print, echo and console of cli/ is in console.py and terminal.py."""
    found = []
    for path in (ROOT / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                plain = ("print", "click.echo", "click.secho", "Console", "_Literal")
                styled = ("Text.assemble", "Text.from_markup", "Text.from_ansi")
                if called in (*plain, *styled) or (
                    called.endswith((".stdout.write", ".stderr.write"))
                ):
                    found.append(path.name)
    assert set(found) == {"console.py", "terminal.py"}
