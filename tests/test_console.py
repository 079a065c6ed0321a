"""Contract: work tells a caller nothing unless the caller asks, and then tells only that one."""

from __future__ import annotations

import pytest

from evals.run.console import Console, say, show_progress, use_console


def test_silent_unless_a_console_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    say("before")
    with use_console(Console(said.append)):
        say("inside")
        with use_console(Console()):
            say("hidden")
        say("inside again")
    say("after")
    with show_progress("work", 3) as advance:
        advance(3)
    assert said == ["inside", "inside again"]
    assert capsys.readouterr() == ("", "")


def test_an_error_ends_the_use() -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError), use_console(Console(said.append)):
        raise RuntimeError
    say("after")
    assert said == []
