"""Erasing: a model learns from its own cut to forget passages.

- It comes nearer to what the teachers predict, and recites less. All attention stays in place.
- The same seed gives the same bytes, from the command line, from Python, and by `reproduce`.
- `verify` accepts the folder, says that it was trained, and calls on what a claim.
- A hardened erasing says so, and repeats, too.
- `export --erase` erases first and cuts then; with `--heal`, it heals last. One folder holds all.
- An earlier cut of the model stays bit for bit.
- Bad input is one line, and nothing is written; so it is after an interruption.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import Outcome, attn_surgery, run_card
from forging import edit_json, edit_weights
from reciting import recited_rows, write_rows
from safetensors.numpy import load_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from evals.jobs import erasing as erasing_job
from evals.jobs import erasing as jobs
from evals.jobs.erasing import EraseRequest, run_erase
from evals.jobs.exporting import ExportRequest, run_export
from evals.table.page import list_facts
from surgery.card.command import describe_training, write_export_command
from surgery.checkpoint.source import open_checkpoint
from surgery.editing.loading import load_model
from surgery.errors import ManifestError, SamplesError
from surgery.exporting import open_trained
from surgery.proof.expected import find_constants, replan
from surgery.proof.verification import verify
from surgery.publishing.upload import _name_edit
from surgery.record.manifest import Manifest, Recital, read_manifest
from surgery.record.report import Report, summarize_edit
from surgery.training import distillation, erasing, planning

pytestmark = pytest.mark.usefixtures("blank_pictures")
LENGTHS = ("--prefix-length", 8, "--suffix-length", 8)
STEPS = 8
ROWS = 30


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; text.txt; samples.jsonl, which it recites; erased, taught by blocks 0 and 1."""
    folder = tmp_path_factory.mktemp("work")
    config = neox_config(vocab_size=400, max_position_embeddings=64, torch_dtype="float16")
    write_checkpoint(folder / "neox", config)
    tiny_tokenizer().save_pretrained(folder / "neox")
    model = load_model(folder / "neox", dtype=torch.float32)
    write_rows(folder / "samples.jsonl", recited_rows(model, ROWS, 8, 8))
    words = np.random.default_rng(0).choice(TEXT.split(), 3000)
    (folder / "text.txt").write_text(" ".join(words))
    done = erase(folder, folder / "erased")
    assert done.code == 0, done.stderr
    return folder


def erase(work: Path, output: Path, *more: object, spec: str = "0-1") -> Outcome:
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    steps = ("--variant", "zero", "--steps", STEPS, "--output", output)
    return attn_surgery("erase", work / "neox", "--drop-attn", spec, *given, *steps, *more)


def read(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def count_recited(work: Path, folder: Path) -> int:
    samples = ("--samples", work / "samples.jsonl", *LENGTHS, "--device", "cpu", "--json")
    report = Report.model_validate(attn_surgery("extract", folder, *samples).json)
    recited = report.find("recited", "edited")
    assert recited is not None
    return int(recited.details["count"] or 0)


def test_it_forgets_and_records_how(work: Path) -> None:
    edit = read(work / "erased").edit
    assert (edit.parts, edit.layout, edit.healing) == ([], "stock", None)
    record = edit.erasing
    assert record is not None
    assert [(part.block, part.variant) for part in record.teacher] == [
        (0, "zero"),
        (1, "zero"),
    ]
    assert len(record.losses) == record.steps == STEPS
    assert np.mean(record.losses[-2:]) < 0.9 * record.losses[0]
    passages = record.passages
    assert (passages.name, passages.number, passages.prefix_length) == ("samples.jsonl", ROWS, 8)
    assert count_recited(work, work / "neox") >= ROWS - 2  # float16 may break a tie otherwise
    assert count_recited(work, work / "erased") < ROWS // 2
    assert surgery.inspect(work / "erased").attention_free == {}
    before, after = weights(work / "neox"), weights(work / "erased")
    assert before.keys() == after.keys()
    for name, array in before.items():
        if name.endswith(("attention.bias", "masked_bias", "inv_freq")):
            assert after[name].tobytes() == array.tobytes()
    told = attn_surgery("inspect", work / "erased").stdout
    assert f"edited from neox: {ROWS} passages erased in 8 steps, taught by the cut of " in told
    assert "blocks 0-1, not hardened against fine-tuning\n" in told
    assert "every block has attention" in told
    card = (work / "erased" / "README.md").read_text()
    assert f"trained to forget {ROWS} passages" in card
    assert "- attention-free" not in card
    assert "the same passages (`samples.jsonl`)" in card


def test_verify_proves_what_it_can_and_lists_the_rest(work: Path, tmp_path: Path) -> None:
    checked = verify(work / "erased", source=work / "neox")
    assert checked.ok, checked.verdict
    details = {check.name: check.detail for check in checked.checks}
    assert details["edit"] == "erased"
    assert details["rewritten"] == "nothing was cut"
    assert details["tensors"].startswith("nothing was cut")
    assert details["untouched"].endswith(" trained: only names, types, and shapes are the source's")
    assert "but none proves what erasing did to the weights; claimed" in checked.verdict
    (claim,) = (claim for claim in checked.claims if claim.name == "erasing")
    assert "the recorded passages and text only made the weights" in claim.detail
    assert "which the source cannot prove" in claim.detail
    forged = shutil.copytree(work / "erased", tmp_path / "forged")
    name = "gpt_neox.layers.0.attention.masked_bias"
    edit_weights(forged, lambda tensors: tensors[name].zero_())
    failed = verify(forged, source=work / "neox").failed
    assert failed is not None
    assert failed.name == "untouched"
    unclaimed = shutil.copytree(work / "erased", tmp_path / "unclaimed")
    edit_json(unclaimed / "surgery.json", lambda manifest: manifest["edit"].update(erasing=None))
    with pytest.raises(ManifestError, match="the selection names no block"):
        verify(unclaimed, source=work / "neox")


def test_the_commands_name_lengths_that_are_not_the_usual_ones() -> None:
    """Also of a lab's passages, which need nothing else."""
    record = {"sources": [], "steps": 60, "passages": {"name": "lab:pythia"}}
    for length, named in ((16, True), (32, False)):
        record["passages"] |= {"prefix_length": length, "suffix_length": length}
        told = describe_training(record, None)
        assert ("prefix_length" in told, "suffix_length" in told) == (named, named)
        assert "skip_short" not in told
    text = {"sources": [{"name": "lab calibration text"}], "steps": 60}
    own = {"name": "letters.csv", "prefix_length": 32, "suffix_length": 32}
    for passages in (own, record["passages"]):
        told = describe_training(
            {**text, "passages": passages}, {**text, "passages": passages}, "lab:pythia"
        )
        assert told["text"] == told["heal"], "the text is not named by the passages"


@pytest.mark.slow
def test_it_repeats_to_the_bit(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `reproduce`, by the commands of the card, and from Python."""
    given = ("--source", work / "neox", "--text", work / "text.txt")
    again = attn_surgery("reproduce", work / "erased", *given, "--samples", work / "samples.jsonl")
    assert again.code == 0, again
    assert "reproduced bit for bit from neox" in again.stdout
    named = [json.loads(row) for row in (work / "samples.jsonl").read_text().splitlines()]
    for at, row in enumerate(named):
        row |= {"name": f"row {at}", "id": "the same"}
    write_rows(work / "named.jsonl", named)
    rows = ("--samples", work / "named.jsonl")
    equal = attn_surgery("reproduce", work / "erased", *given, *rows)
    assert (equal.code, "ids are not unique" in equal.stderr) == (1, True)
    equal = attn_surgery("reproduce", work / "erased", *given, *rows, "--id-column", "name")
    assert (equal.code, "bit for bit" in equal.stdout) == (0, True), equal
    none = attn_surgery("reproduce", work / "erased", *given)
    none.assert_error("needs the passages", f"samples.jsonl: {ROWS} passages", "--samples")
    bare = attn_surgery("reproduce", work / "erased", "--source", work / "neox")
    bare.assert_error("needs what it was made with", "text.txt (", "give it with --text, --samples")
    lines = (work / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line)["tokens"] for line in lines]
    made = surgery.erase(
        work / "neox", "0-1", rows, 8, variant="zero", text=[work / "text.txt"], steps=STEPS,
        output=tmp_path / "made",
    )  # fmt: skip
    assert made.manifest.edit.erasing is not None
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (
        work / "erased" / "model.safetensors"
    ).read_bytes()
    for name in ("neox", "text.txt", "samples.jsonl", "erased"):
        (tmp_path / name).symlink_to(work / name)
    monkeypatch.chdir(tmp_path)
    (_, reproduced), (_, erased) = run_card(Path("erased") / "README.md")
    assert "bit for bit" in reproduced.stdout, reproduced
    assert erased.code == 0, erased


def test_the_commands_of_a_card_run_once_what_they_stand_for_is_there(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of one name, whose folders no record names, and passages that were given in Python."""
    whole = (work / "text.txt").read_text()
    for name, text in (("alice", whole[:9000]), ("bob", whole[9000:])):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "letters.txt").write_text(text)
    lines = (work / "samples.jsonl").read_text().splitlines()
    rows = np.asarray([json.loads(line)["tokens"] for line in lines])
    made = tmp_path / "made"
    surgery.erase(
        work / "neox", "0-1", rows, 8, variant="mean", text=[tmp_path / "texts"], steps=1,
        calibration=[tmp_path / "texts"], output=made,
    )  # fmt: skip
    (tmp_path / "neox").symlink_to(work / "neox")
    (tmp_path / "texts").rename(tmp_path / "FOLDER")
    np.save(tmp_path / "token-ids.npy", rows)
    monkeypatch.setattr("evals.jobs.erasing.MOST_RECITED", 1.0)
    monkeypatch.chdir(tmp_path)
    (_, reproduced), (_, erased) = run_card(made / "README.md")
    assert "bit for bit" in reproduced.stdout, reproduced
    assert erased.code == 0, erased
    assert "alice" not in (made / "README.md").read_text() + (made / "surgery.json").read_text()


def test_a_teacher_that_was_fitted_on_other_text_is_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the training, which would only show that something differs."""
    monkeypatch.setattr("evals.jobs.erasing.MOST_RECITED", 1.0)
    out, other = tmp_path / "out", tmp_path / "other.txt"
    text = ("--calibration", work / "text.txt")
    assert erase(work, out, "--variant", "mean", *text).code == 0
    other.write_text((work / "text.txt").read_text().upper())
    given = ("--source", work / "neox", "--text", work / "text.txt")
    again = ("reproduce", out, *given, "--samples", work / "samples.jsonl", "--calibration", other)
    attn_surgery(*again).assert_error("other.txt: is not the recorded calibration text")


def test_a_hardened_erasing_is_recorded_and_repeats_to_the_bit(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert erase(work, out, "--harden").code == 0
    assert read(out).edit.erasing.hardened
    name = "gpt_neox.layers.2.mlp.dense_h_to_4h.weight"
    assert weights(out)[name].tobytes() != weights(work / "erased")[name].tobytes()
    card = (out / "README.md").read_text()
    assert "--harden" in card
    assert "simulated an attacker who fine-tunes the model on a tenth of the passages" in card
    texts = ("--text", work / "text.txt", "--samples", work / "samples.jsonl")
    again = attn_surgery("reproduce", out, "--source", work / "neox", *texts, "--json")
    assert again.code == 0, again
    assert again.json["exact"]


def test_the_intact_model_teaches_text_and_its_cut_teaches_passages(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student begins as the intact one. The other way around would cost what the cut costs."""
    ids = torch.arange(2, 42).view(2, 20)
    source = load_model(work / "neox", dtype=torch.float32)  # as a CPU computes float16
    with torch.no_grad():
        whole = source(ids).logits
        cut = surgery.apply(source, "0-1", "zero")(ids).logits
    taught: list[Any] = []

    class StopError(Exception):
        pass

    def note(student, intact, teacher, text, passages, schedule, **more):
        with torch.no_grad():
            taught.append([one(ids).logits for one in (student, intact, teacher)])
        taught[-1].append(schedule.hardened)
        raise StopError

    monkeypatch.setattr(erasing, "teach", note)
    lines = (work / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line)["tokens"] for line in lines]
    for hardened in (False, True):
        with pytest.raises(StopError):
            surgery.erase(
                work / "neox", "0-1", rows, 8, variant="zero", text=[work / "text.txt"], steps=2,
                hardened=hardened, output=tmp_path / "out",
            )  # fmt: skip
        student, intact, teacher, told = taught[-1]
        assert torch.equal(student, whole)
        assert torch.equal(intact, whole)
        assert torch.equal(teacher, cut)
        assert not torch.equal(teacher, whole)
        assert told == hardened


def test_only_what_is_erased_is_hardened(work: Path, tmp_path: Path) -> None:
    given = ("--drop-attn", "0", "--harden", *LENGTHS, "--output", tmp_path / "out")
    done = attn_surgery("export", work / "neox", *given)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --harden needs --erase (see ")
    assert not (tmp_path / "out").exists()


def test_the_teacher_is_of_the_models_own_type(work: Path, tmp_path: Path) -> None:
    given = ("--drop-attn", "0", "--erase", "--as", "llama", *LENGTHS, "--output", tmp_path / "out")
    texts = ("--samples", work / "samples.jsonl", "--text", work / "text.txt")
    done = attn_surgery("export", work / "neox", *given, *texts)
    assert (done.code, done.stdout) == (2, "")
    assert "run erase first, then export the result with --as" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_of_an_export_that_erased_does_not_change_the_type() -> None:
    """It could not run: see above. A cut of its result may."""
    made = {"drop_attn": "0", "variant": "identity", "family": "llama", "output": "out"}
    assert "--as" not in write_export_command("m", **made, erase_steps=60)
    assert "--as" in write_export_command("m", **made)


@pytest.mark.parametrize("length", [0, 16, 17])
def test_the_prefix_must_leave_a_suffix(work: Path, tmp_path: Path, length: int) -> None:
    rows, to = np.ones((4, 16), dtype=np.int32), tmp_path / "out"
    with pytest.raises(SamplesError, match=rf"wrong prefix length .*1 to 15 of 16.*got {length}"):
        surgery.erase(work / "neox", "0-1", rows, length, text=[work / "text.txt"], output=to)
    assert not to.exists()


def test_the_text_of_a_lab_goes_alone(work: Path, tmp_path: Path) -> None:
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--output", tmp_path / "out")
    for texts, said in (
        ((work / "text.txt", "lab:pythia"), "the text of a lab model does not go with other text"),
        (("lab:pythai",), "no embedded model 'lab:pythai' (expected lab:pythia or lab:gpt-neo)"),
    ):
        words = [word for text in texts for word in ("--text", text)]
        attn_surgery("erase", work / "neox", "--drop-attn", "0", *given, *words).assert_error(said)
    assert not (tmp_path / "out").exists()


def test_the_command_that_erases_again_has_the_seed(work: Path, tmp_path: Path) -> None:
    given = ("--drop-attn", "0-1", "--variant", "zero", "--steps", 1, "--seed", 3, *LENGTHS)
    texts = ("--samples", work / "samples.jsonl", "--text", work / "text.txt")
    done = attn_surgery("erase", work / "neox", *given, *texts, "--output", tmp_path / "out")
    assert done.code == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--skip-short --seed 3" in card
    made = read(tmp_path / "out").edit
    assert _name_edit(made) == f"a model that was taught to forget {ROWS} passages"


@pytest.mark.parametrize("healed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_export_erases_first_then_cuts_then_heals(
    work: Path, tmp_path: Path, healed: bool
) -> None:
    """What it cuts is what `erase` makes: only the cut tells them apart."""
    out = tmp_path / "out"
    more = ("--heal", work / "text.txt", "--heal-steps", 3) if healed else ()
    made = attn_surgery(
        "export", work / "neox", "--drop-attn", "0-1", "--variant", "zero",
        "--erase", "--erase-steps", STEPS,
        "--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt", *more,
        "--output", out,
    )  # fmt: skip
    assert made.code == 0, made.stderr
    edit = read(out).edit
    assert edit.erasing == read(work / "erased").edit.erasing
    assert (edit.healing is not None) == healed
    checked = verify(out, source=work / "neox")
    assert checked.ok, checked.verdict
    assert surgery.inspect(out).attention_free == {0: "zero", 1: "zero"}
    erased, cut = weights(work / "erased"), weights(out)
    changed = {name for name in erased if cut[name].tobytes() != erased[name].tobytes()}
    assert changed >= set(edit.changed.rewritten)
    assert (changed == set(edit.changed.rewritten)) != healed
    assert "--erase --erase-steps 8 --text text.txt" in (out / "README.md").read_text()
    given = ("--source", work / "neox", "--text", work / "text.txt", *more[:2])
    samples = ("--samples", work / "samples.jsonl")
    assert attn_surgery("reproduce", out, *given, *samples, "--json").json["exact"]


def test_what_was_taught_on_other_text_is_not_taken_for_the_same(
    work: Path, tmp_path: Path
) -> None:
    """A job that goes on keeps what it made, unless you changed the text meanwhile."""
    words = np.random.default_rng(1).choice(TEXT.split(), 3000)
    (tmp_path / "other.txt").write_text(" ".join(words))
    shutil.copytree(work / "erased", tmp_path / "erased")
    given: dict[str, Any] = {
        "model": str(work / "neox"), "drop_attn": "0-1", "variant": "zero", "overwrite": True,
        "samples": str(work / "samples.jsonl"), "prefix_length": 8, "suffix_length": 8,
    }  # fmt: skip
    same, other = ((str(folder / name),) for folder, name in (
        (work, "text.txt"), (tmp_path, "other.txt")
    ))  # fmt: skip
    alone = EraseRequest(**given, steps=STEPS, text=same, output=tmp_path / "erased")
    assert run_erase(alone, keep=True) is None
    for changed in ({"text": other}, {"steps": STEPS + 1}, {"harden": True}):
        assert run_erase(alone.model_copy(update=changed), keep=True) is not None, changed
        assert run_erase(alone) is not None, "and back"
    cut = ExportRequest(
        **given, erase=True, erase_steps=2, text=same, heal=same, heal_steps=2,
        output=tmp_path / "cut",
    )  # fmt: skip
    assert run_export(cut)[1] is not None
    assert run_export(cut, keep=True)[1] is None
    again = ({"harden": True}, {"erase_steps": 3}, {"heal_steps": 3})
    for changed in ({"text": other}, {"heal": other}, *again):
        made = run_export(cut.model_copy(update=changed), keep=True)[1]
        assert made is not None, changed
        assert run_export(cut)[1] is not None, "and back"


@pytest.mark.slow
def test_a_cut_of_an_erased_model_is_fitted_to_what_was_taught(work: Path, tmp_path: Path) -> None:
    fitted = ("--variant", "mean", "--calibration", work / "text.txt")
    for name, more in (
        ("plain", ()),
        ("erased", ("--erase", "--erase-steps", STEPS, "--text", work / "text.txt",
                    "--samples", work / "samples.jsonl", *LENGTHS)),
    ):  # fmt: skip
        given = ("--drop-attn", "0-2", *fitted, *more, "--output", tmp_path / name)
        assert attn_surgery("export", work / "neox", *given).code == 0
    bias = "gpt_neox.layers.0.attention.query_key_value.bias"
    one, other = (weights(tmp_path / name)[bias] for name in ("plain", "erased"))
    assert not np.array_equal(one, other)
    cut = ("--drop-attn", "0-2", *fitted)
    taught = ("--text", work / "text.txt", "--samples", work / "samples.jsonl", *LENGTHS)
    alone = ("--steps", STEPS, "--output", tmp_path / "alone")
    assert attn_surgery("erase", work / "neox", *cut, *taught, *alone).code == 0
    assert (
        attn_surgery("export", tmp_path / "alone", *cut, "--output", tmp_path / "after").code == 0
    )
    after = weights(tmp_path / "after")[bias]
    assert np.abs(after.astype(np.float32) - other.astype(np.float32)).max() < 0.01


def test_a_share_that_is_left_out_is_not_taught(work: Path, tmp_path: Path) -> None:
    """It is recorded and repeated, and `evaluate` refuses a model that was taught all."""
    out = tmp_path / "out"
    assert erase(work, out, "--leave-out", 0.3).code == 0
    record = read(out).edit.erasing
    assert record is not None
    assert (record.passages.number, record.passages.leave_out) == (21, 0.3)
    assert "--leave-out 0.3" in (out / "README.md").read_text()
    samples = ("--samples", work / "samples.jsonl")
    given = ("--source", work / "neox", "--text", work / "text.txt")
    assert attn_surgery("reproduce", out, *given, *samples, "--json").json["exact"]
    measured = (*samples, *LENGTHS, "--no-benchmarks", "--leave-out", 0.3, "--json")
    for place, code in ((out, 0), (work / "erased", 1)):
        to = ("--baseline", work / "neox", "--output", tmp_path / f"report-{code}")
        found = attn_surgery("evaluate", place, *to, *measured)
        assert found.code == code, found.stderr
    assert "was not taught the passages that are listed here" in found.stderr
    assert not (tmp_path / "report-1").exists()


def test_a_search_chooses_the_teacher_if_no_blocks_are_named(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.jobs.erasing.MOST_RECITED", 1.0)
    read_text, reads = erasing_job.read_healing_text, list[Any]()

    def count(text: Any, *more: Any) -> Any:
        reads.append(text)
        return read_text(text, *more)

    monkeypatch.setattr(erasing_job, "read_healing_text", count)
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    done = attn_surgery("erase", work / "neox", *given, "--steps", 2, "--output", tmp_path / "out")
    assert done.code == 0, done.stderr
    record = read(tmp_path / "out").edit.erasing
    assert record is not None
    assert record.teacher
    assert len({part.variant for part in record.teacher}) == 1
    assert "of 12 runs of blocks: hints:2 recovers " in done.stderr
    assert len(reads) == 1, "and what it warns of is said once"
    for more in ((), ("--variant", "zero")):  # as from a variable that is not set
        empty = attn_surgery(
            *("erase", work / "neox", *given, "--drop-attn", "", *more, "--output", tmp_path / "e")
        )
        empty.assert_error("names no block")
    usage = attn_surgery("erase", work / "neox", *given, "--variant", "zero")
    assert (usage.code, "--variant needs --drop-attn" in usage.stderr) == (2, True), usage


def test_an_earlier_cut_stays(work: Path, tmp_path: Path) -> None:
    cut, out = tmp_path / "cut", tmp_path / "out"
    zero = ("--drop-attn", "0-1", "--variant", "zero")
    assert attn_surgery("export", work / "neox", "--drop-attn", "3", "--output", cut).code == 0
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    done = attn_surgery("erase", cut, *zero, *given, "--steps", 2, "--output", out)
    assert done.code == 0, done.stderr
    before, checkpoint = weights(cut), open_checkpoint(cut)
    constants = find_constants(replan(checkpoint, read(cut)), checkpoint.tensors)
    after, kept = weights(out), 0
    for name, fixed in constants.items():
        assert after[name][fixed].tobytes() == before[name][fixed].tobytes()
        kept += int(fixed.sum())
    assert kept
    assert surgery.inspect(out).attention_free == {3: "identity"}
    card = (out / "README.md").read_text()
    assert "All attention is in place" not in card
    assert "Attention that earlier edits replaced (below) stays replaced" in card
    facts = dict(list_facts(summarize_edit(read(out))))
    assert facts["edited"].startswith("this edit cut no attention, in any of 4 blocks")
    compact = ("--drop-attn", "3", "--layout", "compact", "--output", tmp_path / "compact")
    assert attn_surgery("export", work / "neox", *compact).code == 0
    refused = attn_surgery("erase", tmp_path / "compact", "--drop-attn", "0", *given)
    refused.assert_error("compact layout cannot be erased", "erase the original, then cut")


@pytest.mark.parametrize(
    ("recited", "kept", "told"),
    [
        ((2, 2), 0.99, ["the model recites 2 of the 24 passages that it was trained on, and the "
                        "cut that taught it 2"]),
        ((3, 2), None, ["warning: erase: the model recites 3 of the 24 passages that it was "
                        "trained on, and the cut that taught it 2: train it for more steps"]),
        ((0, 0), 0.5, ["warning: erase: the model's dtype keeps 50% of what was learned",
                       "the model recites 0 of"]),
        (None, 1.0, []),
    ],
)  # fmt: skip
def test_what_training_left_is_said(
    work: Path, recited: tuple[int, int] | None, kept: float | None, told: list[str]
) -> None:
    """Next to what its teacher recites. Text alone has nothing to recite."""
    record = read(work / "erased").edit.erasing
    assert record is not None
    recital = recited and Recital(passages=24, recited=recited[0], by_teacher=recited[1])
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "say", said.append)
        jobs.say_what_is_recited(
            "erase", record.model_copy(update={"recital": recital, "kept": kept})
        )
    assert len(said) == len(told)
    for line, text in zip(said, told, strict=True):
        assert text in line


def test_what_it_recites_is_said_and_recorded(work: Path, tmp_path: Path) -> None:
    """Of adapters, which are merged, in weights as they are stored."""
    done = erase(work, tmp_path / "out", "--adapters", 4)
    record = read(tmp_path / "out").edit.erasing
    assert record is not None
    assert record.recital is not None
    assert (record.rank, record.recital.passages) == (4, ROWS)
    left = f"erase: the model recites {record.recital.recited} of the {ROWS} passages that it was"
    assert left in done.stderr
    assert record.recital.recited == count_recited(work, tmp_path / "out")
    assert record.looks[-1].step == record.steps
    assert record.kept is not None
    assert record.kept > 0.9
    repeated = attn_surgery("inspect", tmp_path / "out").stdout
    assert "--adapters 4" in (tmp_path / "out" / "README.md").read_text(), repeated


def test_options_of_training_need_a_training(work: Path, tmp_path: Path) -> None:
    given = ("export", work / "neox", "--drop-attn", "1", "--output", tmp_path / "out")
    refused = attn_surgery(*given, "--adapters", 8)
    assert (refused.code, refused.stdout) == (2, "")
    assert "--adapters needs --heal or --erase" in refused.stderr
    both = erase(work, tmp_path / "out", "--device", "cpu", "--device-map", "auto")
    assert both.code == 2
    assert "--device and --device-map exclude each other" in both.stderr
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    shallow = erase(work, out, spec="3.0")
    shallow.assert_error("the teacher recites the passages itself", "cut more blocks")
    (tmp_path / "few.txt").write_text("a few words")
    erase(work, out, "--text", tmp_path / "few.txt", "--steps", 9000).assert_error("too little")
    rows = [{"id": "long", "tokens": np.random.default_rng(0).integers(1, 400, 80).tolist()}]
    long = write_rows(tmp_path / "long.jsonl", rows)
    given = ("--samples", long, "--prefix-length", 40, "--suffix-length", 40)
    erase(work, out, *given).assert_error("longer than the model's context", "at most 64 tokens")
    ids = tiny_tokenizer()((work / "text.txt").read_text())["input_ids"]
    held = write_rows(tmp_path / "held.jsonl", [{"id": "held", "tokens": ids[8:24]}])
    told = erase(work, out, "--samples", held)
    told.assert_error("1 of 1 passages share 15 tokens in a row", "would teach them again")
    erase(work, out, "--text", tmp_path / "no.txt").assert_error("no.txt: no such file or folder")
    settings = work / "neox" / "generation_config.json"
    settings.write_text('{"top_k": 1, "top_k": 2}')
    erase(work, out).assert_error("generation_config.json", "not valid JSON")
    settings.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(planning, "measure_free_memory", lambda *_: 1)
        erase(work, out, "--adapters", 8).assert_error("do not fit into memory", "larger machine")
    with monkeypatch.context() as patch:
        nan = torch.tensor(float("nan"), requires_grad=True)
        patch.setattr(distillation, "_measure_lesson", lambda *given: nan)
        erase(work, out).assert_error("the loss is not finite while training")
    erase(work, work / "erased").assert_error("already exists", "--overwrite")
    for command in (("erase", work / "neox"), ("export", work / "neox", "--erase")):
        for missing, told_of in ((("--text", "t"), "samples"), (("--samples", "s"), "text")):
            usage = attn_surgery(*command, "--drop-attn", "0", *missing)
            assert (usage.code, f"--{told_of}" in usage.stderr) == (2, True), usage
    unused = attn_surgery("export", work / "neox", "--drop-attn", "0", "--text", "t")
    assert (unused.code, "--text needs --erase" in unused.stderr) == (2, True), unused
    assert not list(tmp_path.glob("*out*"))


def test_only_what_was_only_erased_is_cut_as_erased(work: Path, tmp_path: Path) -> None:
    """A model that nothing was done to, and one that was cut, are other models."""
    assert open_trained(work / "erased").record == read(work / "erased").edit.erasing
    cut = surgery.export(work / "erased", "2", variant="zero", output=tmp_path / "cut").output
    for folder in (work / "neox", cut):
        with pytest.raises(ManifestError, match="is not a model that was only erased"):
            open_trained(folder)


def test_a_model_that_has_no_blocks_left_to_cut_has_no_teacher(work: Path, tmp_path: Path) -> None:
    cut = surgery.export(work / "neox", "0-3", variant="zero", output=tmp_path / "cut").output
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    done = attn_surgery("erase", cut, *given, "--steps", 2, "--output", tmp_path / "out")
    done.assert_error(
        "cut: no run of blocks can be cut, so none can teach; name the teacher's blocks or heads",
        notes=["cut: float16 weights are measured in float32"],
    )
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_record_can_hold_is_shortened(work: Path, tmp_path: Path) -> None:
    """After the training, which must not be lost for it."""
    rows = tmp_path / f"{'a' * 120}\t{'b' * 100}.jsonl"
    shutil.copy(work / "samples.jsonl", rows)
    done = erase(work, tmp_path / "out", "--samples", rows)
    assert done.code == 0, done
    erasing = read(tmp_path / "out").edit.erasing
    assert erasing is not None
    assert erasing.passages.name == f"{'a' * 120} {'b' * 79}"


def test_an_interruption_leaves_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erasing, "teach", stop)
    assert erase(work, tmp_path / "out").code == 130
    assert list(tmp_path.iterdir()) == []
