"""Healing: training a cut to predict what its source predicts on other text.

- It comes nearer to the source there. With passages, it keeps its own predictions on these. What
  the edit set, whatever the source held, stays bit for bit, in either layout and every family;
  buffers and other files do, too.
- The same seed gives the same bytes.
- `verify` accepts a healed folder, says that it was trained, and refuses changed constants.
- Audits of a healed model try fine-tuning.
- Text that holds passages, too little text, and no text are one line, and nothing is written.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import attn_surgery, run_card
from forging import assert_refused, edit_json, edit_weights
from safetensors.numpy import load_file
from tiny_tokenizer import TEXT, tiny_tokenizer

from evals.data.inputs import open_passages
from evals.jobs.asking import MeasureRequest
from evals.jobs.exporting import ExportRequest, open_export
from evals.jobs.healing import HealRequest, open_heal
from evals.jobs.materials import Materials
from evals.jobs.measurement import open_measurement
from evals.measure.attacks.names import TRAINED
from evals.measure.healing import find_healing_text
from evals.run import models
from surgery import loading
from surgery.checkpoint import open_checkpoint
from surgery.cuts import find_constants
from surgery.errors import CheckpointError, SamplesError, UnsupportedError
from surgery.fitting import fitter
from surgery.hub.finding import find_model
from surgery.loading import load_model, load_tokenizer
from surgery.record.manifest import PassagesRecord, read_manifest
from surgery.record.report import Report
from surgery.training import distillation, training
from surgery.training.student import make_student
from surgery.training.weights import take_weights
from surgery.verification import verify

pytestmark = pytest.mark.usefixtures("blank_pictures")
STEPS = ("--steps", 6)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models neox and neo with masks of older libraries; text.txt, to heal on; heldout.txt and
    samples.jsonl, to measure on; cut, an export of neox; healed, made of it."""
    folder = tmp_path_factory.mktemp("work")
    size: dict[str, Any] = {"vocab_size": 400, "max_position_embeddings": 64}
    size["torch_dtype"] = "float16"
    for name, config in (("neox", neox_config), ("neo", neo_config)):
        write_checkpoint(folder / name, config(**size))
        tiny_tokenizer().save_pretrained(folder / name)
    words = np.random.default_rng(0).choice(TEXT.split(), 4000)
    (folder / "text.txt").write_text(" ".join(words))
    (folder / "heldout.txt").write_text(" ".join(TEXT.split()[::-1] * 8))
    rows = np.random.default_rng(2).integers(1, 400, (12, 16)).tolist()
    lines = [json.dumps({"id": str(n), "tokens": row}) for n, row in enumerate(rows)]
    (folder / "samples.jsonl").write_text("\n".join(lines))
    for done in (
        export(folder, "neox", "1,2.0", folder / "cut"),
        heal(folder, folder / "healed"),
    ):
        assert done.code == 0, done.stderr
    return folder


def export(work: Path, model: str, spec: str, output: Path, *more: object) -> Any:
    return attn_surgery("export", work / model, "--drop-attn", spec, "--output", output, *more)


def heal(
    work: Path, output: Path, *more: object, cut: Path | None = None, source: str = "neox"
) -> Any:
    given = (cut or work / "cut", "--source", work / source, "--text", work / "text.txt")
    return attn_surgery("heal", *given, *STEPS, "--output", output, *more)


def test_fitting_and_healing_run_on_the_device_asked_for(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the first GPU, which others may use or which may be too small."""

    def choose() -> torch.device:
        raise AssertionError("a device was asked for")

    for module in (fitter, loading, models):
        monkeypatch.setattr(module, "choose_device", choose)
    text = (str(work / "text.txt"),)
    cut = ExportRequest.of(
        model=str(work / "neox"), drop_attn="1", variant="linear", calibration=text, device="cpu",
        output=tmp_path / "cut",
    )  # fmt: skip
    open_export(cut).run()
    request = HealRequest.of(
        model=str(tmp_path / "cut"), source=str(work / "neox"), text=text, steps=1, device="cpu",
        output=tmp_path / "out",
    )  # fmt: skip
    made = open_heal(request).run()
    assert made.manifest.healings[0].device == "cpu"


def test_it_learns_the_text_and_records_how(work: Path) -> None:
    manifest = read_manifest(work / "healed")
    assert manifest is not None
    healing = manifest.step.healing
    assert healing is not None
    assert len(healing.losses) == healing.steps == 6
    assert np.mean(healing.losses[-2:]) < 0.9 * healing.losses[0]
    assert healing.loss == "kl"
    assert healing.teacher == manifest.history[0].source, "the model before the cut"
    assert [step.kind for step in manifest.history] == ["cut", "heal"]
    assert [source.name for source in healing.sources] == ["text.txt"]
    assert healing.passages is None
    card = (work / "healed" / "README.md").read_text()
    assert "The model was also healed" in card
    assert "attn-surgery heal cut \\\n        --text text.txt --steps 6" in card
    assert "not trained" not in card
    assert [path.name for path in work.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("model", "spec", "variant", "layout"),
    [
        ("neox", "1,2.0", "identity", "stock"),
        ("neox", "1", "identity", "compact"),
        ("neo", "1,2.0", "zero", "stock"),
        pytest.param("neox", "1", "mean", "stock", marks=pytest.mark.slow),
        pytest.param("neox", "1,2.0", "zero", "stock", marks=pytest.mark.slow),
        pytest.param("neo", "1", "mean", "stock", marks=pytest.mark.slow),
    ],
)
def test_constants_stay_bit_for_bit(
    work: Path, tmp_path: Path, model: str, spec: str, variant: str, layout: str
) -> None:
    fitted = ("--calibration", work / "text.txt") if variant == "mean" else ()
    options = ("--variant", variant, "--layout", layout, *fitted)
    assert export(work, model, spec, tmp_path / "cut", *options).code == 0
    assert heal(work, tmp_path / "healed", cut=tmp_path / "cut", source=model).code == 0
    cut, healed = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "healed"))
    result, manifest = open_checkpoint(tmp_path / "cut"), read_manifest(tmp_path / "cut")
    assert manifest is not None
    constants = find_constants(result, manifest)
    assert any(fixed.any() for fixed in constants.values()) == (layout == "stock")
    changed = 0
    for name, before in cut.items():
        after, fixed = healed[name], constants.get(name, np.zeros(before.shape, np.bool_))
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert after[fixed].tobytes() == before[fixed].tobytes()
        changed += name.endswith("weight") and not np.array_equal(after, before)
        if name.endswith(("attention.bias", "masked_bias", "inv_freq")):
            assert after.tobytes() == before.tobytes()
    assert changed > 5
    for source in (work / model, tmp_path / "cut"):
        checked = verify(tmp_path / "healed", source=source)
        assert checked.ok, checked.verdict


def measure_distance(work: Path, edited: Path) -> float:
    """KL(source || edited) on the text to heal on, in nats per token."""
    tokens = load_tokenizer(work / "neox")((work / "text.txt").read_text(), return_tensors="pt")
    ids = tokens["input_ids"][:, : 32 * 64].view(32, 64)
    with torch.inference_mode():
        source, other = (
            load_model(place, dtype=torch.float32)(ids).logits.log_softmax(-1).flatten(0, 1)
            for place in (work / "neox", edited)
        )
    return float(torch.nn.functional.kl_div(other, source, log_target=True, reduction="batchmean"))


def test_verify_says_what_was_trained(work: Path) -> None:
    checked = verify(work / "healed", source=work / "neox")
    assert checked.ok
    details = {check.name: check.detail for check in checked.checks}
    assert details["untouched"].endswith(" trained: only names, types, and shapes are the source's")
    assert "the rest is trained" in details["rewritten"]
    assert "healing" in checked.verdict
    assert not any(claim.name == "healing" for claim in verify(work / "cut").claims)


def test_only_tensors_that_differ_are_counted_as_trained(work: Path, tmp_path: Path) -> None:
    """A record of healing proves no training, so the cause is called a claim."""
    forged = shutil.copytree(work / "cut", tmp_path / "forged")
    (forged / "README.md").unlink()
    step = json.loads((work / "healed" / "surgery.json").read_text())["history"][-1]
    edit_json(forged / "surgery.json", lambda manifest: manifest["history"].append(step))
    edit_weights(forged, lambda t: t["gpt_neox.layers.0.mlp.dense_4h_to_h.weight"].zero_())
    checked = verify(forged, source=work / "neox")
    details = {check.name: check.detail for check in checked.checks}
    before, after = (open_checkpoint(folder) for folder in (work / "neox", work / "cut"))
    equal = sum(before.read(n).tobytes() == after.read(n).tobytes() for n in before.tensors) - 1
    assert details["untouched"] == (
        f"{equal} tensors byte-equal to the source; 1 trained: only names, types, and shapes are "
        "the source's"
    )
    assert "healing" in [claim.name for claim in checked.claims]


def test_healing_excuses_no_change_of_a_constant(work: Path, tmp_path: Path) -> None:
    name = "gpt_neox.layers.1.attention.query_key_value.bias"

    def turn(tensors: dict[str, Any]) -> None:
        tensors[name][0] += 1

    forged = shutil.copytree(work / "healed", tmp_path / "forged")
    edit_weights(forged, turn)
    assert_refused(forged, "tensors", f"{name!r} is not what identity makes", work / "neox")


@pytest.mark.parametrize("what", ["a buffer", "no record of healing"])
def test_what_healing_does_not_excuse(work: Path, tmp_path: Path, what: str) -> None:
    forged = shutil.copytree(work / "healed", tmp_path / "forged")
    if what == "a buffer":
        name = "gpt_neox.layers.0.attention.masked_bias"
        edit_weights(forged, lambda tensors: tensors[name].zero_())
    else:
        edit_json(forged / "surgery.json", lambda manifest: manifest["history"].pop())
    checked = verify(forged, source=work / "neox")
    assert checked.failed is not None
    assert checked.failed.name == "untouched"


def test_text_with_passages_is_refused(work: Path, tmp_path: Path) -> None:
    ids = tiny_tokenizer()((work / "text.txt").read_text())["input_ids"]
    other = np.random.default_rng(1).integers(0, 400, (2, 24)).tolist()
    rows = [ids[64 * at + 8 : 64 * at + 32] for at in range(3)] + other
    lines = [json.dumps({"id": f"row-{n}", "tokens": row}) for n, row in enumerate(rows)]
    samples = tmp_path / "samples.jsonl"
    lengths = ("--prefix-length", 12, "--suffix-length", 12)
    samples.write_text("\n".join(lines))
    done = heal(work, tmp_path / "out", "--samples", samples, *lengths)
    done.assert_error("text.txt: 3 of 5 passages share 16 tokens in a row", "row-0")
    samples.write_text("\n".join([*lines[3:], '{"id": "short", "tokens": [1, 2]}']))
    assert not list(tmp_path.glob("*out*"))
    done = heal(work, tmp_path / "out", "--samples", samples, *lengths)
    done.assert_error("1 of 3 rows are too short", "--skip-short")
    done = heal(work, tmp_path / "out", "--samples", samples, *lengths, "--skip-short")
    assert done.code == 0, done.stderr
    assert "warning: 1 rows left out, the first 'short'" in done.stderr
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.step.healing is not None
    assert isinstance(manifest.step.healing.passages, PassagesRecord)
    assert manifest.step.healing.passages.number == 2


def test_a_guard_is_recorded(work: Path, tmp_path: Path) -> None:
    """The cut keeps its own predictions on the passages."""
    rows = np.random.default_rng(3).integers(1, 400, (30, 16)).tolist()
    for name, some in (("samples", rows[:24]), ("other", rows[6:])):
        lines = [json.dumps({"id": str(n), "tokens": row}) for n, row in enumerate(some)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    lengths = ("--prefix-length", 8, "--suffix-length", 8)
    guard = ("--samples", tmp_path / "samples.jsonl", *lengths)
    assert heal(work, tmp_path / "healed", *guard).code == 0
    healing = read_manifest(tmp_path / "healed").step.healing  # type: ignore[union-attr]
    assert healing is not None
    assert isinstance(healing.passages, PassagesRecord)
    found = healing.passages
    given = found.name, found.number, found.prefix_length, found.suffix_length, found.rows
    assert given == ("samples.jsonl", 24, 8, 8, 24)
    weights = (
        load_file(one / "model.safetensors") for one in (work, tmp_path) for one in [one / "healed"]
    )
    assert len({arrays["gpt_neox.embed_in.weight"].tobytes() for arrays in weights}) == 2


def test_errors_are_one_line(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    missing = heal(work, out, "--text", work / "no.txt")
    missing.assert_error("no.txt: no such file or folder")
    short = heal(work, out, "--steps", 800)
    short.assert_error(
        "too little text", "expected at least", "; give more text, or train for fewer"
    )
    steps = int(short.stderr.rpartition("this is enough for ")[2])
    tokens, model = find_healing_text([str(work / "text.txt")]), find_model(work / "neox")
    for asked in (steps, steps + 1):
        given = (tokens, load_tokenizer(model.folder), model.dimensions)
        with (
            nullcontext()
            if asked == steps
            else pytest.raises(SamplesError, match=f"enough for {steps}$")
        ):
            training.Schedule(asked).tokenize(*given)
    (tmp_path / "few.txt").write_text("a few words")
    given = ("--source", work / "neox", "--output", out)
    few = attn_surgery("heal", work / "cut", *given, "--text", tmp_path / "few.txt")
    few.assert_error("got fewer than 64); give more text")
    none = attn_surgery("heal", work / "cut", *given)
    none.assert_error("cut: needs text to train on; name it with --text")
    uncut = heal(work, out, cut=work / "neox")
    uncut.assert_error("neox: has no surgery.json, so nothing in it was cut; heal what")
    other = heal(work, out, source="neo")
    other.assert_error("neo: is not the model that was edited (expected neox with content ")
    shutil.copytree(work / "cut", tmp_path / "away")
    away = attn_surgery("heal", tmp_path / "away", "--output", out, "--text", work / "text.txt")
    away.assert_error("was made from a folder, neox, which is not here", "as --source")
    heal(work, work / "healed", "--steps", 5).assert_error("already exists", "--overwrite")
    assert not out.exists()


def test_a_loss_that_is_not_finite(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the training at once."""
    losses: list[torch.Tensor] = []
    measure = distillation._measure_lesson

    def fail(*given: Any) -> torch.Tensor:
        losses.append((float("nan") if losses else 1.0) * measure(*given))
        return losses[-1]

    monkeypatch.setattr(distillation, "_measure_lesson", fail)
    done = heal(work, tmp_path / "out")
    done.assert_error("the loss is not finite", "step 2, at a learning rate", "got nan")
    assert len(losses) == 2, "of six steps"
    assert list(tmp_path.iterdir()) == []


def test_trained_weights_that_do_not_fit_their_type(work: Path) -> None:
    """float32 learns what float16 cannot hold: told by the tensor, before it is written."""
    checkpoint = open_checkpoint(work / "neox")
    model = load_model(work / "neox", dtype=torch.float32)
    name = "gpt_neox.final_layer_norm.bias"
    with torch.no_grad():
        dict(model.named_parameters())[name][3] = 1e5
    trained = take_weights(checkpoint, model)
    text = f"'{name}' is not finite in F16 after training; train on other text or for fewer steps"
    with pytest.raises(CheckpointError, match=re.escape(text)):
        trained.read(name)
    other = name.replace("bias", "weight")
    assert np.array_equal(trained.read(other), checkpoint.read(other))


def test_weights_that_are_offloaded_cannot_be_trained(work: Path) -> None:
    model = load_model(work / "neox")
    with torch.device("meta"):
        elsewhere = type(model)(model.config)
    with pytest.raises(UnsupportedError, match="training needs every weight in memory"):
        make_student(elsewhere)


def test_the_commands_of_a_healed_card_run_as_they_stand(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("neox", "healed"):
        shutil.copytree(work / name, tmp_path / name)
    shutil.copy(work / "text.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    (_, cut), (_, healed) = run_card(Path("healed") / "README.md")
    assert cut.code == healed.code == 0, healed
    first, second = map(read_manifest, (Path("healed"), Path("cut-healed")))
    assert first is not None
    assert second is not None
    assert first.files == second.files


def evaluate_healed(work: Path, *, model: str = "healed", **more: Any) -> Report:
    """The report of the healed model without benchmarks, from Python."""
    lengths = {"prefix_length": 8, "suffix_length": 8, "device": "cpu"}
    samples = work / "samples.jsonl"
    request = MeasureRequest.of(
        command="evaluate",
        models=(str(work / model),),
        baseline=str(work / "neox"),
        samples=str(samples),
        heldout=(work / "heldout.txt",),
        **lengths,
        **more,
    )
    materials = Materials(
        request,
        passages=open_passages(request.passages),
        heldout=[(work / "heldout.txt").read_text()],
    )
    base, edited = find_model(work / "neox"), [find_model(work / model)]
    return open_measurement(materials, base, edited).run().report


FACED = [*TRAINED]
"""Suffixes have 8 tokens here, of which 8 corrections would give any."""


def list_attacks(report: Report) -> list[object]:
    """The attacks that were tried."""
    return [one.details["attack"] for one in report.names.values() if "attack" in one.details]


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_an_audit_of_a_healed_model_always_tries_fine_tuning(work: Path) -> None:
    assert list_attacks(evaluate_healed(work, attack=("greedy",), draws=1)) == ["greedy", *FACED]


@pytest.mark.usefixtures("few_steps")
def test_an_edit_of_a_healed_model_is_healed_too(work: Path) -> None:
    """In its card, and for the attacks that it must face."""
    assert export(work, "healed", "3", work / "further").code == 0
    assert verify(work / "further", source=work / "healed").ok
    card = (work / "further" / "README.md").read_text()
    assert "The model was also healed" in card
    assert "Training needs the same text (`text.txt`)" in card
    report = evaluate_healed(work, model="further", attack=("greedy",), draws=1)
    assert list_attacks(report) == ["greedy", *FACED]
