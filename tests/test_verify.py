"""Contract: `verify` accepts what export wrote, and fails with a named check for anything else.

One flipped byte of any file, a file too many, a link that leaves the folder, another source,
weights that do not load or run, and a head that no longer looks at other tokens and is not said to
be edited. What somebody forges with care is in test_forgery.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config, write_checkpoint
from command_line import attn_surgery
from forging import WEIGHTS, assert_fails, edit_json, edit_weights, seal
from safetensors.torch import load_file, save_file

import surgery
from surgery.behavior import check_behavior, find_mixing_heads
from surgery.errors import CheckpointError, SurgeryError
from surgery.publishing.upload import find_publishable
from surgery.record.manifest import read_manifest

NEOX = neox_config(max_position_embeddings=64)
NEO = neo_config(max_position_embeddings=64)
KINDS = ["stock", "compact"]


EMBEDDING = "gpt_neox.embed_in.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("verify") / "source", NEOX)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "truncation": null}\n')
    (folder / "LICENSE").write_text("Apache\n")
    return folder


@pytest.fixture(scope="module")
def originals(source: Path) -> dict[str, Path]:
    """Layout → an export of blocks 1 and 2."""
    folders = {}
    for layout in KINDS:
        folders[layout] = source.parent / layout
        surgery.export(source, "1,2", output=folders[layout], layout=layout)
    return folders


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(originals[request.param], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def stock(originals: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(originals["stock"], tmp_path / "out")
    return tmp_path / "out"


def test_output_for_people(stock: Path, source: Path) -> None:
    outcome = attn_surgery("verify", stock)
    assert outcome.code == 0
    *lines, verdict = outcome.stdout.splitlines()
    kinds = [line.partition(" ")[0] for line in lines]
    assert kinds == sorted(kinds, reverse=True), "checks, then what is only claimed"
    assert set(kinds) == {"ok", "claimed"}
    assert "with a score gap of " in outcome.stdout
    assert "claimed source: that source was edited: to check it, give it as --source" in lines
    assert ": verified without its source: " in verdict
    assert verdict.endswith(
        " checks passed; claimed but not checked: source, versions, measurements"
    )
    done = attn_surgery("verify", stock, "--source", source)
    assert done.stderr == ""
    assert ": verified against its source: " in done.stdout.splitlines()[-1]


def test_a_failure_is_said_once(stock: Path) -> None:
    """What passed, then one line about what did not."""
    edit_weights(stock, lambda tensors: tensors["embed_out.weight"].fill_(float("nan")))
    outcome = attn_surgery("verify", stock)
    lines = outcome.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "ok     files", "ok     contents", "ok     edit", "ok     tensors",
    ]  # fmt: skip
    what = "tensor 'embed_out.weight' holds numbers that are not finite"
    assert (outcome.code, outcome.stderr) == (1, f"error: {stock}: finite: {what}\n")


def test_what_tensors_show_is_counted(originals: dict[str, Path], source: Path) -> None:
    """The compact layout leaves none of those that it computes from."""
    zero = surgery.export(source, "1", variant="zero", output=source.parent / "zero").output
    for folder, detail in (
        (originals["compact"], "without the source, there is nothing to compare"),
        (zero, "4 tensors equal to what the layout computes"),
    ):
        details = {check.name: check.detail for check in surgery.verify(folder).checks}
        assert details["tensors"] == detail


def test_a_card_that_another_version_wrote_is_not_called_checked(stock: Path) -> None:
    """Anyone can write that another version wrote it."""
    edit_json(
        stock / "surgery.json",
        lambda it: it["history"][-1]["versions"].update({"attn-surgery": "0.0.1"}),
    )
    card = stock / "README.md"
    card.write_text(card.read_text().replace("Nothing yet. To", "All is well. To"))
    found = surgery.verify(stock)
    assert found.ok
    assert all(check.name != "card" for check in found.checks)
    told = next(claim.detail for claim in found.claims if claim.name == "README.md")
    assert told.endswith(", which attn-surgery 0.0.1 is said to have written")
    assert "claimed but not checked: README.md, " in found.verdict


def test_the_card_says_what_the_manifest_says(folder: Path) -> None:
    """Or one part of it is named; text around the parts is its author's own."""
    card = folder / "README.md"
    text = card.read_text()
    for part, old, new in (
        ("measurements", "Nothing yet. To", "All is well. To"),
        ("summary", "(of 4, counted", "(of 2, counted"),
        ("reproduction", "--variant identity", "--variant zero"),
    ):
        assert old in text
        card.write_text(text.replace(old, new))
        detail = f"part {part} of README.md is not what surgery.json and report.json give"
        assert_fails(folder, "card", detail)
    card.write_text(text.replace("library_name", "base_model: openai/gpt-9\nlibrary_name"))
    assert_fails(folder, "card", "base_model of README.md is not what")
    card.write_text(text + "\nIt forgot everything.\n")
    found = attn_surgery("verify", folder, "--json").json
    assert found["ok"]
    assert "README.md" in [claim["name"] for claim in found["claims"]]


def test_a_card_that_lacks_what_was_generated_is_not_called_checked(folder: Path) -> None:
    """An emptied or replaced card contradicts nothing. Own metadata is claimed, too."""
    card = folder / "README.md"
    text = card.read_text()

    def list_said() -> list[str]:
        found = attn_surgery("verify", folder, "--json").json
        assert found["ok"]
        assert "card" not in [check["name"] for check in found["checks"]]
        return [claim["detail"] for claim in found["claims"] if claim["name"] == "README.md"]

    for replaced in ("", "Retrained from scratch. No attack recovers anything."):
        card.write_text(replaced)
        said = list_said()
        assert said[0].startswith("all that it says: it lacks what attn-surgery wrote of summary, ")
        assert (len(said) > 1) == bool(replaced), "own text"
    first, mark = text.index("<!-- attn-surgery:limits"), "<!-- /attn-surgery:limits -->"
    card.write_text(text[:first] + text[text.index(mark) + len(mark) :])
    assert list_said()[0] == "all that it says: it lacks what attn-surgery wrote of limits"
    card.write_text(text.replace("library_name", "license: mit\ndatasets: [c4]\nlibrary_name"))
    found = attn_surgery("verify", folder, "--json").json
    said = [claim["detail"] for claim in found["claims"] if claim["name"] == "README.md"]
    assert said == ["of its metadata, license, datasets"]


def test_extra_papers_are_welcome(folder: Path) -> None:
    (folder / "README.md").write_text("a model card")
    (folder / ".gitattributes").write_text("* text")  # as the Hub makes one
    (folder / "lm_eval" / "edited" / "model").mkdir(parents=True)
    (folder / "lm_eval" / "edited" / "model" / "results_2025.json").write_text("{}")
    assert surgery.verify(folder).ok


def test_what_a_download_or_a_clone_brings(folder: Path) -> None:
    """`hf download --local-dir` and git keep notes beside the model, which are never published."""
    for name in (".cache/huggingface/.gitignore", ".cache/huggingface/download/x.metadata"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("x")
    (folder / ".git" / "objects" / "ab").mkdir(parents=True)
    (folder / ".git" / "objects" / "ab" / "cdef").write_text("x")
    assert surgery.verify(folder).ok
    assert not [name for name in find_publishable(folder).files if name.startswith(".")]


def positions(size: int) -> list[int]:
    return sorted({0, 1, 7, 8, 9, size // 3, size // 2, size - 2, size - 1} & set(range(size)))


def test_one_flipped_byte_of_any_file(folder: Path) -> None:
    """The manifest itself and the model card, which may be edited, are checked in other ways."""
    files = [p for p in folder.iterdir() if p.name not in ("surgery.json", "README.md")]
    assert {WEIGHTS, "config.json", "tokenizer.json", "LICENSE"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position in positions(len(content)):
            for bit in (1, 128):
                flipped = bytearray(content)
                flipped[position] ^= bit
                path.write_bytes(flipped)
                (check,) = surgery.verify(folder).checks
                assert (check.name, check.ok) == ("files", False)
                assert check.detail == f"{path.name} differs from its recorded SHA-256"
        path.write_bytes(content)
    assert surgery.verify(folder).ok


def test_one_flipped_byte_of_the_recorded_files(stock: Path) -> None:
    """The manifest cannot record itself, but every byte of its list of files matters."""
    path = stock / "surgery.json"
    content = path.read_bytes()
    for position in range(content.index(b'"files"'), len(content.rstrip()), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        try:
            ok = surgery.verify(stock).ok
        except SurgeryError:
            ok = False
        assert not ok, (position, content[position - 20 : position + 20])


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert_fails(folder, "files", f"{name} is missing")


@pytest.mark.parametrize(
    "name",
    [
        "modeling_other.py",
        "pytorch_model.bin",
        "model-00001-of-00001.safetensors",
        "notes.txt",
        ".env",
        ".gitignore",
        "key.pem",
        "vocab.txt",
        "adapter_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        ".eval_results/task.py",
        "eval_results/task.yaml",
        "picture.png.py",
        "model.sig.bin",
        "lm_eval/edited/model/code.py",
        ".git/hooks/code.py",
        ".cache/huggingface/model.safetensors",
        ".cache/notes.txt",
        ".m.attn-surgery-2.safetensors",
        ".staging.attn-surgery-partial/modeling_other.py",
        ".m.attn-surgery-partial/model.safetensors",
        ".m.attn-surgery-partial/code",
        ".adapter_config.json.attn-surgery-old",
        ".custom_generate.attn-surgery-old/generate.py",
    ],
)
def test_a_file_too_many(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("x")
    assert_fails(folder, "files", f"{name} is not in the manifest")


def test_what_others_add_is_claimed(folder: Path) -> None:
    """A signature, results that the Hub merged, pictures: no loader reads them, and no check."""
    added = (".eval_results/gsm8k.yaml", "docs/Curve.PNG", "model.sig")
    for name in added:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04")
    outcome = attn_surgery("verify", folder)
    assert outcome.code == 0, outcome.stderr
    for name in added:
        assert f"claimed {name}: not part of the model, and not read by any check\n" in (
            outcome.stdout
        )
    claims = {claim["name"] for claim in attn_surgery("verify", folder, "--json").json["claims"]}
    assert {*added} < claims


def test_a_folder_that_cannot_be_listed_may_hold_code(
    stock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader opens files there by name."""
    (stock / "custom_generate").mkdir()
    scan = os.scandir

    def refuse(place: Any) -> Any:
        if Path(place).name == "custom_generate":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert_fails(stock, "files", "cannot be listed")


@pytest.mark.parametrize("name", ["tokenizer.json", "README.md", "lm_eval"])
def test_a_link_that_leaves_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    """Also to the same bytes, and to a folder."""
    outside = tmp_path / "outside"
    if (folder / name).is_file():
        (folder / name).rename(outside)
    else:
        outside.mkdir()
    (folder / name).symlink_to(outside)
    assert_fails(folder, "files", f"{name}: is a link out of the model's folder")


def test_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    """Its snapshots are links to the blobs beside them."""
    blobs, snapshot = tmp_path / "models--me--x" / "blobs", tmp_path / "models--me--x/snapshots/c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (blobs / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert surgery.verify(snapshot).ok


# --- another source


def test_another_source(folder: Path, source: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", NEOX, seed=1)
    assert_fails(folder, "edit", "the source is not one that the manifest records", other)
    neo = write_checkpoint(tmp_path / "neo", NEO)
    text = "the source is a gpt_neo model, and this is a gpt_neox model"
    assert_fails(folder, "edit", text, neo)
    copy = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    assert surgery.verify(folder, source=copy).ok
    with pytest.raises(SurgeryError, match="`revision` goes with a Hub id"):
        surgery.verify(folder, revision="main")


# --- behavior: found by running the model


def test_the_seed_is_new_and_can_be_repeated(stock: Path) -> None:
    one, two = (attn_surgery("verify", stock, "--json").json for _ in range(2))
    assert one["seed"] != two["seed"]
    again = surgery.verify(stock, seed=one["seed"])
    assert again.to_json() == one
    assert f"seed {one['seed']}" in next(c.detail for c in again.checks if c.name == "loads")


@pytest.mark.parametrize("config", [NEOX, NEO], ids=["neox", "neo"])
def test_every_head_of_an_unedited_model_mixes(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write_checkpoint(tmp_path / "source", config)
    assert find_mixing_heads(folder, 1) == dict.fromkeys(range(4), (True, True))


def test_a_weak_constant(stock: Path) -> None:
    """Queries and keys that favor the token itself, but leave a little to its neighbors."""
    name = "gpt_neox.layers.1.attention.query_key_value.bias"

    def weaken(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(2, 3, 32)[0, :2] *= 0.1

    edit_weights(stock, weaken)
    assert find_mixing_heads(stock, 1) == {
        0: (True, True),
        1: (True, False),
        2: (False, False),
        3: (True, True),
    }


def test_a_head_that_does_not_mix(stock: Path) -> None:
    """Not said to be attention-free, and no longer looks at other tokens."""

    def forget_block_2(manifest: Any) -> None:
        edit = manifest["history"][-1]
        edit["parts"] = [part for part in edit["parts"] if part["block"] != 2]

    edit_json(stock / "surgery.json", forget_block_2)
    assert_fails(stock, "other blocks", "2 do not mix tokens, and the manifest does not say")


def test_a_single_head_that_does_not_mix(stock: Path) -> None:
    edit_json(stock / "surgery.json", lambda m: m["history"][-1]["parts"][0].update(heads=[1]))
    assert_fails(stock, "other blocks", "1.0 do not mix tokens, and the manifest does not say")


def test_a_head_that_does_not_mix_in_the_source_either(tmp_path: Path) -> None:
    """Someone pruned it: the output projection does not read it. Only the source tells."""
    tensors = make_tensors(NEOX)
    tensors["gpt_neox.layers.0.attention.dense.weight"][:, 32:] = 0
    source = write_checkpoint(tmp_path / "source", NEOX, tensors=tensors)
    out = surgery.export(source, "2", output=tmp_path / "out").output
    assert_fails(out, "other blocks", "0.1 do not mix tokens, and the manifest does not say so")
    found = surgery.verify(out, source=source)
    assert found.ok, found.verdict
    (detail,) = (check.detail for check in found.checks if check.name == "other blocks")
    assert detail == "0-1,3: attention still mixes, but for 0.1, which mix nothing in the source"
    edit_json(out / "surgery.json", lambda m: m["history"][-1]["parts"][0].update(heads=[0]))
    forged = read_manifest(out)
    assert forged is not None
    (*_, check) = check_behavior(out, forged, 1, source)
    assert check.detail == "2.1 do not mix tokens, and the manifest does not say so"


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (
            lambda t: t["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"].fill_(torch.nan),
            "finite",
            "dense_h_to_4h.bias' holds numbers that are not finite",
        ),
        (lambda t: t.pop("gpt_neox.layers.0.mlp.dense_h_to_4h.bias"), "loads", "finds no weights"),
        (
            lambda t: t.update({EMBEDDING: t[EMBEDDING][:-1].clone()}),
            "loads",
            "cannot be loaded",
        ),
        (lambda t: t.update({"x": torch.ones(1)}), "loads", "tensor 'x' is not one of such a"),
    ],
    ids=["NaN", "missing", "wrong shape", "unknown"],
)
def test_weights_that_do_not_work(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str, text: str
) -> None:
    edit_weights(folder, change)
    assert_fails(folder, name, text)


def test_numbers_that_overflow_when_they_run(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", neox_config(torch_dtype="float32"))
    tensors = load_file(folder / WEIGHTS)
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"].fill_(3e38)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="attention output is not finite"):
        find_mixing_heads(folder, 0)


@pytest.mark.parametrize("content", [b"", b"x" * 40])
def test_files_that_do_not_load(folder: Path, content: bytes, source: Path) -> None:
    for name in (WEIGHTS, "config.json"):
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        seal(folder)
        assert_fails(folder, "contents", name)
        assert_fails(folder, "contents", name, source)
        (folder / name).write_bytes(old)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "nope"), ("hidden_act", 3), ("use_parallel_residual", "x")],
)
def test_a_configuration_that_does_not_load(tmp_path: Path, key: str, value: object) -> None:
    """Whatever the library raises is one line."""
    model = write_checkpoint(tmp_path / "source", NEOX)
    folder = surgery.export(model, "1", output=tmp_path / "out").output
    edit_json(folder / "config.json", lambda config: config.update({key: value}))
    seal(folder)
    assert_fails(folder, "loads", "cannot be loaded")
