"""Models from the Hub, fetched by the real client from a server that speaks its protocol.

- An export by id equals the export of the same files in a folder, byte for byte, for any branch,
  tag or commit, safetensors or pickled; the manifest records the commit.
- Only one format of weights is fetched, no code or other framework's weights, and nothing of
  a model that cannot be edited but its configuration.
- `inspect` reads headers by range and downloads no weights.
- Whatever goes wrong is one line, soon, and exit code 1; a token shows up nowhere.
- What was fetched before serves without a network, if it is complete.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from hub_commands import TAKES_UP, TOKEN, Commands, Result, commands, error, session
from hub_server import HubServer
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.checkpoint import hash_content, open_checkpoint

QUICK = 10.0  # seconds an error may take


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as they are on the Hub: name → folder."""
    root = tmp_path_factory.mktemp("sources")
    small = {"max_position_embeddings": 64, "num_hidden_layers": 2}
    neo = neo_config(
        max_position_embeddings=64,
        num_layers=2,
        attention_layers=["global", "local"],
        attention_types=[[["global", "local"], 1]],
    )
    folders = {
        # masks of 1 MB a block make these larger than what is read of a header
        "both": write_checkpoint(
            root / "both",
            neox_config(max_position_embeddings=1024, num_hidden_layers=2),
            weights="both",
            num_shards=2,
        ),
        "pickled": write_checkpoint(root / "pickled", neox_config(**small), weights="bin", seed=1),
        "pickled-shards": write_checkpoint(
            root / "pickled-shards", neox_config(**small), weights="bin", num_shards=3, seed=2
        ),
        "single": write_checkpoint(root / "single", neox_config(**small), seed=3),
        "neo": write_checkpoint(root / "neo", neo, weights="bin"),
    }
    for folder in folders.values():
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "LICENSE").write_text("Apache License\n")
        (folder / "README.md").write_text("# A model\n")
        (folder / "modeling_model.py").write_text("raise SystemExit('never run')\n")
        (folder / "tf_model.h5").write_bytes(b"other framework")
        (folder / "flax_model.msgpack").write_bytes(b"another")
        (folder / "runs").mkdir()
        (folder / "runs" / "events.out").write_text("log")
    return folders


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.users[TOKEN] = "me"
        yield server


@pytest.fixture
def hub(server: HubServer, sources: dict[str, Path]) -> HubServer:
    """A Hub with `me/model`: a branch, a tag and a commit, each another folder of `sources`."""
    server.heal()
    server.repositories.clear()
    server.requests.clear()
    model = server.create("me/model")
    model.commit(sources["pickled-shards"], title="first")
    model.tags["step1000"] = model.commit(sources["pickled"], whole=True)
    model.commit(sources["both"], whole=True)
    model.tags["step2000"] = model.commit(sources["single"], branch="side/line", whole=True)
    return server


@pytest.fixture(scope="module")
def process(
    server: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Commands, Path]]:
    """A runner of commands for all tests, since libraries take long to load, and its cache."""
    folder = tmp_path_factory.mktemp("process")
    with session(folder, server.url) as run:
        yield run, folder / "cache"


@pytest.fixture
def run(process: tuple[Commands, Path], tmp_path: Path) -> Commands:
    """A runner in the folder of a test, with a cache there that is empty."""
    run, cache = process
    cache.unlink(missing_ok=True)
    (tmp_path / "cache").mkdir()
    cache.symlink_to(tmp_path / "cache")
    return partial(run, at=tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which names the source, and the card, which names the folder."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in ("surgery.json", "README.md")
    }


def test_an_export_by_id_equals_that_of_the_folder(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    model = hub.repositories["me/model"]
    first = model.commits[model.tags["step1000"]].parent
    assert first is not None
    hub.create("neo").commit(sources["neo"])
    cases = {  # what is asked for → the folder it holds, its commit
        "me/model": ("both", model.branches["main"]),
        "me/model --revision side/line": ("single", model.branches["side/line"]),
        "me/model --revision step1000": ("pickled", model.tags["step1000"]),
        f"me/model --revision {first}": ("pickled-shards", first),
        f"me/model --revision {first[:8]}": ("pickled-shards", first),
        "me/model@side/line": ("single", model.branches["side/line"]),
        "neo --layout compact": ("neo", hub.repositories["neo"].branches["main"]),
    }
    lines = [f"export {case} --drop-attn -1 --output {i}" for i, case in enumerate(cases)]
    results = run(*lines)
    for i, (case, (source, commit)) in enumerate(cases.items()):
        assert results[i].code == 0, results[i].err
        local = tmp_path / f"local-{i}"
        surgery.export(sources[source], "-1", output=local)
        assert content(tmp_path / str(i)) == content(local)
        recorded = json.loads((tmp_path / str(i) / "surgery.json").read_text())["history"][0][
            "source"
        ]
        name, _, revision = case.replace("@", " --revision ").partition(" --revision ")
        assert recorded == {
            "model": name.split()[0],
            "revision": revision or None,
            "commit": commit,
            "content": hash_content(open_checkpoint(sources[source])),
        }


@pytest.fixture
def edited(hub: HubServer, sources: dict[str, Path], tmp_path: Path) -> Path:
    """An export that is on the Hub, too, as `me/edited`; on its branch `more`, other files lie."""
    out = surgery.export(sources["single"], "0", output=tmp_path / "out").output
    repository = hub.create("me/edited")
    repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial commit")
    repository.commit(out)
    strangers = {"pytorch_model.bin": b"x", "a.py": b"raise SystemExit('never run')\n"}
    repository.commit(strangers, branch="more")
    return out


def test_verify_takes_an_id(
    hub: HubServer, run: Commands, sources: dict[str, Path], edited: Path
) -> None:
    """As of a folder, with every file that is there, and no file that the manifest leaves out."""
    commit = hub.repositories["me/edited"].branches["main"]
    (folder,) = run(f"verify {edited.name}")
    there, against, as_json = run(
        "verify me/edited",
        f"verify me/edited --source {sources['single']}",
        "verify me/edited --revision main --json",
    )
    assert there.code == against.code == as_json.code == 0, there.err + against.err + as_json.err
    *lines, verdict = there.out.splitlines()
    *local, local_verdict = folder.out.splitlines()
    assert [one for one in lines if "loads" not in one] == [o for o in local if "loads" not in o]
    assert verdict == local_verdict.replace("out:", f"me/edited at commit {commit[:12]}:")
    assert "tensors byte-equal to the source" in against.out
    assert json.loads(as_json.out)["commit"] == commit
    assert {path.name for path in edited.iterdir()} <= {*hub.downloads}
    hub.requests.clear()
    for line in ("verify me/edited --revision more", f"verify me/edited --revision {commit[:7]}x"):
        (done,) = run(line)
        assert done.code == 1
    assert "has no revision" in done.err
    (more,) = run("verify me/edited --revision more")
    assert error(more) == "me/edited: files: a.py is not in the manifest"
    assert more.out == ""
    assert not {"a.py", "pytorch_model.bin"} & {*hub.downloads}
    (source,) = run("verify me/model")
    expected = "me/model: has no surgery.json; verify a model that `attn-surgery export` wrote, or"
    assert error(source) == f"{expected} measure any other with `attn-surgery audit`"
    assert not [file for file in hub.downloads if file.endswith((".bin", ".safetensors"))]


@pytest.mark.slow
def test_verify_of_an_earlier_download_says_what_it_could_not_see(
    run: Commands, edited: Path, tmp_path: Path
) -> None:
    assert run("verify me/edited")[0].code == 0
    offline = commands(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    (done,) = offline("verify me/edited")
    assert done.code == 0, done.err
    claim = "claimed repository: that it holds no other file: the Hub was not reached\n"
    assert claim in done.out


def test_verify_of_a_download_in_part_blames_the_network(
    run: Commands, edited: Path, tmp_path: Path
) -> None:
    """`export` and `compare` download what a model needs, not all that its manifest lists."""
    assert run("verify me/edited")[0].code == 0
    needed = {"config.json", "surgery.json", "model.safetensors"}
    listed = json.loads((edited / "surgery.json").read_text())["files"]
    for name in (rest := listed.keys() - needed):
        for path in (tmp_path / "cache").rglob(f"snapshots/*/{name}"):
            path.unlink()
    assert rest, "the export holds other files, too"
    (done,) = commands(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")("verify me/edited")
    assert "offline mode is on, and there is no complete earlier download" in error(done)


def test_an_export_as_the_readme_types_it_asks_for_pythia(tmp_path: Path) -> None:
    """`export --drop-attn 20-23` is of EleutherAI/pythia-1.4b."""
    offline = commands(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    (done,) = offline("export --drop-attn 20-23")
    assert done.code == 1
    assert done.err.startswith("error: Hub model EleutherAI/pythia-1.4b (no such folder here)")


def test_names_with_brackets(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(sources["single"], tmp_path / "source"))
    (source / "LICENSE[MIT].txt").write_text("MIT")
    hub.create("me/licensed").commit(source)
    hub.create("me/again").commit(surgery.export(source, "0", output=tmp_path / "out").output)
    made, checked = run("export me/licensed --drop-attn 0 --output hub", "verify me/again")
    assert made.code == 0, made.err
    assert content(tmp_path / "hub") == content(tmp_path / "out")
    assert "LICENSE[MIT].txt" in content(tmp_path / "hub")
    assert checked.code == 0, checked.out + checked.err


def test_a_home_of_nobody_is_a_name(run: Commands) -> None:
    assert error(run("inspect ~nobody-is-here/model")[0]).startswith("~nobody-is-here/model")


@pytest.mark.slow
def test_verify_against_the_source_on_the_hub(run: Commands) -> None:
    export, verify = run(
        "export me/model --revision step1000 --drop-attn 0 --output out",
        "verify out --source me/model --revision step1000",
    )
    assert export.code == 0, export.err
    assert verify.code == 0, verify.out + verify.err
    assert "tensors byte-equal to the source" in verify.out


@pytest.mark.slow
def test_another_commit_of_the_same_files(hub: HubServer, run: Commands) -> None:
    """The weights are those that the manifest records, and the commit that it names is not."""
    title = {"README.md": b"# The same model\n"}
    hub.repositories["me/model"].commit(title, branch="side/line")
    export, same, other = run(
        "export me/model --revision step2000 --drop-attn 0 --output out",
        "verify out --source me/model --revision step2000",
        "verify out --source me/model --revision side/line",
    )
    assert (export.code, same.code, other.code) == (0, 0, 1), (export.err, same.err)
    assert "edit: the manifest names another commit of the source" in other.err


@pytest.mark.slow
def test_a_command_finds_a_model_once(hub: HubServer, run: Commands, tmp_path: Path) -> None:
    config = neox_config(num_hidden_layers=2, max_position_embeddings=64)
    hub.create("me/plain").commit(write_checkpoint(tmp_path / "plain", config), whole=True)
    tokens = np.random.default_rng(0).integers(0, config["vocab_size"], (6, 8))
    np.save(tmp_path / "samples.npy", tokens.astype(np.int32))
    looked = []
    for line in (
        "export me/plain --drop-attn 0 --output edited",
        "extract me/plain --samples samples.npy --prefix-length 4 --suffix-length 4 --device cpu",
        "extract edited --baseline me/plain --samples samples.npy --prefix-length 4 "
        "--suffix-length 4 --device cpu",
    ):
        before = len(hub.requests)
        result = run(line)[0]
        assert result.code == 0, result.err
        asked = re.compile(r"/api/models/me/plain(/revision/[^/]+)?")
        looked.append(sum(bool(asked.fullmatch(r.path)) for r in hub.requests[before:]))
    *by_name, by_commit = looked
    assert by_name == by_name[:1] * 2
    assert by_commit == 1


@pytest.mark.slow
def test_an_edit_is_compared_with_the_commit_that_it_records(
    hub: HubServer, run: Commands, tmp_path: Path
) -> None:
    """Not with what the branch holds now, unless you ask for that."""
    config = neox_config(num_hidden_layers=2, max_position_embeddings=64, vocab_size=400)
    model = hub.create("me/plain")
    for seed in (1, 2):
        folder = write_checkpoint(tmp_path / str(seed), config, seed=seed)
        tiny_tokenizer().save_pretrained(folder)
        model.tags[f"step{seed}"] = model.commit(folder, whole=True)
    ids = np.random.default_rng(0).integers(1, 400, (6, 8)).tolist()
    lines = [json.dumps({"id": f"row-{at}", "tokens": row}) for at, row in enumerate(ids)]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.txt").write_text(TEXT * 20)
    (export,) = run("export me/plain --revision step1 --drop-attn 0 --output edited")
    assert export.code == 0, export.err
    said = "attn-surgery evaluate edited --baseline me/plain --attack default --samples SAMPLES"
    assert export.err.endswith(f"{said} --heldout TEXT\n")
    rest = "--samples samples.jsonl --prefix-length 4 --suffix-length 4 --device cpu --json"
    text = "--control other.txt"
    results = run(
        f"extract edited --baseline me/plain {rest}",
        f"audit edited --baseline me/plain --attack greedy {text} {rest}",
        "evaluate edited --baseline me/plain --suite none --samples samples.jsonl --output report "
        f'{text} --config {{"prefix-length":4,"suffix-length":4,"device":"cpu"}} --json',
        f"compare me/plain edited {rest}",
        f"compare me/plain edited --revision main {rest}",
    )
    note = f"me/plain: at commit {model.tags['step1'][:12]}, which the edited model records"
    assert [result.code for result in results] == [0] * 5, results
    assert [note in result.err for result in results] == [True] * 4 + [False]
    extracted, audited, evaluated, then, now = (json.loads(result.out) for result in results)
    bases = [found["base"]["provenance"] for found in (extracted, audited, evaluated)]
    assert [base["commit"] for base in bases] == [model.tags["step1"]] * 3
    assert evaluated["edits"][0]["relation"] == "source"
    assert then["rows"] != now["rows"]


@pytest.mark.slow
def test_whose_code_a_published_compact_model_is_measured_with(
    hub: HubServer, run: Commands, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "plain", neox_config(num_hidden_layers=2))
    done = surgery.export(source, "0", layout="compact", output=tmp_path / "small")
    hub.create("me/small").commit(done.output)
    np.save(tmp_path / "samples.npy", np.arange(16, dtype=np.int32).reshape(2, 8))
    hub.create("me/other").commit(done.output)
    hub.repositories["me/other"].commit({"modeling_attention_free.py": b"evil"})
    options = "--samples samples.npy --prefix-length 4 --suffix-length 4 --device cpu"
    result, other = run(f"extract me/small {options}", f"extract me/other {options}")
    assert result.code == 0, result.err
    assert "modeling code" not in result.err
    assert other.code == 1
    assert "its modeling code is not that of this attn-surgery version" in other.err
    assert "modeling_attention_free.py" in hub.downloads


def test_only_one_format_of_weights_is_downloaded(hub: HubServer, run: Commands) -> None:
    """Nor a shard that no index names."""
    hub.repositories["me/model"].commit({"model-00001-of-00009.safetensors": b"stale"})
    run("export me/model --drop-attn 0")
    assert set(hub.downloads) == {
        "config.json",
        "tokenizer.json",
        "LICENSE",
        "README.md",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    hub.requests.clear()
    run(
        "export me/model --revision step1000 --drop-attn 0 --output pickled",
        "export me/model --drop-attn 0 --output again",
    )
    # the rest is in the cache, the tokenizer and such too: they have the same content
    assert set(hub.downloads) == {"config.json", "pytorch_model.bin"}


def test_what_cannot_be_done_is_refused_before_any_weights(
    hub: HubServer, run: Commands, tmp_path: Path
) -> None:
    (tmp_path / "plain-identity-0").mkdir()
    weights = {"model.safetensors": b"weights", "tokenizer.json": b"{}"}
    for name, config in {
        "other": {"model_type": "t5"},
        "quantized": neox_config(quantization_config={"quant_method": "gptq"}),
        "code": neox_config(auto_map={"AutoModelForCausalLM": "modeling_model.Model"}),
        "plain": neox_config(),
    }.items():
        hub.create(f"me/{name}").commit({"config.json": json.dumps(config).encode(), **weights})
    cases = ("other 0", "quantized 0", "code 0", "plain 4", "plain 0")
    results = run(*("export me/{} --drop-attn {}".format(*case.split()) for case in cases))
    assert error(results[0]).startswith("unsupported model_type t5; supported: gpt_neox, ")
    assert "is quantized" in error(results[1])
    assert "brings its own modeling code" in error(results[2])
    assert "'4' is out of range; the model has 4 blocks, 0 to 3" in error(results[3])
    there = "plain-identity-0: already exists; choose another --output or give --overwrite"
    assert there in error(results[4])
    assert set(hub.downloads) == {"config.json"}
    (tmp_path / "words.txt").write_text("some words")
    trained = "erase me/plain --drop-attn 0 --samples words.txt --text words.txt"
    (result,) = run(trained)  # goes to a folder of another name, plain-erased
    assert "already exists" not in error(result)
    assert "model.safetensors" in hub.downloads


REPOSITORIES: dict[str, dict[str, Any]] = {
    "no-config": {"model.safetensors": b"x"},
    "no-weights": {"config.json": neox_config(), "flax_model.msgpack": b"x"},
    "bad-config": {"config.json": b"{", "model.safetensors": b"x"},
    "bad-index": {"config.json": neox_config(), "model.safetensors.index.json": b"{}"},
    "bad-header": {"config.json": neox_config(), "model.safetensors": b"\x09" + bytes(30)},
    "lost-shard": {
        "config.json": neox_config(),
        "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors"}},
    },
    "outside": {
        "config.json": neox_config(),
        "model.safetensors.index.json": {"weight_map": {"a": "../../x.safetensors"}},
    },
}
LATER = "wait a while and try again"
# HUB: how a model is named that was looked for there, for want of a folder
ERRORS = {
    "me/none": "HUB: not found; check the name, or `hf auth login` if it is private",
    "me/model --revision gone": "HUB: has no revision 'gone'",
    "./me/model": "./me/model: no such folder, and not a Hub id (owner/name)",
    "a/b/c": "a/b/c: no such folder, and not a Hub id (owner/name)",
    "file": "file: is a file; expected a folder or a Hub id",
    "you/private": "HUB: not found; check the name, or `hf auth login` if it is private",
    "you/gated": "HUB: access is restricted; request access on its page, then `hf auth login`",
    "me/status-401": "HUB: the Hub does not accept the token (got HTTP 401); "
    "log in again with `hf auth login`, or correct HF_TOKEN",
    "me/status-403": "HUB: the Hub does not allow access (got HTTP 403); "
    "check what the token may do",
    "me/status-404": "HUB: not found (got HTTP 404); check the name",
    "me/status-429": f"HUB: too many requests to the Hub (got HTTP 429); {LATER}",
    "me/status-500": f"HUB: the Hub has an internal error (got HTTP 500); {LATER}",
    "me/portal": "HUB: the connection to the Hub failed, and there is no complete "
    "earlier download (got JSONDecodeError); check the network and HF_ENDPOINT, or give a folder",
    "me/no-config": "Hub model me/no-config: has no config.json",
    "me/no-weights": "Hub model me/no-weights: has no weights that can be read (expected "
    "model.safetensors or pytorch_model.bin, single or sharded)",
    "me/bad-index": "model.safetensors.index.json: has no weight_map",
    "me/lost-shard": "model.safetensors.index.json: names shard model-1.safetensors, "
    "which is missing; download the model again, or report it to its author",
    "me/outside": "model.safetensors.index.json: names a file outside the folder (got "
    "'../../x.safetensors')",
}


@pytest.fixture(scope="module")
def failures(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Result]]:
    """What each of `ERRORS` printed, in one process."""
    folder = tmp_path_factory.mktemp("failures")
    (folder / "file").write_text("")
    with HubServer() as hub:
        hub.create("me/model").commit(sources["single"])
        hub.create("you/private", private=True).commit(sources["single"])
        hub.create("you/gated", gated=True).commit(sources["single"])
        hub.fail(200, "me/portal", body=b"<html>Log in to this network</html>")
        for status in (401, 403, 404, 429, 500):
            hub.fail(status, f"me/status-{status}")
        for name, files in REPOSITORIES.items():
            hub.create(f"me/{name}").commit(
                {
                    file: value if isinstance(value, bytes) else json.dumps(value).encode()
                    for file, value in files.items()
                }
            )
        lines = [f"export {case} --drop-attn 0" for case in ERRORS]
        lines += ["export me/bad-config --drop-attn 0", "inspect me/bad-header"]
        results = commands(folder, hub.url)(*lines)
    assert {path.name for path in folder.iterdir()} == {"cache", "file"}, "nothing was written"
    return dict(zip([*ERRORS, "me/bad-config", "me/bad-header"], results, strict=True))


@pytest.mark.parametrize("case", ERRORS)
def test_a_failure_is_one_line_and_soon(failures: dict[str, Result], case: str) -> None:
    hub = f"Hub model {case.split()[0]} (no such folder here)"
    assert error(failures[case]) == ERRORS[case].replace("HUB", hub, 1)
    assert failures[case].seconds < QUICK


def test_broken_files_are_named(failures: dict[str, Result]) -> None:
    assert "config.json: not valid JSON" in error(failures["me/bad-config"])
    assert "me/bad-header: a header of its weights is not valid" in error(failures["me/bad-header"])


def test_private_and_gated_models_with_a_token(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    private, gated = hub.create("you/private", private=True), hub.create("you/gated", gated=True)
    for repository in (private, gated):
        repository.commit(sources["single"])
    lines = ("export you/private --drop-attn 0 --output a", "export you/gated --drop-attn 0")
    refused = run(*lines, token=TOKEN)
    assert "you/private (no such folder here): not found" in error(refused[0])
    assert "you/gated (no such folder here): access is restricted" in error(refused[1])
    private.readers.add("me")
    gated.granted.add("me")
    results = run(*lines, token=TOKEN)
    assert [result.code for result in results] == [0, 0]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert any(request.token == TOKEN for request in hub.requests)
    assert any(request.on_storage for request in hub.requests)
    assert not any(request.token for request in hub.requests if request.on_storage)


def test_a_wrong_token(hub: HubServer, run: Commands) -> None:
    line = error(run("inspect me/model", token="hf_wrongwrongwrongwrongwrong")[0])
    assert "the Hub does not accept the token" in line
    assert "hf_wrong" not in line


def test_a_connection_cut_once_is_taken_up_again(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    """The file is asked for again, and nothing of the cut shows in the result."""
    file = "model-00002-of-00002.safetensors"
    fault = hub.cut(rf"/[0-9a-f]{{64}}/{file}", after=1_000_000, times=1)
    result = run("export me/model --drop-attn 0 --output out")[0]
    assert fault.left == 0, "the connection was cut"
    if not TAKES_UP and result.code != 0:
        assert "the connection to the Hub failed" in error(result)
        return
    assert result.code == 0, result.err
    loading, unmeasured = result.err.splitlines()  # the client's own notes are not shown
    assert loading.startswith("To load it: ")
    assert unmeasured.startswith("Nothing measured yet. ")
    sent = [one.sent for one in hub.requests if one.file == file and one.method == "GET"]
    size = (sources["both"] / file).stat().st_size
    assert sent in ([1_000_000, size], [1_000_000, size - 1_000_000]), "whole, or what was missing"
    surgery.export(sources["both"], "0", output=tmp_path / "local")
    assert content(tmp_path / "out") == content(tmp_path / "local")


@pytest.mark.slow
def test_faults_in_mid_download(hub: HubServer, run: Commands, tmp_path: Path) -> None:
    hub.cut(r"/model-00002-of-00002\.safetensors", after=0)
    hub.fail(500, r"/[0-9a-f]{64}/model\.safetensors")
    lines = (
        "export me/model --drop-attn 0 --output out",
        "export me/model --revision side/line --drop-attn 0 --output side",
    )
    cut, failed = run(*lines)
    assert "the connection to the Hub failed, and there is no complete earlier" in error(cut)
    assert "the Hub has an internal error (got HTTP 500); wait a while and try again" in error(
        failed
    )
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    assert max(cut.seconds, failed.seconds) < 40, "the client tries again for some seconds"
    hub.heal()
    assert [result.code for result in run(*lines)] == [0, 0]


def test_without_a_network_an_earlier_download_serves(
    hub: HubServer, run: Commands, tmp_path: Path
) -> None:
    run(
        "export me/model --drop-attn 0 --output online",
        "export me/model --revision step2000 --drop-attn 0",
        "inspect me/model --revision step1000",
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        offline = commands(tmp_path, hub.url, HF_HUB_OFFLINE="1")
        for number, without in enumerate((commands(tmp_path, nowhere), offline)):
            served = len(hub.requests)
            results = without(
                f"export me/model --drop-attn 0 --output out-{number}",
                f"export me/model --revision step2000 --drop-attn 0 --output step-{number}",
                "inspect me/model",
                "inspect me/none",
                "export me/model --revision step1000 --drop-attn 0",  # only inspected before
                "inspect me/model --revision never",
            )
            assert [result.code for result in results] == [0, 0, 0, 1, 1, 1]
            assert content(tmp_path / f"out-{number}") == content(tmp_path / "online")
            manifests = [tmp_path / name / "surgery.json" for name in ("online", f"out-{number}")]
            assert manifests[0].read_bytes() == manifests[1].read_bytes()
            what = ("the connection to the Hub failed", "offline mode is on")[number]
            for result in results[3:]:
                line = f"(no such folder here): {what}, and there is no complete earlier download"
                assert line in error(result)
                assert result.seconds < QUICK
            assert len(hub.requests) == served


def test_an_incomplete_download_does_not_serve(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    run("export me/model --drop-attn 0 --output online")
    offline = commands(tmp_path, hub.url, HF_HUB_OFFLINE="1")
    (shard,) = (tmp_path / "cache").rglob("snapshots/*/model-00002-of-00002.safetensors")
    shard.unlink()
    assert "no complete earlier download" in error(offline("export me/model --drop-attn 0")[0])


def test_a_fault_of_the_hub_leaves_an_earlier_download(hub: HubServer, run: Commands) -> None:
    run("export me/model --drop-attn 0 --output online")
    hub.fail(503)
    assert run("export me/model --drop-attn 0 --output again")[0].code == 0
    hub.heal()
    hub.fail(403)
    assert "does not allow access" in error(run("inspect me/model")[0])


def test_an_endpoint_that_is_no_url(tmp_path: Path) -> None:
    line = error(commands(tmp_path, "nowhere")("inspect me/model")[0])
    assert "the connection to the Hub failed" in line
    assert "check the network and HF_ENDPOINT" in line


def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    run = commands(tmp_path, hub.url, HF_HOME=str(tmp_path / "taken"))
    line = error(run("export me/model --drop-attn 0")[0])
    assert "the download cannot be stored" in line
    assert "check HF_HOME" in line


def test_a_folder_goes_before_an_id_of_the_same_name(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "model").symlink_to(sources["single"])
    results = run("inspect me/model --json", "inspect me/model --revision main")
    assert json.loads(results[0].out)["model"] == "model"
    line = "me/model: --revision goes with a Hub id, and this is a folder (got main); "
    line += "leave --revision out"
    assert error(results[1]) == line
    assert not hub.requests


def test_inspect_reads_headers_and_no_weights(
    hub: HubServer, run: Commands, sources: dict[str, Path]
) -> None:
    result = run("inspect me/model --json")[0]
    expected = surgery.inspect(sources["both"]).to_json()
    assert json.loads(result.out) == {**expected, "model": "me/model"}
    assert set(hub.downloads) == {
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        assert hub.downloads[shard] < 110_000 < (sources["both"] / shard).stat().st_size / 10


def test_inspect_of_pickled_weights_says_what_it_cannot_tell(hub: HubServer, run: Commands) -> None:
    results = run(
        "inspect me/model --revision step1000 --json", "inspect me/model --revision step1000"
    )
    found = json.loads(results[0].out)
    assert (found["family"], found["num_blocks"]) == ("gpt_neox", 2)
    assert (found["dtype"], found["parameters"]) == (None, None)
    assert "unknown until the pickled weights are downloaded" in results[1].out
    assert set(hub.downloads) == {"config.json"}


def test_inspect_shows_the_edits_of_a_published_model(
    hub: HubServer, run: Commands, sources: dict[str, Path], tmp_path: Path
) -> None:
    surgery.export(sources["single"], "0", output=tmp_path / "once")
    surgery.export(tmp_path / "once", "1", output=tmp_path / "twice", layout="compact")
    hub.create("me/edited").commit(tmp_path / "twice")
    results = run("inspect me/edited", "inspect me/edited --json")
    assert "block 0: attention-free (identity" in results[0].out
    assert results[0].out.count("edited from") == 2
    found = json.loads(results[1].out)
    assert found == {**surgery.inspect(tmp_path / "twice").to_json(), "model": "me/edited"}
    assert "modeling_attention_free.py" not in hub.downloads
