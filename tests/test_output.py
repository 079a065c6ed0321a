"""Contract: output appears under its name only when it is whole, and replaces only what
attn-surgery wrote, after its successor is on the disk.

Interrupted, or out of space: nothing is left. `test_kill.py` kills exports, and
`test_every_command.py` asks every command.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery, finish, snapshot, start

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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("model") / "source",
        neox_config(max_position_embeddings=64, num_hidden_layers=6),
    )


@pytest.fixture
def exported(source: Path, tmp_path: Path) -> Path:
    return export(source, "1", output=tmp_path / "out").output


def mine(folder: Path) -> tuple[str, ...]:
    """What the folders of tests hold that do without a model."""
    return ("config.json",)


def make(folder: Path, content: str = "old") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(content)
    return folder


# --- nothing or the whole


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ZeroDivisionError])
def test_what_stops_it_leaves_nothing(problem: type[BaseException], tmp_path: Path) -> None:
    """Folders above it go, too, unless others use them."""

    def fail() -> None:
        with create_folder(tmp_path / "a" / "b" / "out", mine) as made:
            (made / "x").write_text("")
            assert not (tmp_path / "a" / "b" / "out").exists()
            (tmp_path / "a" / "theirs").write_text("")
            raise problem

    with pytest.raises(problem):
        fail()
    assert snapshot(tmp_path).keys() == {"a", "a/theirs"}


def test_no_space(tmp_path: Path, source: Path) -> None:
    before = snapshot(source)
    process = start(
        *("export", source, "--drop-attn", "1", "--output", tmp_path / "deep" / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)),
    )
    finish(process).assert_error(
        f"{tmp_path}/deep/out: cannot write: file too large; ",
        " bytes are free; nothing was left behind",
    )
    assert list(tmp_path.iterdir()) == []
    assert snapshot(source) == before


def test_errors_name_the_output_and_what_was_read(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(code: int, *path: Path) -> None:
        with create_folder(out, mine) as made:
            (made / "config.json").write_text("{}")
            raise OSError(code, os.strerror(code), *(str(made / one) for one in path))

    def fail(code: int, *path: Path) -> str:
        with pytest.raises(OutputError) as caught:
            write(code, *path)
        assert not any(tmp_path.iterdir())
        return str(caught.value)

    written = f"{out}: cannot write: input/output error; nothing was left behind"
    assert fail(errno.EIO) == fail(errno.EIO, Path("config.json")) == written
    read = fail(errno.EIO, Path("/source/model"))
    assert (
        read == f"{out}: cannot write: input/output error: /source/model; nothing was left behind"
    )
    full = fail(errno.ENOSPC)
    assert full.startswith(f"{out}: cannot write: no space left on device; ")
    assert full.endswith(" bytes are free; nothing was left behind")


def test_an_output_that_appears_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write_late() -> None:
        with create_folder(out, mine) as made:
            (made / "config.json").write_text("late")
            make(out, "first")

    with pytest.raises(OutputError, match="already exists"):
        write_late()
    assert (out / "config.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    both, told = Barrier(2), list[str]()

    def write(name: str) -> None:
        try:
            with create_folder(tmp_path / "out", mine) as made:
                (made / name).write_text(name)
                both.wait(60)
        except OutputError as error:
            told.append(str(error))

    threads = [Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == len(list((tmp_path / "out").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_by_trying(tmp_path: Path) -> None:
    check_output(tmp_path / "deep" / "er" / "out", list_owned)
    check_output(tmp_path / "file", OwnFile("a file", lambda file: True))
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_into_a_folder_is_made_beside_it(exported: Path) -> None:
    before = snapshot(exported)
    with create_staging(exported) as staging:
        (staging / "report.json").write_text("{}")
        assert snapshot(exported) == before
        (staging / "report.json").replace(exported / "report.json")
    assert snapshot(exported).keys() - before.keys() == {"report.json"}
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_permissions_of_any_new_file(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        write_lines(tmp_path / "new" / "file", ["x"])
        with create_folder(tmp_path / "folder", list_owned):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    for path in (tmp_path / "new", tmp_path / "folder"):
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask, path


# --- what is replaced, and how


@pytest.mark.parametrize("failing", [{2}, {2, 3}])
def test_the_old_folder_comes_back(
    failing: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the new one cannot take its place. It is never lost."""
    target, names, rename = make(tmp_path / "out"), list[str](), Path.rename

    def fail(path: Path, to: Path) -> Path:
        names.append(path.name)
        if len(names) in failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="input/output error"):
        overwrite(target)
    assert names == ["out", "new", "old"]
    (left,) = tmp_path.iterdir()
    kept = left if failing == {2} else left / "old"
    assert (left == target) == (failing == {2})
    assert (kept / "config.json").read_text() == "old"


def overwrite(target: Path) -> None:
    with create_folder(target, mine, overwrite=True) as made:
        (made / "config.json").write_text("new")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells which file is meant")
def test_a_successor_is_on_the_disk_before_it_replaces_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flushed = make(tmp_path / "out"), list[tuple[str, str]]()

    def note(file: int) -> None:
        name = Path(f"/proc/self/fd/{file}").readlink().name
        flushed.append((name, (target / "config.json").read_text()))

    monkeypatch.setattr(os, "fsync", note)
    overwrite(target)
    assert flushed == [("config.json", "old"), ("new", "old"), (tmp_path.name, "new")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    flushed.clear()
    write_text(tmp_path / "file", "x")
    assert not flushed, "it replaces nothing"


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
    assert file.read_text() == "old"
    write_lines(file, renew(), overwrite=True)
    assert file.read_text() == "new \\udce9\n", "half a surrogate pair, as JSON reads it back"
    assert snapshot(tmp_path).keys() == {"file"}


def test_the_folder_that_one_is_in_is_replaced(
    source: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    done = attn_surgery("export", source, "--drop-attn", "2", "--output", ".", "--overwrite")
    assert done.code == 0, done
    assert attn_surgery("inspect", exported, "--json").json["attention_free"] == {"2": "identity"}


def test_a_model_is_replaced_with_all_that_belongs_to_it(source: Path, exported: Path) -> None:
    for name in ("report.json", "report.html", "lm_eval/base/me/results_2026.json"):
        (exported / name).parent.mkdir(parents=True, exist_ok=True)
        (exported / name).write_text("{}")
    (exported / "README.md").write_text("mine")
    export(source, "1", output=exported, overwrite=True)
    assert {path.name for path in exported.iterdir()} == {
        "config.json", "model.safetensors", "surgery.json", "README.md"
    }  # fmt: skip
    assert "mine" not in (exported / "README.md").read_text()


def link_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.symlink_to(weights.rename(folder.parent / "weights"))


def link_results(folder: Path) -> None:
    (folder / "lm_eval").symlink_to(folder.parent)


def change_weights(folder: Path) -> None:
    """The size stays."""
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("config.json", lambda folder: (folder / "config.json").write_text("{}")),
        ("deep/x", lambda folder: (folder / "deep").mkdir() or (folder / "deep/x").touch()),
        (".hidden", lambda folder: (folder / ".hidden").touch()),
        ("model.safetensors", change_weights),
        ("model.safetensors", link_weights),
        ("lm_eval", link_results),
    ],
)
def test_a_model_with_a_stranger_is_not_replaced(
    name: str, spoil: Callable[[Path], object], source: Path, exported: Path
) -> None:
    spoil(exported)
    before = snapshot(exported)
    with pytest.raises(OutputError) as refusal:
        export(source, "1", output=exported, overwrite=True)
    assert str(refusal.value) == (
        f"{exported}: holds {name}, which attn-surgery did not write, so it is not overwritten; "
        "choose another `output`"
    )
    assert snapshot(exported) == before


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
    (main.parent / "README.md").write_text("mine")
    with pytest.raises(OutputError, match=r"holds README\.md, which attn-surgery did not write"):
        check_output(main.parent, kind, overwrite=True)
