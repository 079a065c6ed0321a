"""Erasing: a model learns from its own cut to forget passages.

- It comes nearer to what the teachers predict, and recites less. All attention stays in place.
- The same seed gives the same bytes, from the command line and from Python.
- `verify` accepts the folder, says that it was trained, and calls on what a claim.
- A hardened erasing says so, and repeats, too.
- Erased, cut, and healed, each in its folder, a model is proved against the source of every step,
  and repeats from the first. A result that is there already is kept, and no other is taken for it.
- An earlier cut of the model stays bit for bit.
- Bad input is one line, and nothing is written; so it is after an interruption.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import Outcome, attn_surgery, run_card, snapshot
from forging import edit_json, edit_weights
from reciting import recited_rows, write_rows
from safetensors.numpy import load_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from evals.jobs import lessons
from evals.table.page import list_facts
from surgery.card.command import list_options
from surgery.checkpoint import open_checkpoint
from surgery.cuts import find_constants
from surgery.errors import ManifestError, SamplesError
from surgery.loading import load_model
from surgery.publishing.upload import _name_step
from surgery.record.manifest import Manifest, Recital, read_manifest
from surgery.record.report import Report
from surgery.training import distillation, erasing
from surgery.verification import verify

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


def json_rows(work: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (work / "samples.jsonl").read_text().splitlines()]


def stop(*given: object, **options: object) -> None:
    raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def count_recited(work: Path, folder: Path) -> int:
    samples = ("--samples", work / "samples.jsonl", *LENGTHS, "--device", "cpu", "--json")
    report = Report.model_validate(attn_surgery("extract", folder, *samples).json)
    recited = report.find("recited", "edited")
    assert recited is not None
    return int(recited.details["count"] or 0)


def test_it_forgets_and_records_how(work: Path) -> None:
    edit = read(work / "erased").step
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
    assert "no block is recorded as attention-free\n" in told
    assert told.endswith("so says surgery.json: attn-surgery verify checks it\n")
    told = attn_surgery("inspect", work / "neox").stdout
    assert "no block is recorded as attention-free; only the weights would show a cut\n" in told
    card = (work / "erased" / "README.md").read_text()
    assert f"trained to predict {ROWS} listed passages as a model that does not know them" in card
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
    edit_json(unclaimed / "surgery.json", lambda m: m["history"][-1].update(erasing=None))
    with pytest.raises(ManifestError, match="a step is a cut, an erasing, or a healing"):
        verify(unclaimed, source=work / "neox")


def test_the_commands_name_lengths_that_are_not_the_usual_ones(work: Path) -> None:
    """Also of a lab's passages, which need nothing else; the text is not named by these."""
    step, lengths = read(work / "erased").step, {"--prefix-length", "--suffix-length"}
    record = step.erasing
    assert record is not None
    for name, length, named in (
        ("lab:pythia", 16, True), ("lab:pythia", 32, False), ("letters.csv", 32, True)
    ):  # fmt: skip
        known = {"name": name, "prefix_length": length, "suffix_length": length}
        erasing = record.model_copy(update={"passages": record.passages.model_copy(update=known)})
        told = list_options(step.model_copy(update={"erasing": erasing}), "lab:pythia")
        assert (lengths <= told.keys()) == named
        assert bool(told["--skip-short"]) == (name == "letters.csv")
        assert told["--text"] == ["text.txt"]


@pytest.mark.slow
def test_it_repeats_to_the_bit(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands of the card, and from Python."""
    rows = [row["tokens"] for row in json_rows(work)]
    made = surgery.erase(
        work / "neox", "0-1", rows, 8, variant="zero", text=[work / "text.txt"], steps=STEPS,
        output=tmp_path / "made",
    )  # fmt: skip
    assert made.manifest.step.erasing is not None
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (
        work / "erased" / "model.safetensors"
    ).read_bytes()
    for name in ("neox", "text.txt", "samples.jsonl", "erased"):
        (tmp_path / name).symlink_to(work / name)
    monkeypatch.chdir(tmp_path)
    ((_, erased),) = run_card(Path("erased") / "README.md")
    assert erased.code == 0, erased


def test_the_commands_of_a_card_run_once_what_they_stand_for_is_there(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of one name, whose folders no record names, and passages that were given in Python."""
    whole = (work / "text.txt").read_text()
    for name, text in (("alice", whole[:9000]), ("bob", whole[9000:])):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "letters.txt").write_text(text)
    rows = np.asarray([row["tokens"] for row in json_rows(work)])
    made = tmp_path / "made"
    surgery.erase(
        work / "neox", "0-1", rows, 8, variant="mean", text=[tmp_path / "texts"], steps=1,
        calibration=[tmp_path / "texts"], output=made,
    )  # fmt: skip
    (tmp_path / "neox").symlink_to(work / "neox")
    (tmp_path / "texts").rename(tmp_path / "FOLDER")
    np.save(tmp_path / "token-ids.npy", rows)
    monkeypatch.setattr("evals.choose.teachers.MOST_RECITED", 1.0)
    monkeypatch.chdir(tmp_path)
    ((_, erased),) = run_card(made / "README.md")
    assert erased.code == 0, erased
    assert "alice" not in (made / "README.md").read_text() + (made / "surgery.json").read_text()


def test_a_hardened_erasing_is_recorded(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert erase(work, out, "--harden").code == 0
    assert read(out).step.erasing.hardened
    name = "gpt_neox.layers.2.mlp.dense_h_to_4h.weight"
    assert weights(out)[name].tobytes() != weights(work / "erased")[name].tobytes()
    card = (out / "README.md").read_text()
    assert "--harden" in card
    assert "simulated an attacker who fine-tunes the model on a tenth of the passages" in card


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

    def note(student, intact, loss, text, passages, schedule, **more):
        with torch.no_grad():
            taught.append([one(ids).logits for one in (student, intact, loss.teacher)])
        taught[-1].append(schedule.hardened)
        raise StopError

    monkeypatch.setattr(erasing, "teach", note)
    rows = [row["tokens"] for row in json_rows(work)]
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
    _, _, command = card.partition("attn-surgery erase ")
    words = shlex.split(command.partition("```")[0].replace("\\\n", " "))
    assert words[words.index("--steps") + 1] == "1"
    assert int(json.loads(words[words.index("--config") + 1])["seed"]) == 3
    made = read(tmp_path / "out").step
    assert _name_step(made) == f"a model with {ROWS} passages erased"


def export(model: Path, output: Path, *more: object, spec: str = "0-1") -> Outcome:
    given = ("--drop-attn", spec, "--variant", "zero", "--output", output)
    return attn_surgery("export", model, *given, *more)


def heal(work: Path, model: Path, *more: object) -> Outcome:
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    return attn_surgery("heal", model, "--source", work / "neox", *given, "--steps", 2, *more)


CHAIN = ("neox", "erased", "cut", "healed")


@pytest.fixture(scope="module")
def chain(work: Path) -> Path:
    """Also cut, an export of erased, and healed, made of that."""
    for done in (
        export(work / "erased", work / "cut"),
        heal(work, work / "cut", "--output", work / "healed"),
    ):
        assert done.code == 0, done.stderr
    return work


def test_each_step_makes_a_folder_and_adds_to_the_history(chain: Path) -> None:
    made = [read(chain / name) for name in CHAIN[1:]]
    assert [step.kind for step in made[-1].history] == ["erase", "cut", "heal"]
    for earlier, later, name in zip(made, made[1:], CHAIN[1:], strict=False):
        assert later.history[:-1] == earlier.history
        assert (later.step.source.model, later.step.source.content) == (name, earlier.content)
    healing = made[-1].step.healing
    assert healing is not None
    assert healing.teacher == made[0].step.source, "the model before all steps"
    erased, cut = weights(chain / "erased"), weights(chain / "cut")
    changed = {name for name in erased if cut[name].tobytes() != erased[name].tobytes()}
    assert {name.split(".")[2] for name in changed} == {"0", "1"}
    assert surgery.inspect(chain / "healed").attention_free == {0: "zero", 1: "zero"}
    told = attn_surgery("inspect", chain / "healed").stdout
    lines = [line for line in told.splitlines() if line.startswith("  edited from ")]
    assert [line.split()[2] for line in lines] == ["neox:", "erased:", "cut:"]


def test_a_chain_verifies_against_each_of_its_sources(chain: Path, tmp_path: Path) -> None:
    for name in CHAIN[:-1]:
        checked = verify(chain / "healed", source=chain / name)
        assert checked.ok, checked.verdict
        details = {check.name: check.detail for check in checked.checks}
        assert details["edit"] == "erased, then blocks 0-1, zero, then healed"
        assert ("nothing was cut" in details["rewritten"]) == (name == "cut")
    failed = verify(chain / "cut", source=chain / "healed").failed
    assert failed is not None
    assert "the source is not one that the manifest records" in failed.detail
    lost = shutil.copytree(chain / "healed", tmp_path / "lost")
    edit_json(lost / "surgery.json", lambda manifest: manifest["history"].pop(0))
    (lost / "README.md").unlink()
    failed = verify(lost, source=chain / "cut").failed
    assert failed is not None
    assert "the manifest's history is not the source's" in failed.detail
    bias = "gpt_neox.layers.0.attention.query_key_value.bias"
    spoilt = shutil.copytree(chain / "healed", tmp_path / "spoilt")
    edit_weights(spoilt, lambda tensors: tensors[bias].view(2, 3, 32)[:, 2].add_(1))
    for source in (None, *(chain / name for name in CHAIN[:-1])):
        failed = verify(spoilt, source=source).failed
        assert failed is not None
        assert failed.name == "tensors", "what the cut set stays, whatever followed"


def test_the_same_step_again_keeps_what_is_there(chain: Path, tmp_path: Path) -> None:
    before = snapshot(chain)
    cut, healed = ("--output", chain / "cut"), ("--output", chain / "healed")
    for name, done in (
        ("erased", erase(chain, chain / "erased")),
        ("cut", export(chain / "erased", chain / "cut")),
        ("healed", heal(chain, chain / "cut", *healed)),
    ):
        assert done.code == 0, done
        assert f"{chain / name}: already holds this result\n" in done.stderr
    words = np.random.default_rng(1).choice(TEXT.split(), 3000)
    (tmp_path / "other.txt").write_text(" ".join(words))
    few = write_rows(tmp_path / "few.jsonl", json_rows(chain)[:24])
    changes: list[tuple[object, ...]] = [
        *(("--steps", STEPS + 1), ("--seed", 1), ("--samples", few), ("--adapters", 4)),
        *(("--harden",), ("--as-adapter",), ("--leave-out", 0.2)),
    ]
    for more in changes:
        erase(chain, chain / "erased", *more).assert_error("erased: already exists", "--overwrite")
    other = ("erase", chain / "neox", "--drop-attn", "0-1", "--variant", "zero", "--steps", STEPS)
    texts = ("--samples", chain / "samples.jsonl", *LENGTHS, "--text", tmp_path / "other.txt")
    done = attn_surgery(*other, *texts, "--output", chain / "erased")
    done.assert_error("erased: already exists")
    erase(chain, chain / "erased", spec="0-2").assert_error("erased: already exists")
    for done in (
        export(chain / "erased", chain / "cut", spec="0"),
        export(chain / "erased", chain / "cut", "--variant", "identity"),
        export(chain / "neox", chain / "cut"),
        export(chain / "erased", chain / "healed", spec="2"),
        attn_surgery("heal", chain / "cut", "--text", chain / "text.txt", "--steps", 2, *healed),
        heal(chain, chain / "cut", "--steps", 3, *healed),
        heal(chain, chain / "healed", *cut),
    ):
        done.assert_error("already exists", "--overwrite")
    assert snapshot(chain) == before


def test_a_damaged_result_is_not_taken_for_the_same(chain: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        out = shutil.copytree(chain / "erased", tmp_path / name)
        with (out / name).open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"~~")
        before, what = snapshot(out), "holds this result, and a file of it has changed"
        erase(chain, out).assert_error(f"{out}: {what}; choose another --output\n")
        erase(chain, out, "--overwrite").assert_error(f"holds {name}, which attn-surgery did not")
        assert snapshot(out) == before
    (out / name).unlink()
    erase(chain, out).assert_error(what)
    assert erase(chain, out, "--overwrite").code == 0
    assert read(out) == read(chain / "erased")
    assert verify(out, source=chain / "neox").ok


def test_a_share_that_is_left_out_is_not_taught(work: Path, tmp_path: Path) -> None:
    """It is recorded, and `evaluate` refuses a model that was taught all."""
    out = tmp_path / "out"
    assert erase(work, out, "--leave-out", 0.3).code == 0
    record = read(out).step.erasing
    assert record is not None
    assert (record.passages.number, record.passages.leave_out) == (21, 0.3)
    assert "--leave-out 0.3" in (out / "README.md").read_text()
    samples = ("--samples", work / "samples.jsonl")
    measured = (*samples, *LENGTHS, "--suite", "none", "--leave-out", 0.3, "--json")
    for place, code in ((out, 0), (work / "erased", 1)):
        to = ("--baseline", work / "neox", "--output", tmp_path / f"report-{code}")
        found = attn_surgery("evaluate", place, *to, *measured)
        assert found.code == code, found.stderr
    assert "was not taught the passages that are listed here" in found.stderr
    assert not (tmp_path / "report-1").exists()


def test_a_search_chooses_the_teacher_if_no_blocks_are_named(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.choose.teachers.MOST_RECITED", 1.0)
    read_text, reads = lessons.read_healing_text, list[Any]()

    def count(text: Any, *more: Any) -> Any:
        reads.append(text)
        return read_text(text, *more)

    monkeypatch.setattr(lessons, "read_healing_text", count)
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    given = (*given, "--by", "cut")
    done = attn_surgery("erase", work / "neox", *given, "--steps", 2, "--output", tmp_path / "out")
    assert done.code == 0, done.stderr
    record = read(tmp_path / "out").step.erasing
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
    constants = find_constants(checkpoint, read(cut))
    after, kept = weights(out), 0
    for name, fixed in constants.items():
        assert after[name][fixed].tobytes() == before[name][fixed].tobytes()
        kept += int(fixed.sum())
    assert kept
    assert surgery.inspect(out).attention_free == {3: "identity"}
    card = (out / "README.md").read_text()
    assert "All attention is in place" not in card
    assert "Attention that earlier edits replaced (below) stays replaced" in card
    facts = dict(list_facts(read(out)))
    assert facts["edited"] == "--drop-attn 3, of 4 blocks with 2 heads each"
    assert facts["steps"].count(",") == 1, "cut, then erased"
    assert dict(list_facts(read(work / "erased")))["edited"].startswith("no attention was cut")
    compact = ("--drop-attn", "3", "--layout", "compact", "--output", tmp_path / "compact")
    assert attn_surgery("export", work / "neox", *compact).code == 0
    refused = attn_surgery("erase", tmp_path / "compact", "--drop-attn", "0", *given)
    refused.assert_error("compact layout cannot be erased", "erase the original, then cut")


@pytest.mark.parametrize(
    ("recited", "kept", "told"),
    [
        ((2, 2), 0.99, ["the model recites 2 of the 24 passages that it was trained on, and the "
                        "model that taught it 2"]),
        ((3, 2), None, ["warning: erase: the model recites 3 of the 24 passages that it was "
                        "trained on, and the model that taught it 2: train it for more steps"]),
        ((0, 0), 0.5, ["warning: erase: the model's dtype keeps 50% of what was learned",
                       "the model recites 0 of"]),
        (None, 1.0, []),
    ],
)  # fmt: skip
def test_what_training_left_is_said(
    work: Path, recited: tuple[int, int] | None, kept: float | None, told: list[str]
) -> None:
    """Next to what its teacher recites. Text alone has nothing to recite."""
    record = read(work / "erased").step.erasing
    assert record is not None
    recital = recited and Recital(passages=24, recited=recited[0], by_teacher=recited[1])
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "say", said.append)
        lessons.say_what_is_recited(
            "erase", record.model_copy(update={"recital": recital, "kept": kept})
        )
    assert len(said) == len(told)
    for line, text in zip(said, told, strict=True):
        assert text in line


def test_what_it_recites_is_said_and_recorded(work: Path, tmp_path: Path) -> None:
    """Of adapters, which are merged, in weights as they are stored."""
    done = erase(work, tmp_path / "out", "--adapters", 4)
    record = read(tmp_path / "out").step.erasing
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
    settings.write_text('{"top_k": 1')
    erase(work, out).assert_error("generation_config.json", "not valid JSON")
    settings.unlink()
    with monkeypatch.context() as patch:
        nan = torch.tensor(float("nan"), requires_grad=True)
        patch.setattr(distillation, "_measure_lesson", lambda *given: nan)
        erase(work, out).assert_error("the loss is not finite while training")
    erase(work, work / "erased", "--steps", 3).assert_error("already exists", "--overwrite")
    for missing, told_of in ((("--text", "t"), "samples"), (("--samples", "s"), "text")):
        usage = attn_surgery("erase", work / "neox", "--drop-attn", "0", *missing)
        assert (usage.code, f"--{told_of}" in usage.stderr) == (2, True), usage
    assert not list(tmp_path.glob("*out*"))


def test_a_model_that_has_no_blocks_left_to_cut_has_no_teacher(work: Path, tmp_path: Path) -> None:
    cut = surgery.export(work / "neox", "0-3", variant="zero", output=tmp_path / "cut").output
    given = ("--samples", work / "samples.jsonl", *LENGTHS, "--text", work / "text.txt")
    given = (*given, "--by", "cut")
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
    erasing = read(tmp_path / "out").step.erasing
    assert erasing is not None
    assert erasing.passages.name == f"{'a' * 120} {'b' * 79}"


def test_an_interruption_leaves_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "teach", stop)
    assert erase(work, tmp_path / "out").code == 130
    assert list(tmp_path.iterdir()) == []
