"""Contract: one policy for whatever is written (`test_every_command.py` asks every command).

`--overwrite` replaces what is there whole and at once: a folder only where it is of the kind that
the command writes, with nothing in it that attn-surgery did not write as it is. What killed runs
have left is removed by the next run into the same folder, and what a living run is writing is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery, snapshot

from evals.jobs.evaluating import owned
from surgery.editing.preparing import prepare
from surgery.errors import OutputError
from surgery.exporting import export, list_owned
from surgery.output import (
    OwnFile,
    check_output,
    create_folder,
    create_staging,
    recognize_by,
    write_lines,
    write_text,
)

LAB, NONE = "lab:pythia", "no/such/model"
PARTIAL, OLD, LOCK = ".attn-surgery-partial", ".attn-surgery-old", ".attn-surgery-lock"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("model") / "source",
        neox_config(max_position_embeddings=64, num_hidden_layers=6),
    )


@pytest.fixture
def exported(source: Path, tmp_path: Path) -> Path:
    return export(source, "1", output=tmp_path / "out").output


# --- what is found before any work


def test_a_full_disk_is_noticed_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(LAB, "5", output=tmp_path / "cut").output
    free = SimpleNamespace(free=10**6)
    monkeypatch.setattr("surgery.output.shutil.disk_usage", lambda place: free)
    for taught in ("erasing.teach_to_forget", "healing.heal_by_source"):
        monkeypatch.setattr(f"surgery.training.{taught}", lambda *_, **__: pytest.fail("trained"))
    cut = (LAB, "--drop-attn", 0)
    for call in (("export", *cut), ("erase", *cut), ("heal", folder)):
        refused = attn_surgery(*call, "--output", tmp_path / "out")
        refused.assert_error("too little space on the disk", "got 0.0 GB")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_a_default_output_is_refused_as_well(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source-identity-1").mkdir()
    attn_surgery("export", source, "--drop-attn", "1").assert_error(
        "source-identity-1: already exists; choose another --output or give --overwrite"
    )


# --- what --overwrite replaces


def test_the_folder_that_one_is_in_is_replaced(
    source: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder is gone by then, and `.` with it."""
    monkeypatch.chdir(exported)
    done = attn_surgery("export", source, "--drop-attn", "2", "--output", ".", "--overwrite")
    assert done.code == 0, done
    assert attn_surgery("inspect", exported, "--json").json["attention_free"] == {"2": "identity"}


def test_the_same_result_is_not_made_again(source: Path, exported: Path) -> None:
    """Unless a file of it has changed."""
    call = ("export", source, "--drop-attn", "1", "--output", exported)
    before = snapshot(exported)
    for more in ((), ("--overwrite",)):
        assert f"{exported}: already holds this result\n" in attn_surgery(*call, *more).stderr
    assert snapshot(exported) == before
    config = exported / "config.json"
    config.write_text(config.read_text() + "\n")
    attn_surgery(*call).assert_error("holds this result, and a file of it has changed")
    attn_surgery(*call, "--overwrite").assert_error("which attn-surgery did not write")


def test_a_model_is_replaced_with_all_that_belongs_to_it(source: Path, exported: Path) -> None:
    for name in ("report.json", "report.html", "lm_eval/base/me/results_2026.json"):
        (exported / name).parent.mkdir(parents=True, exist_ok=True)
        (exported / name).write_text("{}")
    (exported / f".README.md{PARTIAL}").write_text("of a run that was killed")
    (exported / "README.md").write_text("mine")
    export(source, "1", output=exported, overwrite=True)
    assert {path.name for path in exported.iterdir()} == {
        "config.json", "model.safetensors", "surgery.json", "README.md"
    }  # fmt: skip
    assert "mine" not in (exported / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{}"),  # saved again by another program
        ("zebra.txt", "mine"),
        (".hidden", "mine"),
        ("lm_eval/notes.txt", "mine"),
        ("deep/er/model.safetensors", "mine"),
    ],
)
def test_a_model_with_a_stranger_is_not_replaced(
    name: str, content: str, source: Path, exported: Path
) -> None:
    (exported / name).parent.mkdir(parents=True, exist_ok=True)
    (exported / name).write_text(content)
    before = snapshot(exported)
    with pytest.raises(OutputError) as refusal:
        export(source, "1", output=exported, overwrite=True)
    assert str(refusal.value) == (
        f"{exported}: holds {name}, which attn-surgery did not write, so it is not overwritten; "
        "choose another `output`"
    )
    assert snapshot(exported) == before


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml"])
def test_notes_beside_a_report_are_strangers(name: str, tmp_path: Path) -> None:
    """A model's folder has files of these names; that of an evaluation has none."""
    report = dict.fromkeys(("base", "edits", "settings"))
    (tmp_path / "report.json").write_text(json.dumps(report))
    check_output(tmp_path, owned, overwrite=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, which attn-surgery did not write"):
        check_output(tmp_path, owned, overwrite=True)


def test_links_are_strangers(source: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data").write_text("mine")
    (exported / "lm_eval").symlink_to(tmp_path / "theirs")
    weights = exported / "model.safetensors"
    weights.rename(tmp_path / "weights")
    with pytest.raises(OutputError, match="holds lm_eval, which"):
        export(source, "1", output=exported, overwrite=True)
    (exported / "lm_eval").unlink()
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(OutputError, match=r"holds model\.safetensors, which"):
        export(source, "1", output=exported, overwrite=True)


def test_weights_of_the_same_size_are_not_those_that_were_written(
    source: Path, exported: Path
) -> None:
    weights = exported / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OutputError, match=r"holds model\.safetensors, which"):
        export(source, "1", output=exported, overwrite=True)


def test_a_manifest_that_does_not_read_protects_the_folder(source: Path, exported: Path) -> None:
    (exported / "surgery.json").write_text("{")
    with pytest.raises(OutputError, match=r"surgery\.json: .*, so it is not overwritten; choose"):
        export(source, "1", output=exported, overwrite=True)


def test_folders_are_known_by_what_is_in_their_main_file(tmp_path: Path) -> None:
    kind = recognize_by("sweep.json", ("base", "edits"), "sweep.csv")
    main = tmp_path / "out" / "sweep.json"
    main.parent.mkdir()
    check_output(main.parent, kind, overwrite=True)  # empty
    (main.parent / "sweep.csv").write_text("")
    for content, text in (("{}", "holds sweep.csv"), ("[", "not valid JSON"), ("[]", "not a JSON")):
        main.write_text(content)
        with pytest.raises(OutputError, match=text):
            check_output(main.parent, kind, overwrite=True)
    main.write_text('{"base": 1, "edits": 2}')
    check_output(main.parent, kind, overwrite=True)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail() -> Iterator[str]:
        yield "half"
        raise ZeroDivisionError

    def renew() -> Iterator[str]:
        yield "new \udce9"
        assert file.read_text() == "old"

    with pytest.raises(ZeroDivisionError):
        write_lines(file, fail(), overwrite=True)
    assert snapshot(tmp_path).keys() == {"file"}
    assert file.read_text() == "old"
    write_lines(file, renew(), overwrite=True)
    assert file.read_text() == "new \\udce9\n", "half a surrogate pair, as JSON reads it back"
    assert snapshot(tmp_path).keys() == {"file"}


# --- what killed runs have left


@contextmanager
def living(path: Path) -> Iterator[None]:
    """A file whose lock another process holds."""
    script = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR); "
        "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    call = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


@pytest.mark.parametrize("option", ["--output", "--rows"])
def test_leftovers_of_any_command_are_removed_by_any_other(option: str, tmp_path: Path) -> None:
    for name in ("dead", "alive"):
        (tmp_path / f".{name}{PARTIAL}" / "deep").mkdir(parents=True)
        (tmp_path / f".{name}{PARTIAL}" / "deep" / "model.safetensors").write_text("half")
    (tmp_path / f".file{PARTIAL}").write_text("half")
    for name in ("dead", "alive", "file", "early"):
        (tmp_path / f".{name}{LOCK}").touch()
    theirs = {".theirs.partial", f"not-hidden{LOCK}", f".{LOCK}"}
    for name in theirs:
        (tmp_path / name).write_text("mine")
    with living(tmp_path / f".alive{LOCK}"):
        call = ("extract", NONE, "--samples", "none", option, tmp_path / "new")
        attn_surgery(*call).assert_error("none")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f".alive{PARTIAL}", f".alive{LOCK}", *theirs}


def test_an_old_output_comes_back_where_its_place_is_free(tmp_path: Path) -> None:
    """Killed between the two renames, with its lock or without one."""
    for name in ("lost", "there", "other"):
        (tmp_path / f".{name}{OLD}").mkdir()
        (tmp_path / f".{name}{OLD}" / "config.json").write_text("old")
        (tmp_path / f".{name}{PARTIAL}").mkdir()
        if name != "other":
            (tmp_path / f".{name}{LOCK}").touch()
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="lost: already exists"):
        check_output(tmp_path / "lost", list_owned)
    back = {f"{name}{file}" for name in ("lost", "other") for file in ("", "/config.json")}
    assert snapshot(tmp_path).keys() == {*back, "there"}


def test_a_link_in_place_of_a_lock_is_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / f".linked{LOCK}").symlink_to(source)
    before = snapshot(source)
    done = attn_surgery("export", source, "--drop-attn", "1", "--output", tmp_path / "out")
    assert done.code == 0
    assert snapshot(source) == before


def test_nothing_is_left_by_trying(tmp_path: Path) -> None:
    check_output(tmp_path / "deep" / "er" / "out", list_owned)
    check_output(tmp_path / "file", OwnFile("a file", lambda file: True))
    assert list(tmp_path.iterdir()) == []
    with (
        create_folder(tmp_path / "out", list_owned),
        pytest.raises(OutputError, match="another proc"),
    ):
        check_output(tmp_path / "out", list_owned)


def test_what_is_put_into_a_folder_leaves_nothing_else_there(exported: Path) -> None:
    for name in (".staging.attn-surgery-partial/report.json", ".staging.attn-surgery-lock"):
        (exported / name).parent.mkdir(exist_ok=True)
        (exported / name).write_text("of a run that was killed")
    with create_staging(exported) as staging:
        assert list(staging.iterdir()) == []
        assert staging.parent == exported
    assert not [path for path in exported.iterdir() if path.name.startswith(".")]


# --- how it is written


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells which file is meant")
def test_a_successor_is_on_the_disk_before_it_replaces_what_was_there(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def seen(file: int) -> None:
        assert (exported / "config.json").exists(), "the old folder is still there"
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))

    monkeypatch.setattr(os, "fsync", seen)
    with create_folder(exported, list_owned, overwrite=True) as partial:
        (partial / "lm_eval").mkdir()
        (partial / "lm_eval" / "file").write_text("x")
        names = [str(path) for path in (partial / "lm_eval" / "file", partial / "lm_eval", partial)]
        monkeypatch.setattr(os, "fsync", lambda file: seen(file) if len(synced) < 3 else None)
    assert synced == names


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_permissions_of_any_new_file(
    umask: int, tmp_path: Path, exported: Path
) -> None:
    old = os.umask(umask)
    try:
        write_lines(tmp_path / "new" / "file", ["x"])
        with create_folder(tmp_path / "folder", list_owned):
            pass
        write_text(exported / "README.md", "text", overwrite=True)
        with create_staging(exported) as staging:
            (staging / "report.json").write_text("{}")
            (staging / "report.json").replace(exported / "report.json")
    finally:
        os.umask(old)
    for path in (tmp_path / "new" / "file", exported / "README.md", exported / "report.json"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path
    for path in (tmp_path / "new", tmp_path / "folder"):
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask, path


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("0,2", "source-identity-0+2"),
        ("0-1,3.0,5", "source-identity-0-1+5+3.0"),
        ("last:2", "source-identity-4-5"),
    ],
)
def test_a_default_name_may_stand_in_model_args(source: Path, spec: str, name: str) -> None:
    """lm-eval splits `pretrained=NAME,dtype=float32` at commas."""
    from lm_eval.utils import simple_parse_args_string

    prepared = prepare(source, spec)
    assert str(prepared.default_output) == name
    parsed = simple_parse_args_string(f"pretrained={name},dtype=float32")
    assert parsed == {"pretrained": name, "dtype": "float32"}
