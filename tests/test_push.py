"""Publishing, by the real client to a server that speaks the Hub's protocol.

- One commit holds what the manifest lists, the manifest, the card and a report without texts, byte
  for byte. A folder in which anything else lies is refused. Private unless asked otherwise.
- A report goes along as the manifest records it, with its pages. One that has text is refused.
  No link is followed out of the folder, and no path of this machine is sent.
- What is sent is what was verified, whatever became of the folder meanwhile.
- A folder that does not verify, and a repository that holds something else, are refused. What
  somebody put there stays, whether under a name of ours or not.
- A push that was killed is completed by another, which sends no large file twice; until then
  nothing shows.
- Whatever goes wrong is one line that says what to do; a token shows up nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT
from example_report import example_of, put_report, unlimited
from forging import edit_json, seal
from hub_commands import TAKES_UP, TOKEN, Commands, Result, commands, environment_of, error, session
from hub_repository import Repository
from hub_uploads import UploadHub
from safetensors.torch import load_file, save_file

import surgery
from surgery.card.facts import as_line
from surgery.card.text import extract_own_text
from surgery.errors import OutputError
from surgery.publishing.upload import find_publishable
from surgery.record.report import Report
from surgery.verification import verify

READER = "hf_readerreaderreaderreaderreader"
WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BESIDE = {  # what must not be published
    "samples.jsonl": '{"prefix": "a private passage"}',
    "rows.jsonl": "{}",
    "notes.txt": "mine",
    ".env": "HF_TOKEN=hf_x",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of a small model, and others that are broken in one way each."""
    root = tmp_path_factory.mktemp("exported")
    config = neox_config(max_position_embeddings=64, num_hidden_layers=2)
    source = write_checkpoint(root / "source", config, num_shards=2)
    (source / "tokenizer.json").write_text('{"version": "1.0"}')
    (source / "LICENSE").write_text("Apache License\n")
    folders = {
        "stock": surgery.export(source, "0", output=root / "stock").output,
        "compact": surgery.export(source, "1", layout="compact", output=root / "compact").output,
    }
    names = ("damaged", "foreign", "beside", "shown", "reported")
    for name in names:
        folders[name] = Path(shutil.copytree(folders["stock"], root / name))
    with (folders["damaged"] / WEIGHTS[0]).open("ab") as file:
        file.write(b"x")
    (folders["foreign"] / "pytorch_model.bin").write_bytes(b"x")
    for name, text in BESIDE.items():
        (folders["beside"] / name).write_text(text)
    text = json.loads(report(folders["shown"]).to_text())
    text["edits"][0]["passages"][0]["prefix"] = "x"
    shown = {"report.json": json.dumps(text)}  # whoever wrote it recorded it, too
    put_report(folders["shown"], report(folders["shown"]), **shown)
    put_report(folders["reported"], report(folders["reported"]))
    return folders


def report(folder: Path, **changes: Any) -> Report:
    """A report of the model in the folder, with everything that one may have; what it `asked`."""
    kept: dict[str, Any] = {"max_drop": {"copy": 0.5}, "max": {"relearn": 0.9}}
    return example_of(folder, asked=unlimited(**kept | changes))


@pytest.fixture(scope="module")
def server() -> Iterator[UploadHub]:
    with UploadHub() as server:
        server.users |= {TOKEN: "me", READER: "me"}
        server.read_only.add(READER)
        yield server


@pytest.fixture(scope="module")
def folder(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run: the exports lie there under their names."""
    folder = tmp_path_factory.mktemp("work")
    for name, export in exported.items():
        (folder / name).symlink_to(export)
    return folder


@pytest.fixture(scope="module")
def run(server: UploadHub, folder: Path) -> Iterator[Commands]:
    with session(folder, server.url) as run:
        yield run


@pytest.fixture
def hub(server: UploadHub) -> UploadHub:
    """The server with nothing on it, and nothing wrong with it."""
    server.heal()
    server.repositories.clear()
    server.requests.clear()
    server.part_size = None
    return server


def files(repository: Repository, branch: str = "main") -> dict[str, bytes]:
    """What a branch holds, but what the Hub put there when it was created."""
    found = repository.find(branch)
    assert found is not None
    return {name: blob.data for name, blob in found.files.items() if name != ".gitattributes"}


def listed(folder: Path) -> set[str]:
    return set(json.loads((folder / "surgery.json").read_text())["files"])


def test_a_push_is_the_manifest_s_files_and_no_others(
    hub: UploadHub, run: Commands, exported: dict[str, Path]
) -> None:
    pushed, again, plain, compact = run(
        "push stock me/edited --json",
        "push stock me/edited --json",
        "push stock me/open --public --message Publish",
        "push compact me/small",
        token=TOKEN,
    )
    assert (pushed.code, pushed.err) == (0, "")
    result, repository = json.loads(pushed.out), hub.repositories["me/edited"]
    there = files(repository)
    assert set(there) == {*listed(exported["stock"]), "surgery.json", "README.md"}
    for name in set(there) - {"README.md"}:
        assert there[name] == (exported["stock"] / name).read_bytes(), name
    assert result == {
        "repo": "me/edited",
        "url": f"{hub.url}/me/edited",
        "commit": repository.branches["main"],
        "files": sorted(there),
        "private": True,
        "pr": None,
        "claims": [],
    }
    assert repository.private
    assert len(repository.commits) == 2, "one commit, and none when nothing has changed"
    assert json.loads(again.out) == result
    for name in WEIGHTS:
        assert hub.uploads(hashlib.sha256(there[name]).hexdigest()) == 2  # me/edited and me/open
    opened = hub.repositories["me/open"]
    assert not opened.private
    assert opened.commits[opened.branches["main"]].title == "Publish"
    assert (
        plain.out
        == f"{hub.url}/me/open: {len(there)} files at {opened.branches['main'][:12]}, public\n"
    )
    assert compact.code == 0, compact.err
    assert "modeling_attention_free.py" in files(hub.repositories["me/small"])
    written = [path for path in exported["stock"].parent.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_dry_run_sends_nothing_and_shows_what_a_push_would_send(
    hub: UploadHub, run: Commands, exported: dict[str, Path]
) -> None:
    dry, plain, branch = run(
        "push stock me/edited --dry-run --json",
        "push stock me/edited --dry-run",
        "push stock me/edited --revision side --dry-run --json",
        token=TOKEN,
    )
    assert (dry.code, dry.err) == (plain.code, plain.err) == (branch.code, branch.err) == (0, "")
    assert not hub.repositories, "nothing was created"
    found = json.loads(dry.out)
    assert (found["ok"], found["exists"], found["private"]) == (True, False, True)
    (pushed,) = run("push stock me/edited --json", token=TOKEN)
    there = files(hub.repositories["me/edited"])
    assert found["files"] == {name: len(there[name]) for name in sorted(there)}
    assert json.loads(pushed.out)["files"] == list(found["files"])
    names = [check["name"] for check in found["checks"]]
    assert names[:2] == ["destination", "repository"]
    assert names[-2:] == ["report", "card"]
    assert set(names) > {"files", "loads"}, "those of verify are among them"
    assert {"attn-surgery", "memorization"} <= set(found["card"]["tags"])
    assert re.search(r"^would send README\.md: [\d.,]+ (bytes|kB)$", plain.out, re.M)
    assert plain.out.splitlines()[-1].endswith("none sent")
    commits = len(hub.repositories["me/edited"].commits)
    (again,) = run("push compact me/edited --dry-run --json", token=TOKEN)
    found = json.loads(again.out)
    assert (found["exists"], found["checks"][-2]["name"]) == (True, "files on the Hub")
    (side,) = run("push compact me/edited --revision side --dry-run --json", token=TOKEN)
    assert json.loads(side.out)["ok"], "a branch that is not there would begin at main"
    repository = hub.repositories["me/edited"]
    assert (len(repository.commits), set(repository.branches)) == (commits, {"main"})


def test_a_dry_run_makes_all_checks_that_it_can(hub: UploadHub, run: Commands) -> None:
    """One that fails hides no other: not without a login, nor of a folder that does not verify."""
    (out,) = run("push stock me/edited --dry-run --json")
    found = json.loads(out.out)
    failed = {check["name"]: check["detail"] for check in found["checks"] if not check["ok"]}
    assert (out.code, found["ok"], found["exists"]) == (1, False, None)
    assert set(failed) == {"destination"}
    assert "hf auth login" in failed["destination"]
    assert found["files"], "the folder is fine"
    assert out.err == "error: stock: destination failed, so a push would be refused\n"
    (bad,) = run("push damaged me --dry-run --json", token=TOKEN)
    found = json.loads(bad.out)
    failed = [check["name"] for check in found["checks"] if not check["ok"]]
    assert (bad.code, failed, found["files"]) == (1, ["destination", "files"], {})
    assert hub.requests == [], "the Hub was not asked"


def test_branches_and_pull_requests(
    hub: UploadHub, run: Commands, exported: dict[str, Path]
) -> None:
    hub.part_size = 30_000
    first, branch, pull, twice = run(
        "push compact me/edited",
        "push stock me/edited --revision side/line --json",
        "push stock me/edited --create-pr --json",
        "push stock me/edited --revision refs/pr/1 --json",
        token=TOKEN,
    )
    assert [r.code for r in (first, branch, pull, twice)] == [0, 0, 0, 0], (first, branch, pull)
    repository = hub.repositories["me/edited"]
    assert json.loads(branch.out)["commit"] == repository.branches["side/line"]
    assert json.loads(pull.out)["pr"] == f"{hub.url}/me/edited/discussions/1"
    assert json.loads(pull.out)["commit"] == repository.pulls["refs/pr/1"]
    assert json.loads(twice.out)["commit"] == repository.pulls["refs/pr/1"], "nothing has changed"
    assert twice.err == "", "none was asked for"
    assert "modeling_attention_free.py" in files(repository), "main is as it was"
    for name in ("side/line", "refs/pr/1"):
        there = files(repository, name)
        assert there[WEIGHTS[1]] == (exported["stock"] / WEIGHTS[1]).read_bytes(), "sent in parts"
        assert "modeling_attention_free.py" not in there, "a file of the earlier push"


DELETE = "choose another name, or delete them there"
PROPOSE = "choose another name, propose the model with --create-pr, or delete them there"
STRANGE = (  # what loaders take, in any framework and spelling, or `verify` does not
    *("MODEL.BIN", "adapter_config.json", "model.gguf", "model.onnx", "notes.md"),
    *("onnx/model.ot", "pytorch_model.bin", "report.json", "special_tokens_map.json"),
)


def test_a_pull_request_of_nothing(hub: UploadHub, run: Commands) -> None:
    _, proposed, as_json = run(
        "push stock me/edited",
        "push stock me/edited --create-pr",
        "push stock me/edited --create-pr --json",
        token=TOKEN,
    )
    for result in (proposed, as_json):
        assert result.code == 0
        assert result.err == "Nothing differs from the Hub, so no pull request was opened.\n"
    assert json.loads(as_json.out)["pr"] is None
    assert not hub.repositories["me/edited"].pulls


def test_what_would_not_verify_stops_a_push(hub: UploadHub, run: Commands) -> None:
    taken = hub.create("me/taken", private=True)
    taken.commit({"README.md": b"# Mine\n", **dict.fromkeys(STRANGE, b"{}")})
    before = files(taken)
    for result in run("push stock me/taken", "push stock me/taken --create-pr", token=TOKEN):
        assert error(result) == (
            "Hub model me/taken: holds files that are not part of this model, so it would not "
            f"verify (got {', '.join(STRANGE)}); {DELETE}"
        )
    assert (files(taken), taken.pulls) == (before, {})
    allowed = hub.create("me/allowed", private=True)
    allowed.commit(
        {"README.md": b"# Mine\n", "recipe.yaml": b"drop-attn: 0", ".gitattributes": b""}
    )
    pushed, verified = run("push stock me/allowed", "verify me/allowed", token=TOKEN)
    assert (pushed.code, verified.code) == (0, 0), pushed.err + verified.err
    assert files(allowed)["recipe.yaml"] == b"drop-attn: 0"


def test_what_is_added_beside_a_model(
    hub: UploadHub, run: Commands, exported: dict[str, Path], tmp_path: Path
) -> None:
    """Yours is sent, also in place of an earlier one. What others merged stays. All is claimed."""
    folder = Path(shutil.copytree(exported["stock"], tmp_path / "signed"))
    (folder / "model.sig").write_bytes(b"of the first state")
    (first,) = run(f"push {folder} me/signed --json", token=TOKEN)
    assert first.code == 0, first.err
    repository = hub.repositories["me/signed"]
    merged = {".eval_results/gsm8k.yaml": b"- value: 1\n", "curve.png": b"\x89PNG"}
    repository.commit(merged, title="by the Hub")
    (folder / "model.sig").write_bytes(b"of the second state")
    dry, dry_json, again, verified = run(
        f"push {folder} me/signed --dry-run",
        f"push {folder} me/signed --dry-run --json",
        f"push {folder} me/signed",
        "verify me/signed --json",
        token=TOKEN,
    )
    assert [r.code for r in (dry, dry_json, again, verified)] == [0] * 4, again.err + verified.err
    there, names = files(repository), [*merged, "model.sig"]
    assert there["model.sig"] == b"of the second state"
    assert merged.items() <= there.items()
    what = "not part of the model, and not read by any check"
    assert json.loads(first.out)["claims"] == [{"name": "model.sig", "detail": what}]
    assert [claim["name"] for claim in json.loads(dry_json.out)["claims"]] == names
    assert {*names} < {claim["name"] for claim in json.loads(verified.out)["claims"]}
    for printed in (dry.out, again.out):
        assert [f"claimed {name}: {what}" for name in names] == [
            line for line in printed.splitlines() if line.startswith("claimed ")
        ]


def test_a_gitignore_stops_a_push(hub: UploadHub, run: Commands) -> None:
    """The Hub leaves out what it names, without a word, and would still remove files."""
    assert run("push compact me/edited", token=TOKEN)[0].code == 0
    repository = hub.repositories["me/edited"]
    repository.commit({".gitignore": b"*.safetensors\n"})
    before = files(repository)
    assert f"would not verify (got .gitignore); {DELETE}" in error(
        run("push stock me/edited", token=TOKEN)[0]
    )
    assert files(repository) == before


def test_files_of_the_same_name_that_nobody_pushed_stay(hub: UploadHub, run: Commands) -> None:
    """The name of the source, or a slip of the pen, must not cost you a model."""
    source = hub.create("me/source", private=True)
    source.commit({"config.json": b"{}", "LICENSE": b"mine", WEIGHTS[0]: b"mine"})
    before = files(source)
    refused, proposed = run("push stock me/source", "push stock me/source --create-pr", token=TOKEN)
    assert error(refused) == (
        "Hub model me/source: holds files that no push put there, and that this one would replace "
        f"or remove (got LICENSE, config.json, {WEIGHTS[0]}); {PROPOSE}"
    )
    assert files(source) == before
    assert proposed.code == 0, proposed.err


def test_what_was_replaced_after_a_push_stays(hub: UploadHub, run: Commands) -> None:
    """Small and large, of the model and of an earlier one; a push that changes none goes on."""
    run("push compact me/edited", token=TOKEN)
    repository = hub.repositories["me/edited"]
    mine = {"LICENSE": b"mine", WEIGHTS[0]: b"mine", "modeling_attention_free.py": b"mine"}
    repository.commit(mine, title="by hand")
    refused, proposed = run("push stock me/edited", "push stock me/edited --create-pr", token=TOKEN)
    assert f"would replace or remove (got {', '.join(mine)}); {PROPOSE}" in error(refused)
    assert mine.items() <= files(repository).items()
    assert proposed.code == 0, proposed.err
    assert "modeling_attention_free.py" not in files(repository, "refs/pr/1")


def test_a_report_goes_along_when_it_shows_no_text(
    hub: UploadHub, run: Commands, exported: dict[str, Path]
) -> None:
    done, shown = run("push reported me/reported", "push shown me/shown", token=TOKEN)
    assert done.code == 0, done.err
    there = files(hub.repositories["me/reported"])
    for name in ("report.json", "report.html", "report.md", "surgery.json"):
        assert there[name] == (exported["reported"] / name).read_bytes()
    measured = report(exported["reported"])
    assert as_line(measured.edits[0].verdict).encode() in there["README.md"]
    apart = run(
        "push stock me/apart --report reported", "push stock me/x --report compact", token=TOKEN
    )
    assert apart[0].code == 0, apart[0].err
    beside = files(hub.repositories["me/apart"])
    assert {name: beside[name] == there[name] for name in there if name != "README.md"} == (
        dict.fromkeys(there.keys() - {"README.md"}, True)
    )
    assert error(apart[1]) == "compact: belongs to another model; evaluate this one"
    (bare,) = run("push stock me/x --report stock", token=TOKEN)
    fix = "evaluate the model into it, or leave --report out"
    assert error(bare) == f"stock: holds no report; {fix}"
    assert error(shown).startswith(
        "shown/report.json: is not a report (got edits.0.passages.0.prefix"
    )
    assert set(hub.repositories) == {"me/reported", "me/apart"}


def test_only_what_keeps_its_limits_is_published(
    hub: UploadHub, exported: dict[str, Path], run: Commands, tmp_path: Path
) -> None:
    """What is not decided only on request, and the card says so; what is missed never."""
    for name, most in (("missed", 0.2), ("open", 0.3)):  # relearn recovers 6 of 22
        folder = Path(shutil.copytree(exported["reported"], tmp_path / name))
        put_report(folder, report(folder, max={"relearn": most}))
    allowed = "--allow-undecided"
    missed, still, unsure, done = run(
        f"push {tmp_path / 'missed'} me/missed",
        f"push {tmp_path / 'missed'} me/missed {allowed}",
        f"push {tmp_path / 'open'} me/open",
        f"push {tmp_path / 'open'} me/open {allowed}",
        token=TOKEN,
    )
    for one in (missed, still):
        assert "report.json: says that a limit is missed, so it is not published" in error(one)
    assert "report.json: says that a limit is not decided, so it is not published" in error(unsure)
    assert error(unsure).endswith("or give --allow-undecided")
    assert done.code == 0, done.err
    card = files(hub.repositories["me/open"])["README.md"].decode()
    assert "Not decided: max relearn: 22 passages cannot support 30% with 27.27% recovered" in card
    assert "me/missed" not in hub.repositories


def test_a_limit_that_a_part_of_a_benchmark_decided_is_not_published(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported["stock"], tmp_path / "partial"))
    put_report(folder, report(folder, limit=5))
    with pytest.raises(OutputError, match=r"decides the limit on .* on a part of it.*without"):
        find_publishable(folder)
    put_report(folder, report(folder, limit=5, max_drop={}))
    assert find_publishable(folder).measured is not None


def test_nothing_else_of_this_machine_is_sent(
    hub: UploadHub, run: Commands, exported: dict[str, Path], tmp_path: Path
) -> None:
    lines = []
    for name in ("tokenizer.json", "README.md", "report.json", "surgery.json"):
        local = Path(shutil.copytree(exported["reported"], tmp_path / name))
        (tmp_path / f"secret {name}").write_bytes((local / name).read_bytes())
        (local / name).unlink()
        (local / name).symlink_to(tmp_path / f"secret {name}")
        lines.append(f"push {local} me/x")
    for result in run(*lines, token=TOKEN):
        assert "a link" in error(result)
    local = Path(shutil.copytree(exported["stock"], tmp_path / "early"))
    manifest = json.loads((local / "surgery.json").read_text())
    manifest["history"][-1]["source"] = {"model": "/home/me/clients/acme"}
    (local / "surgery.json").write_text(json.dumps(manifest))
    assert error(run(f"push {local} me/x", token=TOKEN)[0]) == (
        f"{local}/surgery.json: history.0.source.model: holds a path of the machine that saved it, "
        "which is never published; export it again"
    )
    broken = Path(shutil.copytree(exported["reported"], tmp_path / "broken"))
    lacking = report(broken).to_dict()
    del lacking["base"]["name"]
    put_report(broken, report(broken), **{"report.json": json.dumps(lacking)})
    assert (
        "is not a report (got base.name: field required); remove it, and evaluate again"
        in error(run(f"push {broken} me/x", token=TOKEN)[0])
    )
    assert not hub.repositories


LENGTH = 1000000000000000019884624838656  # as the library writes it where there is no limit
SETTINGS = {  # file → what may be published of it, what may not, and its first key
    "config.json": (
        {"task_specific_params": {"kept": "me/acme", "p": []}},
        {"task_specific_params": {"kept": "me/acme", "p": ["/home/alice/acme"]}},
        "task_specific_params.p.0",
    ),
    "generation_config.json": (
        {"eos_token_id": 0, "more": {}},
        {"eos_token_id": 0, "_name_or_path": "./acme", "more": {"seen in /home/alice": 1}},
        "_name_or_path",
    ),
    "tokenizer_config.json": (
        {"name_or_path": "me/acme", "model_max_length": LENGTH, "init_kwargs": {}},
        {
            **{"name_or_path": "me/acme", "model_max_length": LENGTH},
            **{"init_kwargs": {"cache_dir": "~/.cache"}, "tokenizer_file": "C:\\alice\\t.json"},
        },
        "init_kwargs.cache_dir",
    ),
}


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source in whose files libraries wrote paths, and its export."""
    root = tmp_path_factory.mktemp("settled")
    config = neox_config(num_hidden_layers=2, max_position_embeddings=64)
    source = write_checkpoint(root / "source", config, num_shards=2)
    for name, (_, wrote, _) in SETTINGS.items():
        before = config if name == "config.json" else {}
        (source / name).write_text(json.dumps({**before, **wrote}))
    for name in WEIGHTS:
        save_file(load_file(source / name), source / name, metadata=WROTE)
    edit_json(source / INDEX, lambda index: index["metadata"].update(WROTE))
    return source, surgery.export(source, "0", output=root / "out").output


INDEX = "model.safetensors.index.json"
WROTE = {"format": "pt", "command": "train.py --out=/home/alice/acme"}


def test_paths_that_a_library_wrote_stay_here(settled: tuple[Path, Path], tmp_path: Path) -> None:
    """Whatever the file and the key, at any depth, in weights too; the source may be anyone's."""
    source, out = settled
    for name, (kept, _, _) in SETTINGS.items():
        assert json.loads((out / name).read_text()).items() >= kept.items(), name
    for added in find_publishable(out).files.values():
        with added.as_file() as file:
            assert b"alice" not in file.read()
    assert surgery.verify(out, source=source).ok


@pytest.mark.parametrize("name", [*SETTINGS, INDEX, *WEIGHTS])
def test_a_folder_that_holds_a_path_is_not_pushed(
    settled: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """As earlier versions exported it, which verifies."""
    source, out = settled[0], Path(shutil.copytree(settled[1], tmp_path / "out"))
    if name in WEIGHTS:
        key = "command"
        save_file(load_file(out / name), out / name, metadata=WROTE)
    elif name == INDEX:
        key = "metadata.command"
        edit_json(out / name, lambda index: index["metadata"].update(WROTE))
    else:
        key = SETTINGS[name][2]
        shutil.copy(source / name, out)
    seal(out)
    assert verify(out, papers=False).ok
    with pytest.raises(OutputError) as caught:
        find_publishable(out)
    assert str(caught.value) == (
        f"{out / name}: {key}: holds a path of the machine that saved it, which is never "
        "published; export it again"
    )


CHANGED = """
import json
import sys
from pathlib import Path
from surgery.errors import OutputError
from surgery.publishing import upload

def change(path):
    path.write_bytes(path.read_bytes()[:-1] + b"x")

verify = upload.verify

def verify_then(folder, *arguments, **options):
    done = verify(folder, *arguments, **options)
    if when == "verified":
        change(Path(folder, WEIGHTS))
    if when == "manifest":
        change(Path(folder, "surgery.json"))
    return done

upload.verify = verify_then
WEIGHTS = "model-00001-of-00002.safetensors"
for when in sys.argv[1:]:
    try:
        upload.push(when, f"me/{when}")
    except OutputError as error:
        print(error)
"""


def test_what_changes_after_it_was_verified_is_not_published(
    hub: UploadHub, exported: dict[str, Path], tmp_path: Path
) -> None:
    """Of the manifest and the report, which are held in memory, what was verified is."""
    cases = ("verified", "manifest")
    for when in cases:
        shutil.copytree(exported["reported"], tmp_path / when)
    manifest = (tmp_path / "manifest" / "surgery.json").read_bytes()
    environment = environment_of(tmp_path, hub.url, HF_TOKEN=TOKEN, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", CHANGED, *cases],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"verified/{WEIGHTS[0]}: has changed since it was verified; push again",
    ]
    assert "me/verified" not in hub.repositories
    assert files(hub.repositories["me/manifest"])["surgery.json"] == manifest


def test_what_a_user_has_written_on_the_card_stays(
    hub: UploadHub, run: Commands, exported: dict[str, Path], tmp_path: Path
) -> None:
    assert run("push stock me/edited", token=TOKEN)[0].code == 0
    repository = hub.repositories["me/edited"]
    card = files(repository)["README.md"].decode()
    written = card.replace("---\n", "---\nlicense: mit\n", 1) + "\n## From me\n\nHello.\n"
    written = written.replace("tags:\n", "tags:\n- of-mine\n")
    repository.commit({"README.md": written.encode()}, title="edited on the Hub")
    run("push stock me/edited --message again", token=TOKEN)
    again = files(repository)["README.md"].decode()
    assert extract_own_text(again) == "## From me\n\nHello."
    assert "license: mit" in again
    assert {"- of-mine", "- attn-surgery"} <= {*again.splitlines()}
    local = Path(shutil.copytree(exported["stock"], tmp_path / "local"))
    (local / "README.md").write_text("# Mine\n\nWritten in the folder.\n")
    run(f"push {local} me/edited", token=TOKEN)
    assert (
        extract_own_text(files(repository)["README.md"].decode())
        == "# Mine\n\nWritten in the folder."
    )


REFUSED = {
    "push stock me": "me: not a Hub id (expected OWNER/NAME)",
    "push stock me/a/b": "me/a/b: not a Hub id (expected OWNER/NAME)",
    "push nothing me/x": "nothing: has no surgery.json; push a folder that `attn-surgery export` "
    "wrote",
    "push damaged me/x": "damaged: does not verify, so it is not published: files: "
    f"{WEIGHTS[0]} differs from its recorded SHA-256; export it again",
    "push foreign me/x": "foreign: does not verify, so it is not published: files: "
    "pytorch_model.bin is not in the manifest; export it again",
    "push beside me/x": "beside: does not verify, so it is not published: files: .env is not in "
    "the manifest; export it again",
    "push stock you/x": "Hub model you/x: the token may not write there (got HTTP 403); use one "
    "that may write to what you owns, or propose the model with --create-pr",
    "push stock me/x --create-pr": "Hub model me/x: not found, so there is nothing to "
    "open a pull request on; push without --create-pr",
    "push stock me/public": "Hub model me/public: exists and is public; push with --public if you "
    "want that, or choose another name",
    "push stock me/private --public": "Hub model me/private: exists and is private, and --public "
    "does not change that; make it public in its settings, or push without --public",
    "push stock me/private --create-pr --revision gone": "Hub model me/private: has no revision "
    "'gone'",
    "push stock me/status-400": "Hub model me/status-400: the Hub refuses the request (got HTTP "
    "400)",
    "push stock me/status-401": "Hub model me/status-401: the Hub does not accept the token (got "
    "HTTP 401); log in again with `hf auth login`, or correct HF_TOKEN",
    "push stock me/status-403": "Hub model me/status-403: the token may not write there (got HTTP "
    "403); use one that may write to what me owns, or propose the model with --create-pr",
    "push stock me/status-404": "Hub model me/status-404: not found (got HTTP 404); check the name",
    "push stock me/status-409": "Hub model me/status-409: the upload conflicts with what is on "
    "the Hub, or with another upload (got HTTP 409); push again: files "
    "that have arrived are not sent twice",
    "push stock me/status-412": "Hub model me/status-412: changed during the upload (got "
    "HTTP 412); push again: files that have arrived are not sent twice",
    "push stock me/status-413": "Hub model me/status-413: a file or the whole upload is too "
    "large for the Hub (got HTTP 413); export again from a source that is "
    "split into smaller files",
    "push stock me/status-429": "Hub model me/status-429: too many requests to the Hub (got HTTP "
    "429); wait a while and push again: files that have arrived are not sent twice",
    "push stock me/status-500": "Hub model me/status-500: the Hub has an internal error (got HTTP "
    "500); wait a while and push again: files that have arrived are not sent twice",
    "push stock me/portal": "Hub model me/portal: the connection to the Hub failed (got "
    "JSONDecodeError); check the network and HF_ENDPOINT, and push again: files that have arrived "
    "are not sent twice",
}


def test_a_failure_is_one_line_and_soon(hub: UploadHub, run: Commands) -> None:
    """The statuses come as late as they can: 413 with a file, the others with the commit."""
    hub.create("me/public").commit({".gitattributes": b""})
    hub.create("me/private", private=True).commit({".gitattributes": b""})
    for line in REFUSED:
        name = line.split()[2]
        if name.startswith(("me/status", "me/portal")):
            hub.create(name, private=True).commit({".gitattributes": b""})
    hub.fail(200, "me/portal/commit", body=b"<html>Log in to this network</html>")
    hub.fail(413, "/put/me/status-413/", methods="PUT")
    for status in (400, 401, 403, 404, 409, 412, 429, 500):
        hub.fail(status, f"me/status-{status}/commit")
    before = dict(hub.repositories["me/private"].branches)
    run("verify stock")  # imports torch, which takes long on a busy machine
    for line, result in zip(REFUSED, run(*REFUSED, token=TOKEN), strict=True):
        assert error(result) == REFUSED[line]
        assert result.seconds < 20
    assert "me/x" not in hub.repositories
    assert hub.repositories["me/private"].branches == before


def test_tokens(hub: UploadHub, run: Commands) -> None:
    hub.create("me/model", private=True).commit({".gitattributes": b""})
    line = "push stock me/model"
    (nobody,), (wrong,), (reader,) = (
        run(line),
        run(line, token="hf_wrongwrongwrongwrongwrong"),
        run(line, token=READER),
    )
    assert error(nobody) == (
        "Hub model me/model: you are not logged in; run `hf auth login` with a token that may "
        "write, or set HF_TOKEN"
    )
    assert "the Hub does not accept the token (got HTTP 401)" in error(wrong)
    assert "the token may not write there (got HTTP 403)" in error(reader)
    assert not any("hf_" in result.err.replace("HF_", "") for result in (nobody, wrong, reader))


def test_metadata_that_the_hub_refuses(
    hub: UploadHub, run: Commands, exported: dict[str, Path], tmp_path: Path
) -> None:
    local = Path(shutil.copytree(exported["stock"], tmp_path / "local"))
    results = []
    for metadata in ("license: [1]", "license: [", "model-index: 1\n"):
        (local / "README.md").write_text(f"---\n{metadata}\n---\n")
        results += run(f"push {local} me/x", token=TOKEN)
    assert error(results[0]) == (
        'Hub model me/x: the Hub does not accept the metadata of README.md (got - "license" must '
        "be a string); correct it between the two lines of ---"
    )
    assert error(results[1]) == (
        "README.md: the metadata is not valid YAML; correct it between the two lines of ---"
    )
    assert results[2].code == 0, "results are ours to write"


def test_a_card_on_the_hub_that_is_no_text(hub: UploadHub, run: Commands) -> None:
    """It is not replaced, and the connection is not blamed."""
    repository = hub.create("me/latin", private=True)
    repository.commit({"README.md": "# Größe\n".encode("latin-1")})
    assert error(run("push stock me/latin", token=TOKEN)[0]).startswith(
        "Hub model me/latin: README.md is not UTF-8 (got 'utf-8' codec can't decode byte 0xf6"
    )
    assert files(repository)["README.md"] == b"# Gr\xf6\xdfe\n"


@pytest.mark.parametrize(
    ("card", "what"),
    [
        ("# Größe\n".encode("latin-1"), "README.md: is not UTF-8"),
        (b"---\nlicense: [\n---\n", "README.md: the metadata"),
    ],
    ids=["latin", "metadata"],
)
def test_a_card_of_yours_that_cannot_be_kept(
    hub: UploadHub, run: Commands, exported: dict[str, Path], tmp_path: Path, card: bytes, what: str
) -> None:
    """It is not replaced, and nothing is created before that is known."""
    mine = Path(shutil.copytree(exported["stock"], tmp_path / "mine"))
    (mine / "README.md").write_bytes(card)
    assert what in error(run(f"push {mine} me/unborn", token=TOKEN)[0])
    assert "me/unborn" not in hub.repositories
    assert (mine / "README.md").read_bytes() == card


def test_without_a_network(folder: Path, hub: UploadHub) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        (lost,) = commands(folder, nowhere)("push stock me/x", token=TOKEN)
    (offline,) = commands(folder, hub.url, HF_HUB_OFFLINE="1")("push stock me/x", token=TOKEN)
    assert "me/x: the connection to the Hub failed (got Connect" in error(lost)
    assert "check the network and HF_ENDPOINT, and push again" in error(lost)
    assert error(offline) == "Hub model me/x: offline mode is on; unset HF_HUB_OFFLINE"


@pytest.mark.slow
def test_a_connection_that_is_cut_in_mid_upload(
    hub: UploadHub, run: Commands, exported: dict[str, Path]
) -> None:
    first = hub.cut_upload("/put/me/once/", after=5_000, times=1)
    hub.cut_upload("/put/me/always/", after=5_000)
    once, always = run("push stock me/once", "push stock me/always", token=TOKEN)
    assert first.left == 0, "the connection was cut"
    if not TAKES_UP and once.code != 0:
        assert "the connection to the Hub failed" in error(once)
        (once,) = run("push stock me/once", token=TOKEN)
    assert once.code == 0, once.err
    there = files(hub.repositories["me/once"])
    assert all(there[name] == (exported["stock"] / name).read_bytes() for name in WEIGHTS)
    assert "me/always: the connection to the Hub failed" in error(always)
    assert files(hub.repositories["me/always"]) == {}, "nothing shows until all is there"


@pytest.mark.slow
def test_a_push_that_was_killed_is_completed_by_another(
    hub: UploadHub, run: Commands, exported: dict[str, Path], folder: Path
) -> None:
    hashes = [
        hashlib.sha256((exported["stock"] / name).read_bytes()).hexdigest() for name in WEIGHTS
    ]
    reached = hub.stall_upload(f"/put/me/edited/{hashes[1]}/", after=10_000)
    command = [sys.executable, "-m", "cli.main", "push", "stock", "me/edited"]
    environment = environment_of(folder, hub.url, HF_TOKEN=TOKEN)
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        try:
            assert reached.wait(180)
            repository, deadline = hub.repositories["me/edited"], time.monotonic() + 60
            while hashes[0] not in repository.objects:  # the two are sent side by side
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert files(repository) == {}
    hub.heal()
    assert run("push stock me/edited", token=TOKEN)[0].code == 0
    there = files(repository)
    assert set(there) == {*listed(exported["stock"]), "surgery.json", "README.md"}
    assert all(there[name] == (exported["stock"] / name).read_bytes() for name in WEIGHTS)
    assert [hub.uploads(hash) for hash in hashes] == [1, 2], "only what had not arrived"


def test_help_needs_no_heavy_library(run: Commands) -> None:
    result: Result = run("push --help")[0]
    assert result.code == 0
    assert "OWNER/NAME" in result.out
