"""Contract: the command line answers at once, documents itself, and exits as promised.

`--help` imports nothing heavy; that of a command imports only what its request is checked with.
Imports are counted, not seconds, which a busy machine stretches. Help lists options by what they
are about. Every command and every option has its help; the version is the package's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import yaml
from command_line import ROOT, attn_surgery, finish, start

from cli.examples import EXAMPLES
from cli.main import COMMANDS, GROUPS, main

HEAVY = {
    "torch", "transformers", "numpy", "scipy", "datasets", "lm_eval", "accelerate", "matplotlib",
    "huggingface_hub", "safetensors", "pydantic", "pandas", "pyarrow",
}  # fmt: skip
SLOW = HEAVY - {"pydantic", "numpy", "safetensors"}
"""What no request needs."""
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "command-line.md").read_text()


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


_IMPORTING = """
import json, os, sys
from cli.main import run
lines, code = json.loads(sys.argv[1]), int(sys.argv[2])
for line in lines:
    os.environ["COMP_WORDS"] = "attn-surgery " + line
    try:
        run(line.split())
    except SystemExit as stop:
        assert stop.code == code, (line, stop.code)
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*lines: str, code: int = 0) -> set[str]:
    """The packages that these commands, which all end with that exit code, have imported."""
    done = finish(start(json.dumps(lines), code, program=("-c", _IMPORTING)))
    assert done.code == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_imports_nothing_heavy() -> None:
    modules = imported_by("--help", "--version")
    assert {"click", "cli", "surgery"} <= modules
    assert modules & HEAVY == set()
    assert imported_by(*[f"{name} --help" for name in COMMANDS]) & SLOW == set()


MISUSES = [
    "export",
    "export lab:pythia --drop-attn 1 --plan p",
    "export lab:pythia --drop-attn 1 --max-drop a=1",
    "extract",
    "extract nobody/nothing",
    "extract lab:pythia --samples s --rows x --output x",
    "audit nobody --max hints:2=0.1",
    "audit nobody/nothing --attack near",
    "audit nobody/nothing --baseline b --attack near",
    "collect lab:pythia --corpus c",
    "evaluate m --max-drop a=1",
    "evaluate m --baseline b --attack default",
    "evaluate m --baseline b --max-drop a",
    "sweep m",
    "search lab:pythia --measure hints:4",
    "search lab:pythia --samples s --measure hints:4",
    "mitigate lab:pythia",
    "mitigate lab:pythia --measure hints:4 --max-drop a=1 --max any=0.1",
    "mitigate nobody/nothing --output o --measure hints:4 --max-drop a=1",
    "push d",
    "audit lab:pythia --baseline lab:pythia --attack nearest",
    "search lab:pythia --samples s --max nearest=0.1",
    "mitigate lab:pythia --output o --attack nearest",
]
UNKNOWN = [
    "push nobody/nothing me/model",
    "verify nobody/nothing",
    "inspect nobody/nothing",
    "export nobody/nothing --drop-attn 1",
    "compare nobody/nothing nobody/nothing --prompt x",
    "mitigate nobody/nothing --output o --samples hf:a/b:train:text --corpus README.md",
]


def test_what_is_missing_is_said_at_once(tmp_path: Path) -> None:
    """Before anything is imported that takes seconds."""
    made = tmp_path / "made"
    exported = attn_surgery("export", "lab:gpt-neo", "--drop-attn", "1", "--output", made)
    assert exported.code == 0, exported
    slow = {"torch", "transformers", "scipy", "datasets", "lm_eval", "accelerate"}
    assert imported_by(*MISUSES, code=2) & slow == set()
    assert imported_by(*UNKNOWN, f"push {made} bad-id", code=1) & slow == set()


@pytest.mark.skipif(sys.platform == "darwin", reason="its bash is too old to complete")
def test_a_shell_completes_commands_options_and_choices(tmp_path: Path) -> None:
    """With the line of the documents for bash, and without anything heavy."""
    program = tmp_path / "attn-surgery"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli.main "$@"\n')
    program.chmod(0o755)
    line = re.findall(r'eval "\$\(_ATTN_SURGERY_COMPLETE=bash_source .*?\)"', PAGE)[0]

    def completed(*words: str) -> list[str]:
        script = f"{line}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        script += '_attn_surgery_completion attn-surgery; echo "${COMPREPLY[@]}"'
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            env={**os.environ, "PATH": path},
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("attn-surgery", "mi") == ["mitigate"]
    assert completed("attn-surgery", "export", "--lay") == ["--layout"]
    assert completed("attn-surgery", "export", "--layout", "s") == ["stock"]


_STOPPED = """
import os, signal, sys, time

def stop(event, arguments):
    if event == "import" and arguments[0] == "torch":
        try:
            os.kill(os.getpid(), signal.{signal})
            time.sleep(10)
        except KeyboardInterrupt:
            raise {becomes}

sys.addaudithook(stop)
if signal.getsignal(signal.{signal}) == signal.SIG_IGN:  # as for SIGHUP under nohup
    signal.signal(signal.{signal}, signal.SIG_DFL)
from cli.main import run
run(sys.argv[1:])
"""


BROKEN = "ImportError('torch failed to import')"


@pytest.mark.parametrize(
    ("arguments", "continues", "signal", "becomes"),
    [
        pytest.param(
            *("extract lab:pythia --samples lab:pythia", False, "SIGINT", ""),
            marks=pytest.mark.slow,
        ),
        ("sweep lab:pythia --samples lab:pythia --output out", True, "SIGINT", BROKEN),
        (
            'sweep lab:pythia --samples lab:pythia --config {"no-cache":true}',
            False,
            "SIGINT",
            BROKEN,
        ),
        pytest.param(
            *("mitigate lab:pythia --output out", True, "SIGTERM", ""),
            marks=pytest.mark.slow,
        ),
        ("mitigate lab:pythia --output out --overwrite", True, "SIGHUP", BROKEN),
    ],
)
def test_interrupted_in_the_first_second(
    arguments: str, continues: bool, signal: str, becomes: str, tmp_path: Path
) -> None:
    """Whatever an import that was stopped makes of it. Work goes on only where it is kept."""
    (tmp_path / "README.md").write_text(README)
    program = ["-c", _STOPPED.format(signal=signal, becomes=becomes)]
    done = finish(start(*arguments.split(), program=program, cwd=tmp_path))
    assert (done.code, done.stdout) == (130, "")
    hint = ": run the same command again to continue" if continues else ""
    assert done.stderr.strip() == f"interrupted{hint}"
    assert {path.name for path in tmp_path.iterdir()} == {"README.md"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    found = command(name)
    assert found.help
    outcome = attn_surgery(name, "--help")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith(f"Usage: attn-surgery {name}")
    for option in found.params:
        assert all(re.fullmatch(r"-[a-z]|--[a-z][a-z0-9-]+|[a-z_]+", opt) for opt in option.opts)
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]} has no help"
        else:  # an argument is explained by the text
            assert option.human_readable_name.strip("[].") in found.help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_is_a_number(name: str) -> None:
    """Not NaN, which every comparison lets pass, nor infinity."""
    for option in command(name).params:
        if isinstance(option.type, click.types.FloatParamType):
            for value in ("nan", "inf", "-inf"):
                given = (value,) if option.multiple else value
                with pytest.raises(click.BadParameter, match=value.lstrip("-")):
                    option.type_cast_value(click.Context(command(name)), given)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_many_options_takes_them_from_a_file(name: str, tmp_path: Path) -> None:
    """YAML or JSON, keys like options. Command-line options override the file."""
    found = command(name)
    options = [one for one in found.params if isinstance(one, click.Option)]
    takes = any("--config" in one.opts for one in options)
    assert takes == (len(options) > 5)
    if not takes:
        return
    (tmp_path / "config.json").write_text('{\n  "colour": false\n}')
    (tmp_path / "near.yml").write_text("devise: cpu")
    for file, message in (
        ("config.json", f"{name} has no option 'colour'"),
        (
            "near.yml",
            "did you mean 'device'?" if name not in ("export", "init", "push") else "devise",
        ),
    ):
        outcome = attn_surgery(name, "--config", tmp_path / file)
        assert (outcome.code, message in outcome.stderr) == (2, True), outcome


def test_values_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    given = {"model": "m", "--samples": "s.npy", "no-last": True, "variant": "zero", "limit": 0.5,
             "corpus": ["hf:a/b:train:text"], "batch-size": 3, "heads": True,
             "tasks": "a,b"}  # fmt: skip
    file.write_text(json.dumps(given))
    ctx = command("sweep").make_context("sweep", ["--config", str(file), "--device", "cpu"])
    again = yaml.safe_load(command("sweep").fill(ctx).to_config())
    assert again == {
        "model": "m", "last": False, "ranges": False, "heads": True,
        "estimate": False, "variant": ["zero"],
        "passages": {"samples": "s.npy", "skip-short": False},
        "texts": {"heldout": ["hf:a/b:train:text"]},
        "benchmarks": {"tasks": ["a", "b"], "limit": 0.5},
        "run": {"device": "cpu", "dtype": "auto", "batch-size": 3, "no-cache": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "model: m\ndrop-attn: 6.10\nrevision: 0123456\nsamples: no\nprefix-length: 9\nsteps: 12\n"
        "as-adapter: yes\nharden: 0\n",
        '{"model": "m", "drop-attn": 6.10, "revision": "0123456", "samples": "no", "steps": 12,'
        '"prefix-length": 9, "as-adapter": true, "harden": false}',
    ],
)
def test_values_of_a_file_are_taken_as_typed(text: str, tmp_path: Path) -> None:
    """Head 10 is not head 1, and a commit is no number. Zero is a number, and turns flags off."""
    file = tmp_path / ("options.json" if text[0] == "{" else "options.yaml")
    file.write_text(text)
    found = command("erase").make_context("erase", ["--config", str(file)]).params
    given = ("drop_attn", "revision", "samples", "prefix_length", "steps", "as_adapter", "harden")
    wanted = ("6.10", "0123456", "no", 9, 12, True, False)
    assert tuple(found[name] for name in given) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("revision:", "revision: expected one value, got ''"),
        ("revision: [a]", "revision: expected one value, got ['a']"),
        ("no-last: perhaps", "'perhaps' is not a valid boolean"),
        ("no-last: [true]", "no-last: expected one value, got ['true']"),
        ("prefix-length: 6.5", "'6.5' is not a valid integer"),
    ],
)
def test_values_of_a_file_that_fit_no_option(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / ("options.json" if text[0] == "{" else "options.yaml")
    file.write_text(text)
    outcome = attn_surgery("sweep", "m", "--samples", "s", "--config", file)
    assert outcome.code == 2, outcome
    assert message in outcome.stderr


@pytest.mark.parametrize(("value", "last"), [("true", False), ("1", False), ("0", True)])
def test_a_flag_of_a_file_may_be_negated(value: str, last: bool, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"model: m\nsamples: s\nno-last: {value}\n")
    ctx = command("sweep").make_context("sweep", ["--config", str(file)])
    assert ctx.params["last"] is last


def test_help_lists_the_commands() -> None:
    outcome = attn_surgery("--help")
    assert (outcome.code, outcome.stderr) == (0, "")
    for name, summary in (item for some in GROUPS.values() for item in some.items()):
        assert re.search(rf"^  {name} +{re.escape(summary[:30])}", outcome.stdout, re.MULTILINE)
    assert (
        "Exit codes: 0 done, 1 an error, 2 usage, 3 a limit is missed, 4 a limit is not decided "
        in (" ".join(outcome.stdout.split()))
    )
    assert attn_surgery("-h").stdout == attn_surgery("help").stdout == outcome.stdout


def test_help_explains_a_command() -> None:
    assert attn_surgery("help", "compare") == attn_surgery("compare", "--help")
    unknown = attn_surgery("help", "exprot")
    assert (unknown.code, "did you mean 'export'?" in unknown.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--output", "--config"])
def test_a_path_that_is_empty(option: str) -> None:
    found = attn_surgery("export", "lab:gpt-neo", "--drop-attn", "1", option, "")
    assert found.code == 2
    assert f"'{option}': names no file" in found.stderr


def test_version() -> None:
    outcome = attn_surgery("--version")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout == f"attn-surgery {version('attn-surgery')}\n"


@pytest.mark.parametrize("name", ["nothing", "cli.commands.edit.export", "EXPORT", "__init__", ""])
def test_unknown_commands(name: str) -> None:
    outcome = attn_surgery(name)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert f"No such command {name!r}" in outcome.stderr


@pytest.mark.parametrize("typed", ["exprt", "exports", "xport"])
def test_a_command_that_was_meant(typed: str) -> None:
    outcome = attn_surgery(typed, "lab:pythia")
    assert outcome.code == 2
    assert f"No such command {typed!r}; did you mean 'export'?" in outcome.stderr


def test_no_command() -> None:
    outcome = attn_surgery()
    assert outcome.code == 2
    assert "Usage: attn-surgery" in outcome.stdout + outcome.stderr


def test_exit_codes_of_a_process() -> None:
    assert finish(start("inspect", "lab:pythia", "--json")).json["num_blocks"] == 6
    missing = finish(start("inspect", "lab:nothing"))
    missing.assert_error("no embedded model 'lab:nothing'")
    assert finish(start("inspect")).code == 2


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_has_seen_enough(name: str) -> None:
    """As `| head` does: an error that leaves no traceback, and no verdict."""
    program = (
        "import sys, click\n"
        "from cli import main as cli\n"
        "@click.command()\n"
        "def verdict():\n"
        "    for number in range(100_000):\n"
        f"        click.echo('a line of a long table', err={name == 'stderr'})\n"
        "cli.main = verdict\n"
        "cli.run([])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    stream = getattr(process, name)
    assert stream.readline()
    stream.close()
    setattr(process, name, None)
    assert process.communicate(timeout=60) in ((None, b""), (b"", None))
    assert process.returncode == 1, "no verdict"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (
            ["inspect", "no/such/folder", "--json"],
            1,
            {"where": "no/such/folder", "exit_code": 1},
        ),
        (["inspect", "--jsn", "--json"], 2, {"where": None, "exit_code": 2}),
        (
            ["audit", "lab:pythia", "--attack", "relern", "--json"],
            2,
            {"fix": "did you mean 'relearn'?", "exit_code": 2},
        ),
    ],
)
def test_an_error_is_an_object_if_json_was_asked_for(
    arguments: list[str], code: int, expected: dict[str, object]
) -> None:
    """Its parts are those of the line on stderr, which stays."""
    if arguments[0] == "audit":
        arguments += ["--baseline", "lab:pythia", "--samples", "lab:pythia", "--output", "OUT"]
    outcome = attn_surgery(*arguments)
    assert outcome.code == code
    said = outcome.json
    assert set(said) == {"error", "where", "expected", "got", "fix", "exit_code"}
    assert said | expected == said
    assert said["error"] in outcome.stderr
    assert attn_surgery(*(one for one in arguments if one != "--json")).stdout == ""


@pytest.mark.parametrize(
    "line",
    [line for lines in EXAMPLES.values() for line in lines if not line.startswith("lm_eval")],
)
def test_examples_in_the_help_are_as_commands_take_them(line: str) -> None:
    name, *rest = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    if not ("--help" in rest or rest[:1] == ["--config"]):  # of a file that is not here
        command.make_context(name, rest)
    assert line in attn_surgery("help", name).stdout
