"""Contract: an output folder appears under its name only when it is whole.

Killed at any moment, interrupted, or out of space: nothing lies under the output's name and nothing
that was left behind loads; the source is untouched; the next run gives the same bytes as an
undisturbed one. With --overwrite the old folder stays until the new one is whole. Of two exports
to one output one wins, and the other says so.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tensors, neox_config, write_checkpoint
from command_line import Outcome, attn_surgery, finish, snapshot, start
from transformers import AutoModelForCausalLM

from surgery import output as outputs
from surgery.errors import CheckpointError, OutputError, SurgeryError
from surgery.exporting import list_owned
from surgery.output import check_output, create_folder

WIDTH = 768


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 45 MB in three files, so that an export can be met halfway."""
    config = neox_config(
        hidden_size=WIDTH, intermediate_size=WIDTH, num_attention_heads=12, num_hidden_layers=6
    )
    small = {**config, "max_position_embeddings": 64}
    folder = tmp_path_factory.mktemp("large") / "source"
    tensors = make_tensors(small)
    return write_checkpoint(folder, config, tensors=tensors, num_shards=3)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an export gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert attn_surgery(*export(source, out)).code == 0
    return snapshot(out)


@pytest.fixture(scope="module")
def source_before(source: Path) -> dict[str, str]:
    return snapshot(source)


def mine(folder: Path) -> tuple[str, ...]:
    """What the folders of tests hold that do without a model."""
    return ("config.json",)


def export(source: Path, out: Path, *options: object) -> tuple[object, ...]:
    return ("export", source, "--drop-attn", "0-5", "--layout", "stock", "--output", out, *options)


# Sends itself a signal once so many bytes of weights are written.
STRUCK_AFTER = """
import os, sys
how, limit, written = int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0
from cli.main import run
from surgery.checkpoint import writer
write_file = writer.write_file

def struck(path, pieces, *progress):
    def counted():
        global written
        for piece in pieces:
            before, written = written, written + len(piece)
            yield piece
            if before < limit <= written:
                os.kill(os.getpid(), how)
    return write_file(path, counted(), *progress)

writer.write_file = struck
run()
"""


def struck_after(how: signal.Signals, share: float, source: Path, out: Path) -> Outcome:
    """An export that gets a signal when this share of the weights is written."""
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    arguments = (int(how), max(int(size * share), 1), *export(source, out))
    return finish(start(*arguments, program=["-c", STRUCK_AFTER]))


# Stops the program at its n-th call of a system function that changes the disk, as a kill there
# would: between any two such calls nothing on the disk changes.
KILLED_AT = """
import os, sys
limit, calls = int(sys.argv.pop(1)), 0
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
def hook(event, arguments):
    global calls
    if event not in CHANGES:
        return
    place = str(arguments[0])
    if event == "open" and not (arguments[2] or 0) & os.O_CREAT:
        return
    within = event in {"os.remove", "os.rmdir"} and arguments[1] != -1  # of a tree's removal
    if "out" not in place and not within:
        return
    calls += 1
    if calls > limit:
        os.kill(os.getpid(), 9)
sys.addaudithook(hook)
from cli.main import run
run()
"""


def killed_at(step: int, arguments: tuple[object, ...]) -> subprocess.Popen[str]:
    return start(str(step), *arguments, program=["-c", KILLED_AT])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("small") / "source",
        neox_config(max_position_embeddings=64, num_hidden_layers=6),
        num_shards=2,
    )


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path, small: Path) -> None:
    """Without an output before: at no step is there anything but nothing or the whole."""
    reference = tmp_path / "reference" / "out"  # a card names its folder
    reference.parent.mkdir()
    assert attn_surgery(*export(small, reference)).code == 0
    whole = snapshot(reference)
    before = snapshot(small)
    for step in range(100):
        parent = tmp_path / f"at{step}"
        parent.mkdir()
        out = parent / "out"
        outcome = finish(killed_at(step, export(small, out)))
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL, outcome
        if out.exists():  # all but the lock is done
            assert snapshot(out) == whole
            assert "already holds this result" in attn_surgery(*export(small, out)).stderr
            assert [path.name for path in parent.iterdir()] == ["out"]
            continue
        complete = parent / ".out.attn-surgery-partial" / "config.json"
        if not complete.exists() or complete.stat().st_size == 0:
            assert not any(load(path) for path in parent.rglob("*") if path.is_dir())
        assert attn_surgery(*export(small, out)).code == 0
        assert snapshot(out) == whole
        assert [path.name for path in parent.iterdir()] == ["out"]
    assert step > 6  # shards, index, manifest, configuration, folders, renaming
    assert snapshot(parent / "out") == whole
    assert snapshot(small) == before


def load(folder: Path) -> bool:
    try:
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.slow
def test_overwrite_killed_at_every_step(tmp_path: Path, small: Path) -> None:
    """With an output before: at every step the old one or the new one is there, whole, or comes
    back with the next run."""
    reference = tmp_path / "reference" / "out"  # a card names its folder
    reference.parent.mkdir()
    assert attn_surgery(*export(small, reference)).code == 0
    new = snapshot(reference)
    seen = set()
    for step in range(100):
        parent = tmp_path / f"at{step}"
        parent.mkdir()
        out = parent / "out"
        old_export = ("export", small, "--drop-attn", "1", "--output", out)
        assert attn_surgery(*old_export).code == 0
        old = snapshot(out)
        outcome = finish(killed_at(step, export(small, out, "--overwrite")))
        if hidden := not out.exists():  # between the two renames
            attn_surgery(*export(small, out)).assert_error("already exists")
        now = snapshot(out)
        assert now == old if hidden else now in (old, new)
        seen.add("hidden" if hidden else "old" if now == old else "new")
        if outcome.code == 0:
            assert now == new
            assert [path.name for path in parent.iterdir()] == ["out"]
            break
        assert outcome.code == -signal.SIGKILL, outcome
        assert attn_surgery(*export(small, out, "--overwrite")).code == 0
        assert snapshot(out) == new
        assert [path.name for path in parent.iterdir()] == ["out"]
    assert seen == {"old", "hidden", "new"}
    assert step > 8


@pytest.mark.parametrize(("how", "share"), [(signal.SIGINT, 0.7), (signal.SIGTERM, 0.0)])
def test_interrupted(
    how: signal.Signals,
    share: float,
    tmp_path: Path,
    source: Path,
    source_before: dict[str, str],
) -> None:
    outcome = struck_after(how, share, source, tmp_path / "deep" / "out")
    assert (outcome.code, outcome.stdout, outcome.stderr.strip()) == (130, "", "interrupted")
    assert list(tmp_path.iterdir()) == []
    assert snapshot(source) == source_before


# --- no space


def assert_full(outcome: Outcome, out: Path, reason: str) -> None:
    outcome.assert_error(
        f"{out}: cannot write: {reason}", "bytes are free; nothing was left behind"
    )


@pytest.mark.parametrize("nbytes", [pytest.param(100, marks=pytest.mark.slow), 1_000_000])
def test_file_size_limit(
    nbytes: int, tmp_path: Path, source: Path, source_before: dict[str, str]
) -> None:
    process = start(
        *export(source, tmp_path / "deep" / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes)),
    )
    assert_full(finish(process), tmp_path / "deep" / "out", "file too large")
    assert list(tmp_path.iterdir()) == []
    assert snapshot(source) == source_before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_disk_full(
    small_disk: Path, source: Path, source_before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work, or, if something else fills the disk meanwhile, in it."""
    out = small_disk / "deep" / "out"
    attn_surgery(*export(source, out)).assert_error("too little space on the disk")
    monkeypatch.setattr("evals.jobs.stepping.check_space", lambda *_: None)
    assert_full(attn_surgery(*export(source, out)), out, "no space left on device")
    assert list(small_disk.iterdir()) == []
    assert snapshot(source) == source_before


def test_disk_full_on_overwrite(
    small_disk: Path, small: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.jobs.stepping.check_space", lambda *_: None)
    out = small_disk / "out"
    assert attn_surgery(*export(small, out)).code == 0
    old = snapshot(small_disk)
    assert_full(attn_surgery(*export(source, out, "--overwrite")), out, "no space left on device")
    assert snapshot(small_disk) == old


def test_a_read_only_disk(small_disk: Path, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    out = small_disk / "out"
    attn_surgery(*export(small, out)).assert_error(f"{out}: cannot write: read-only file system")


def test_errors_name_what_was_read_or_the_output(tmp_path: Path) -> None:
    """By the names that people know: not by a hidden one, and no input by the output's."""
    out, source = tmp_path / "out", tmp_path / "source"

    def write(problem: Callable[[Path], Exception]) -> None:
        with create_folder(out, mine) as partial:
            (partial / "config.json").write_text("{}")
            raise problem(partial)

    def fail(problem: Callable[[Path], Exception]) -> str:
        with pytest.raises(SurgeryError) as caught:
            write(problem)
        assert not any(tmp_path.iterdir())
        assert ".attn-surgery" not in str(caught.value)
        return str(caught.value)

    def stop(code: int, path: Path | None = None) -> OSError:
        return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))

    read = fail(lambda partial: stop(errno.EIO, source / "model.safetensors"))
    assert read == f"{source}/model.safetensors: cannot be read (got input/output error)"
    written = f"{out}: cannot write: input/output error; nothing was left behind"
    assert fail(lambda partial: stop(errno.EIO)) == written
    assert fail(lambda partial: stop(errno.EIO, partial / "config.json")) == written
    full = fail(lambda partial: stop(errno.ENOSPC, Path("/tmp/elsewhere")))
    assert full.startswith(f"{out}: cannot write: no space left on device: /tmp/elsewhere; ")
    wrong = fail(lambda partial: CheckpointError(f"see {partial}/a", where=partial / "b"))
    assert wrong == f"{out}/b: see {out}/a"
    staged = tmp_path / ".p.export.attn-surgery-partial" / "result"
    assert fail(lambda partial: OutputError("is full", where=staged)) == f"{out}: is full"


# --- overwriting


def test_overwrite_fails(tmp_path: Path, small: Path) -> None:
    out = tmp_path / "out"
    assert attn_surgery(*export(small, out)).code == 0
    old = snapshot(tmp_path)
    tensors = make_tensors(neox_config(max_position_embeddings=64))
    tensors["gpt_neox.layers.3.attention.query_key_value.bias"].fill_(torch.inf)
    broken = write_checkpoint(
        small.parent / "broken", neox_config(max_position_embeddings=64), tensors=tensors
    )
    command = ("export", broken, "--drop-attn", "3", "--output", out, "--overwrite")
    attn_surgery(*command).assert_error("is not finite")
    assert snapshot(tmp_path) == old


def test_overwrite_beside_leftovers(tmp_path: Path, small: Path) -> None:
    out = tmp_path / "out"
    assert attn_surgery(*export(small, out)).code == 0
    new = snapshot(out)
    other = ("export", small, "--drop-attn", "0", "--output", out, "--overwrite")
    assert attn_surgery(*other).code == 0
    (tmp_path / ".out.attn-surgery-old").mkdir()  # of a run that was killed
    (tmp_path / ".out.attn-surgery-old" / "config.json").write_text("{}")
    (tmp_path / ".out.attn-surgery-lock").touch()
    assert attn_surgery(*export(small, out, "--overwrite")).code == 0
    assert snapshot(out) == new
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_comes_back(tmp_path: Path) -> None:
    """If the new one is gone before it could take its place."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(OutputError), create_folder(target, mine, overwrite=True) as partial:
        partial.rmdir()
    assert snapshot(tmp_path).keys() == {"out", "out/config.json"}


# --- two at once


def test_two_exports_to_one_output(
    tmp_path: Path, source: Path, undisturbed: dict[str, str]
) -> None:
    processes = [start(*export(source, tmp_path / "out")) for _ in range(3)]
    outcomes = [finish(process) for process in processes]
    kept = [outcome for outcome in outcomes if "already holds this result" in outcome.stderr]
    assert sum(outcome.code == 0 for outcome in outcomes) == 1 + len(kept)
    for outcome in outcomes:
        if outcome.code:
            outcome.assert_error(f"{tmp_path / 'out'}: ")
            reasons = ("another process is writing it", "already exists")
            assert any(reason in outcome.stderr for reason in reasons), outcome.stderr
    assert snapshot(tmp_path / "out") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_check_of_an_output_in_a_new_folder_does_not_disturb_one_of_the_same_name(
    tmp_path: Path,
) -> None:
    with create_folder(tmp_path / "out", mine):
        check_output(tmp_path / "new" / "out", list_owned)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_appears_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write_late() -> None:
        with create_folder(out, mine) as partial:
            (partial / "config.json").write_text("late")
            out.mkdir()
            (out / "config.json").write_text("first")

    with pytest.raises(OutputError, match="already exists"):
        write_late()
    assert (out / "config.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_is_not_reused_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder has the hidden name then: another run must not write there."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text("old")
    refusals = []
    remove = outputs.shutil.rmtree

    def slow(path: Any, **options: Any) -> None:
        with (
            pytest.raises(OutputError, match="another process"),
            create_folder(tmp_path / "out", mine, overwrite=True),
        ):
            pass
        refusals.append(Path(path).name)
        remove(path, **options)

    with create_folder(target, mine, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
        monkeypatch.setattr(outputs.shutil, "rmtree", slow)
    assert refusals == [".out.attn-surgery-partial"]
    assert (target / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parents_are_taken_back_unless_others_use_them(tmp_path: Path) -> None:
    def fail() -> None:
        with create_folder(tmp_path / "a" / "b" / "out", mine) as partial:
            (partial / "x").write_text("")
            (tmp_path / "a" / "theirs").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert snapshot(tmp_path).keys() == {"a", "a/theirs"}
