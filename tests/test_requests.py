"""Contract: the surface is small, a request is a composition, and one thing has one word.

A request inherits no fields: it has its own, and groups that others have, too. One name means one
thing. A command has few options; what experts and tests set stands in a file. Files of version 0.3,
which are flat, still work.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import ROOT, run_typed, running

from cli.main import COMMANDS
from cli.requests import RequestCommand
from evals.run.request import Group, Request, list_groups, list_places

MOST = dict.fromkeys(COMMANDS, 20) | {"mitigate": 32, "search": 24, "export": 24}
MOST |= dict.fromkeys(("erase", "evaluate"), 22)  # with --by, --never, and --max-form, as promised
"""Command → the most options that it may have."""
PROMISED = {
    "export": "drop-attn variant layout revision output calibration dry-run overwrite "
    "max-shard-size push-to-hub json",
    "inspect": "json",
    "verify": "source json",
    "collect": "corpus output",
    "extract": "samples baseline prefix-length metrics dtype device batch-size rows output json "
    "skip-short secret revision",
    "evaluate": "baseline tasks suite samples output max-drop max-extraction max-form twin sibling "
    "never leave-out skip-short secret revision allow-undecided",
    "sweep": "samples corpus variant output skip-short secret revision json",
    "search": "samples grain measure max-extraction max max-drop choose skip-short secret json",
    "push": "public create-pr dry-run",
    "audit": "baseline samples attack max output twin sibling skip-short secret json",
    "mitigate": "samples corpus calibration max-extraction tasks output max measure dry-run preset "
    "no-benchmarks twin sibling never max-form erase heal budget only-best choose max-drop max "
    "skip-short secret config",
    "compare": "prompt samples rows max-new-tokens sample json skip-short secret",
    "init": "samples dry-run secret",
    "convert": "to output",
    "erase": "samples text never by drop-attn plan variant steps harden adapters as-adapter output "
    "skip-short secret",
    "heal": "text steps adapters output",
}
"""What a command is promised to have."""
REQUESTS = {
    found.kind for name in COMMANDS if isinstance(found := running(name).command, RequestCommand)
}
GROUPS = {group for kind in REQUESTS for group, _ in list_groups(kind).values()}
FLAT = {  # what version 0.3 wrote
    "evaluate": "no-cache: false\nleave-out: 0.25\nmax:\n- hints:2=0.5\ndraws: 2\n"
    "no-benchmarks: true\nprefix-length: 8\nskip-short: false\ndtype: auto\nmodels:\n- OUT\n"
    "baseline: lab:pythia\naudit: true\nshow-text: false\n",
    "audit": "no-cache: false\nattack:\n- near\nskip-short: false\ndtype: auto\n"
    "device-map: auto\nmodels:\n- OUT\nsamples: rows.jsonl\n",
    "search": "heal:\n- t.txt\nheal-steps: 80\nno-cache: false\nskip-short: false\ndtype: auto\n"
    "model: m\nsamples: s.npy\nheldout:\n- h.txt\nmax-extraction: 0.1\ncost: worst\n"
    "grain: blocks\nmeasure: any\nlayout: auto\nmax-evaluations: 64\nchoose: 0.5\nseed: 7\n",
    "sweep": "no-cache: false\nskip-short: false\ndtype: auto\nmodel: m\nsamples: s.npy\n"
    "last: true\nranges: false\nheads: true\nexact-only: false\nestimate: false\n",
    "mitigate": "heal:\n- lab:pythia\nheal-steps: 80\nno-benchmarks: false\nno-cache: false\n"
    "dtype: auto\nmodel: lab:pythia\nsamples: lab:pythia\nmax-extraction: 0.01\ncost: worst\n"
    "grain: blocks\nmeasure: any\nlayout: auto\nmax-evaluations: 64\nchoose: 0.5\nseed: 0\n"
    "erase: false\nerase-steps: 60\nharden: false\nonly-best: false\n",
}


def list_options(name: str) -> list[click.Option]:
    return [one for one in running(name).command.params if isinstance(one, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_few_options_and_all_that_are_promised(name: str) -> None:
    options = list_options(name)
    assert len(options) <= MOST[name]
    assert not [one for one in options if one.hidden]
    opts = set(chain.from_iterable((*one.opts, *getattr(one, "old", ())) for one in options))
    assert {f"--{one}" for one in PROMISED.get(name, "").split()} <= opts


def test_what_has_no_option_says_where_to_write_it() -> None:
    outcome = run_typed("mitigate", "lab:pythia", "--output", "OUT", "--draws", "2")
    assert (outcome.code, outcome.stdout) == (2, "")
    said = "error: mitigate takes draws from --config alone: pass --config '{draws: VALUE}'"
    assert outcome.stderr.startswith(said)
    assert outcome.stderr.count("\n") == 1


def test_requests_inherit_no_fields() -> None:
    assert len(REQUESTS) == 10
    assert {kind.__bases__ for kind in REQUESTS} == {(Request,)}
    assert {kind.__bases__ for kind in GROUPS} == {(Group,)}
    assert not Request.model_fields
    assert not Group.model_fields


def test_a_name_means_one_thing() -> None:
    """In every request and group, the same type, default, and help, but for what a cut and a
    search call a variant: one, or those to choose from."""
    seen: dict[str, Any] = {}
    for kind in (*REQUESTS, *GROUPS):
        groups = list_groups(kind) if issubclass(kind, Request) else {}
        for name, info in kind.model_fields.items():
            if name not in {"variant", *groups}:
                said = repr((info.annotation, info.metadata))
                assert seen.setdefault(name, said) == said, (kind, name)
    for kind in REQUESTS:
        assert not list_groups(kind).keys() & list_places(kind).keys(), kind


@pytest.mark.parametrize("name", FLAT)
def test_a_file_of_version_0_3_is_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(FLAT[name])
    command = running(name).command
    assert isinstance(command, RequestCommand)
    given = ["--output", "OUT"] if name == "mitigate" else []
    context = command.make_context(name, ["--config", str(file), *given])
    request = command.fill(context)
    if name == "evaluate":
        assert (request.attacks.attack, request.benchmarks.suite) == (("default",), "none")
        assert (request.attacks.draws, request.passages.leave_out) == (2, 0.25)
    elif name == "audit":
        assert (request.run.device, request.attacks.attack) == ("all", ("near",))
    elif name == "search":
        assert (request.choice.grain, request.choice.seed) == ("blocks", 7)
        assert (request.heal, request.healing.steps) == (("t.txt",), 80)
    file.write_text(request.to_config())
    again = command.make_context(name, ["--config", str(file), *given])
    assert command.fill(again) == request, "as this version nests it"


def test_a_later_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "mitigate.yaml"
    file.write_text("attacks: {draws: 2}\nmodel: lab:pythia\nchoice: {grain: heads}\n")
    command = running("mitigate").command
    assert isinstance(command, RequestCommand)
    given = ["--config", str(file), "--config", "{draws: 3, grain: blocks}", "--output", "OUT"]
    request = command.fill(command.make_context("mitigate", given))
    assert (request.attacks.draws, request.choice.grain) == (3, "blocks")


REPLACED = {r"gates?": "limit", r"goals?": "limit", "hold-?out": "held-out text", "ablat": "cut"}
"""What nobody should read → the word of CONTRIBUTING that stands for it."""


def test_one_thing_has_one_word() -> None:
    """In the help of every command, in docs, and in the sentences of reports. An MLP has gates."""
    words = (ROOT / "CONTRIBUTING.md").read_text().partition("## Words")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| ([a-z, -]+) \|", words, re.MULTILINE)[1:]
    assert len(listed) == len({*listed}) == 12
    texts = {name: running(name).command.get_help(running(name)) for name in COMMANDS}
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("evals/table/**/*.jinja")]
    texts |= {page.name: page.read_text() for page in pages if page.name != "families.md"}
    for old, new in REPLACED.items():
        said = [name for name, text in texts.items() if re.search(rf"\b{old}\b", text, re.I)]
        assert not said, f"{old} is called {new}"


def test_there_are_few_commands() -> None:
    assert len(COMMANDS) == 19
