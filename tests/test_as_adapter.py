"""`erase --as-adapter`: what was learned as a folder of peft's, beside weights that did not change.

- peft loads it on the base, which then gives what the student gave, to the bit. So it is of linear
  layers, of fused experts, and of the layers beside these.
- `verify` says what it is, and refuses what is damaged, forged, not finite, untrained, or of
  another model.
- It holds no path. `push` publishes it, its card says how to load it, and its commands repeat it.
- Commands that take a model say what it is. What cannot be an adapter is one line.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT, Outcome, attn_surgery, run_card, snapshot
from decoders import write_decoder
from forging import edit_json, seal
from hub_commands import TOKEN, error, session
from hub_uploads import UploadHub
from reciting import recited_rows, write_rows
from safetensors.torch import load_file, save_file
from tiny_tokenizer import TEXT, tiny_tokenizer
from transformers import AutoModelForCausalLM

import surgery
from surgery.card.text import compare_card, find_name, read_metadata, render_card
from surgery.editing.loading import load_model
from surgery.errors import ManifestError, OutputError, SourceError
from surgery.publishing.upload import find_publishable
from surgery.record.manifest import ErasingRecord, Manifest, read_manifest
from surgery.training import erasing, training
from surgery.training.losses import find_recited
from surgery.training.student import make_student

LENGTHS = ("--prefix-length", 8, "--suffix-length", 8)
ROWS, STEPS, RANK = 20, 8, 4
SIZE = {"vocab_size": 400, "max_position_embeddings": 32, "num_hidden_layers": 2}
KINDS = ("gpt_neox", "llama", "qwen3_moe")
DECODER = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
DECODER |= {"torch_dtype": "bfloat16", "mlp_only_layers": [1], "num_experts": 2}
WEIGHTS = "adapter_model.safetensors"


class Work:
    """A model that recites rows, and an adapter that was taught to forget them.

    `model`, `adapter`: their folders; `student`: the model with the adapter as training left it.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.model, self.adapter = folder, folder / "base", folder / "adapter"
        if kind == "gpt_neox":
            write_checkpoint(self.model, neox_config(**SIZE))
        else:
            write_decoder(self.model, kind, **DECODER, **SIZE)
        tiny_tokenizer().save_pretrained(self.model)
        loaded = load_model(self.model, dtype=torch.float32)
        self.rows = recited_rows(loaded, ROWS, 8, 8)
        write_rows(folder / "samples.jsonl", self.rows)
        words = np.random.default_rng(0).choice(TEXT.split(), 3000)
        (folder / "text.txt").write_text(" ".join(words))
        made, train = [], erasing.teach

        def keep(*given: Any, **options: Any) -> Any:
            made.append(train(*given, **options))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(erasing, "teach", keep)
            self.done = self.erase(self.adapter)
        assert self.done.code == 0, self.done.stderr
        self.student = made[0].student.model

    def erase(self, output: Path, *more: object) -> Outcome:
        given = ("--samples", self.folder / "samples.jsonl", *LENGTHS)
        cut = ("--drop-attn", "0", "--variant", "zero", "--steps", STEPS, "--output", output)
        made = ("--text", self.folder / "text.txt", "--as-adapter", "--adapters", RANK)
        return attn_surgery("erase", self.model, *given, *cut, *made, *more)

    @property
    def manifest(self) -> Manifest:
        manifest = read_manifest(self.adapter)
        assert manifest is not None
        return manifest

    @property
    def record(self) -> ErasingRecord:
        record = self.manifest.step.erasing
        assert record is not None
        return record


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Work]:
    made: dict[str, Work] = {}

    def find(kind: str) -> Work:
        if kind not in made:
            made[kind] = Work(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return find


@pytest.fixture
def work(works: Callable[[str], Work]) -> Work:
    return works("gpt_neox")


def load(base: Path, adapter: Path, dtype: Any = "auto") -> Any:
    """As anyone would."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what peft calls in transformers
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        return PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_anyone_loads_what_was_learned(works: Callable[[str], Work], kind: str) -> None:
    work = works(kind)
    assert sorted(path.name for path in work.adapter.iterdir()) == [
        *("README.md", "adapter_config.json", WEIGHTS, "surgery.json")
    ]
    loaded, before = load(work.model, work.adapter, work.student.dtype), load_model(work.model)
    ids = torch.tensor([row["tokens"] for row in work.rows])
    with torch.no_grad():
        expected, found = work.student(ids).logits, loaded(ids).logits
        assert torch.equal(found, expected)
        assert not torch.allclose(before(ids).logits.float(), found.float(), atol=0.1)
        stored = load(work.model, work.adapter)(ids).logits
    assert stored.dtype == before.dtype
    assert torch.allclose(stored.float(), expected.float(), atol=0.05), "in the stored dtype"
    record, rows = work.record, ids.numpy().astype(np.int32)
    assert (record.rank, record.kept, len(record.losses)) == (RANK, 1.0, STEPS)
    assert record.looks
    assert record.recital is not None
    assert record.recital.passages == ROWS
    assert record.recital.recited == int(find_recited(loaded, rows, 8, 24).sum()) < ROWS / 2
    assert f"{ROWS} passages taught in {STEPS} steps" in work.done.stdout
    assert "To measure a result here, erase without --as-adapter" in work.done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_it_stands_beside_every_layer_and_all_experts(
    works: Callable[[str], Work], kind: str
) -> None:
    work = works(kind)
    config = json.loads((work.adapter / "adapter_config.json").read_text())
    assert set(config) - {"target_parameters"} == {
        *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r"),
        *("lora_alpha", "target_modules"),
    }
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("base", 4, 8)
    model = load_model(work.model)
    head = model.get_output_embeddings()
    layers = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    fused = {name for name, weight in model.named_parameters() if weight.ndim == 3}
    named = {*config["target_modules"], *config.get("target_parameters", ())}
    assert {name.removesuffix(".weight") for name in named} == layers | fused
    assert bool(fused) == (kind == "qwen3_moe")
    tensors = load_file(work.adapter / WEIGHTS)
    assert len(tensors) == 2 * len(named)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    grown = [bool(one.any()) for name, one in tensors.items() if "lora_B" in name]
    assert all(grown), "each learned something"
    for path in work.adapter.iterdir():
        written = path.read_bytes()
        assert not [one for one in (work.folder, ROOT) if str(one).encode() in written], path


def test_no_adapter_is_idle(tmp_path: Path) -> None:
    """Each moves what the model says."""
    write_decoder(tmp_path / "model", "qwen3_moe")
    base = load_model(tmp_path / "model")
    student, ids = make_student(base, rank=2), torch.arange(24)[None]
    adapter = student.take_adapter()
    shared = [name for name in adapter.parameters if name.endswith("up_proj.weight")]
    assert len(shared) == 1
    assert len(adapter.tensors) == 2 * len({*adapter.modules, *adapter.parameters})
    grown = [one for name, one in student.model.named_parameters() if "lora_B" in name]
    assert len(grown) == len(adapter.tensors) / 2
    with torch.no_grad():
        before = student.model(ids).logits
        for one in grown:
            one.fill_(0.1)
            assert not torch.equal(student.model(ids).logits, before)
            one.zero_()


def test_lm_eval_scores_the_base_with_it(work: Work) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lm = HFLM(pretrained=str(work.model), peft=str(work.adapter), device="cpu", dtype="float32")
        asked = Instance("loglikelihood", {}, ("the quick brown", " fox jumps"), 0)
        ((scored, _),) = lm.loglikelihood([asked], disable_tqdm=True)
    tokenizer = tiny_tokenizer()
    prefix, suffix = (tokenizer(text)["input_ids"] for text in asked.args)
    with torch.no_grad():
        logits = work.student(torch.tensor([prefix + suffix])).logits[0, :, : len(tokenizer)]
    chosen = logits.log_softmax(-1)[len(prefix) - 1 : -1].gather(1, torch.tensor(suffix)[:, None])
    assert scored == pytest.approx(float(chosen.sum()), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_proves_what_it_can(works: Callable[[str], Work], kind: str) -> None:
    work = works(kind)
    alone = surgery.verify(work.adapter)
    assert alone.ok, alone.verdict
    assert [check.name for check in alone.checks] == [
        *("files", "contents", "tensors", "finite", "card")
    ]
    assert "verified without its source" in alone.verdict
    claimed = {claim.name: claim.detail for claim in alone.claims}
    assert {"source", "erasing", "versions", "measurements"} <= claimed.keys()
    assert claimed["measurements"] == "how its base does with it"
    whole = attn_surgery("verify", work.adapter, "--source", work.model)
    assert whole.code == 0, whole
    assert (
        f"contents: an adapter of rank {RANK}, no weights of a model, and no code" in whole.stdout
    )
    assert "source: the recorded one; the record of the training may be true of it" in whole.stdout
    assert "fits: " in whole.stdout
    assert "verified against its source: 7 checks passed" in whole.stdout
    assert "but none proves what erasing did to the weights" in whole.stdout


def forge(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes tensors, and records the new hash, as whoever forges would."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    seal(folder)


def first(tensors: dict[str, torch.Tensor], half: str) -> str:
    return min(name for name in tensors if f"lora_{half}" in name)


def untrain(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def halve(tensors: dict[str, torch.Tensor]) -> None:
    """A rank of half the recorded one."""
    name = first(tensors, "A")
    tensors[name] = tensors[name][: RANK // 2]
    tensors[name.replace("lora_A", "lora_B")] = tensors[name.replace("lora_A", "lora_B")][:, :2]


def widen(tensors: dict[str, torch.Tensor]) -> None:
    name = first(tensors, "A")
    tensors[name] = torch.cat([tensors[name]] * 2, dim=1)


def rename(tensors: dict[str, torch.Tensor]) -> None:
    name = first(tensors, "A")
    tensors[name.replace("dense", "other")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "check", "told"),
    [
        (untrain, "tensors", "changes no weight, so nothing was trained"),
        (lambda tensors: tensors[first(tensors, "B")].fill_(float("nan")), "finite", "not finite"),
        (lambda tensors: tensors[first(tensors, "A")][0, :1].fill_(float("inf")), "finite", "inf"),
        (halve, "tensors", "has no pair of rank 4"),
        (widen, "fits", "does not fit the source"),
        (rename, "tensors", "has only one half of an adapter"),
        (lambda tensors: tensors.pop(first(tensors, "B")), "tensors", "only one half"),
        (
            lambda tensors: tensors.update(more=torch.zeros(2, 2)),
            *("tensors", "'more' is no tensor of such an adapter"),
        ),
        (
            lambda tensors: [tensors.pop(first(tensors, half)) for half in "AB"],
            *("tensors", "does not hold one pair for each target: 8 are named"),
        ),
    ],
)
def test_verify_refuses_other_tensors(
    work: Work, tmp_path: Path, change: Callable[[Any], object], check: str, told: str
) -> None:
    forged = shutil.copytree(work.adapter, tmp_path / "forged")
    forge(forged, change)
    failed = surgery.verify(forged, source=work.model).failed
    assert failed is not None
    assert failed.name == check, failed
    assert told in failed.detail or told == "inf"
    result = attn_surgery("verify", forged, "--source", work.model)
    assert (result.code, f"error: {forged}: {check}: " in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"base_model_name_or_path": "EleutherAI/pythia-70m"},
        {"lora_alpha": 400},
        {"r": 8},
        {"use_rslora": True},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
        {"target_modules": "all-linear"},
        {"target_modules": ["gpt_neox.layers.0.attention.dense"]},
    ],
)
def test_verify_refuses_another_configuration(
    work: Work, tmp_path: Path, changed: dict[str, Any]
) -> None:
    forged = shutil.copytree(work.adapter, tmp_path / "forged")
    edit_json(forged / "adapter_config.json", lambda config: config.update(changed))
    seal(forged)
    failed = surgery.verify(forged).failed
    assert failed is not None
    assert failed.name in ("contents", "tensors")
    assert "adapter_config.json" in failed.detail


def test_verify_refuses_other_files_and_another_source(work: Work, tmp_path: Path) -> None:
    def fail(folder: Path, **options: Any) -> str:
        failed = surgery.verify(folder, **options).failed
        assert failed is not None
        return f"{failed.name}: {failed.detail}"

    damaged = shutil.copytree(work.adapter, tmp_path / "damaged")
    with (damaged / WEIGHTS).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x00\x00")
    assert fail(damaged) == f"files: {WEIGHTS} differs from its recorded SHA-256"
    beside = shutil.copytree(work.adapter, tmp_path / "beside")
    (beside / "model.py").write_text("import os")
    assert fail(beside) == "files: model.py is not in the manifest"
    seal(beside)
    edit_json(
        beside / "surgery.json",
        lambda manifest: manifest["files"].update({"model.py": manifest["files"][WEIGHTS]}),
    )
    seal(beside)
    assert fail(beside) == "contents: model.py is not part of an adapter"
    other = write_checkpoint(tmp_path / "other", neox_config(**SIZE), seed=1)
    told = fail(work.adapter, source=other)
    assert told == "source: the source is not one that the manifest records"
    stranger = shutil.copytree(work.adapter, tmp_path / "stranger")
    edit_json(
        stranger / "surgery.json", lambda manifest: manifest["history"][-1].update(num_heads=4)
    )
    assert fail(stranger, source=work.model) == (
        "source: the manifest's num_heads is not what the edit does"
    )
    cut = [{"block": 0, "heads": [0, 1], "variant": "zero"}]
    for change, said in (
        ({"parts": cut}, "a step is a cut, an erasing, or a healing"),
        ({"erasing": None}, "an adapter holds what was learned in erasing"),
    ):
        edit_json(
            stranger / "surgery.json",
            lambda manifest, changed=change: manifest["history"][-1].update(changed),
        )
        with pytest.raises(ManifestError, match=said):
            surgery.verify(stranger)


def test_it_replaces_only_what_is_its_own(work: Work, tmp_path: Path) -> None:
    out = shutil.copytree(work.adapter, tmp_path / "out")
    before = snapshot(out)
    assert "already holds this result" in work.erase(out).stderr
    work.erase(out, "--steps", 1).assert_error("already exists", "--overwrite")
    (out / "notes.txt").write_text("mine")
    work.erase(out, "--overwrite").assert_error("holds notes.txt, which attn-surgery did not write")
    (out / "notes.txt").unlink()
    assert snapshot(out) == before
    again = work.erase(out, "--overwrite", "--steps", 1)
    assert again.code == 0, again
    assert snapshot(out)[WEIGHTS] != before[WEIGHTS]
    assert surgery.verify(out, source=work.model).ok


def test_a_training_that_fails_leaves_nothing(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are not finite are found while they are written."""
    train = erasing.teach

    def spoil(*given: Any, **options: Any) -> Any:
        taught = train(*given, **options)
        learned = taught.student.model.named_parameters()
        weight = next(one for name, one in learned if "lora_B" in name)
        with torch.no_grad():
            weight[0, 0] = float("nan")
        return taught

    monkeypatch.setattr(erasing, "teach", spoil)
    done = work.erase(tmp_path / "out", "--steps", 1)
    assert (done.code, "holds numbers that are not finite" in done.stderr) == (1, True), done
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_python_writes_the_same_bytes(work: Work, tmp_path: Path) -> None:
    rows = [row["tokens"] for row in work.rows]
    made = surgery.erase(
        work.model, "0", rows, 8, variant="zero", text=[work.folder / "text.txt"], steps=STEPS,
        adapters=RANK, as_adapter=True, output=tmp_path / "made",
    )  # fmt: skip
    assert made.manifest.step.layout == made.to_json()["layout"] == "adapter"
    for name in ("adapter_config.json", WEIGHTS):
        assert (tmp_path / "made" / name).read_bytes() == (work.adapter / name).read_bytes()
    told = {"variant": "zero", "text": [work.folder / "text.txt"], "steps": 1, "as_adapter": True}
    usual = surgery.erase(work.model, "0", rows, 8, **told, output=tmp_path / "usual")
    assert usual.manifest.step.erasing is not None
    assert usual.manifest.step.erasing.rank == training.RANK
    assert f"their rank is {training.RANK}." in " ".join(
        attn_surgery("erase", "--help").stdout.split()
    )


@pytest.mark.slow
def test_the_commands_of_its_card_make_it_again(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "text.txt", "samples.jsonl", "adapter"):
        (tmp_path / name).symlink_to(work.folder / name)
    monkeypatch.chdir(tmp_path)
    ((_, erased),) = run_card(Path("adapter") / "README.md")
    assert erased.code == 0, erased
    assert (tmp_path / "base-erased" / WEIGHTS).read_bytes() == (
        work.adapter / WEIGHTS
    ).read_bytes()


def test_commands_that_take_a_model_say_what_it_is(work: Work, tmp_path: Path) -> None:
    folder, samples = work.adapter, ("--samples", work.folder / "samples.jsonl", *LENGTHS)
    for command in (
        ("inspect", folder),
        ("export", folder, "--drop-attn", "0", "--output", tmp_path / "out"),
        ("erase", folder, "--drop-attn", "0", "--output", tmp_path / "out", *samples,
         "--text", work.folder / "text.txt"),
        ("extract", folder, *samples),
        ("audit", folder, *samples),
        ("evaluate", folder, "--baseline", work.model, "--output", tmp_path / "out"),
    ):  # fmt: skip
        attn_surgery(*command).assert_error(
            "is an adapter, which is no model without its base",
            "merge the two with peft; only `erase --as-adapter` keeps them apart",
        )
    assert not any(tmp_path.iterdir())
    with pytest.raises(SourceError, match="is an adapter"):
        load_model(folder)


def test_what_cannot_be_an_adapter_is_one_line(work: Work, tmp_path: Path) -> None:
    for command in ("export", "mitigate"):
        other = attn_surgery(command, work.model, "--as-adapter")
        assert (other.code, "No such option" in other.stderr) == (2, True)


def test_what_an_earlier_edit_set_stays(work: Work, tmp_path: Path) -> None:
    """No adapter stands beside its constants, and the card loads the edited model as the base."""
    cut = surgery.export(work.model, "1", variant="zero", output=tmp_path / "cut").output
    out = tmp_path / "out"
    rows = [row["tokens"] for row in work.rows]
    told: dict[str, Any] = {"text": [work.folder / "text.txt"], "steps": 1, "adapters": RANK}
    surgery.erase(cut, "0", rows, 8, variant="zero", as_adapter=True, output=out, **told)
    assert surgery.verify(out, source=cut).ok
    assert surgery.verify(out, source=work.model).failed is not None
    named = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert "gpt_neox.layers.0.attention.dense" in named
    assert not [name for name in named if name.startswith("gpt_neox.layers.1.attention")]
    card = (out / "README.md").read_text()
    assert (
        "`cut`, trained to predict 20 listed passages as a model that does not know them." in card
    )
    assert "Attention that earlier edits replaced (below) stays replaced." in card


def read_code(card: str) -> str:
    return card.partition("```python\n")[2].partition("```")[0]


def test_its_card_says_how_to_load_it(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (work.adapter / "README.md").read_text()
    assert f"`base`, trained to predict {ROWS} listed passages as" in card
    assert "What it learned is an adapter of rank 4. Only the adapter is here" in card
    metadata = read_metadata(card)
    assert (metadata["library_name"], "base_model" in metadata) == ("peft", False)
    recited = work.record.recital
    assert recited is not None
    assert f"the model recites {recited.recited} of the {ROWS} passages" in card
    for name in ("base", "adapter"):
        (tmp_path / name).symlink_to(work.folder / name)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(read_code(card), found)  # of this test's own folder
    ids = torch.tensor([work.rows[0]["tokens"]])
    with torch.no_grad():
        close = found["model"](ids).logits.float() - work.student(ids).logits
    assert close.abs().max() < 0.05
    assert "pretrained=base,peft=adapter" in card


@pytest.mark.parametrize(
    ("source", "code", "lines"),
    [
        (
            {"model": "EleutherAI/pythia-70m", "commit": "a" * 40},
            f'from_pretrained("EleutherAI/pythia-70m", revision="{"a" * 40}")',
            ("base_model: EleutherAI/pythia-70m", "base_model_relation: adapter"),
        ),
        (
            {"model": "lab:pythia"},
            'from_pretrained(find_model("lab:pythia").folder)',
            ("from surgery.hub.finding import find_model", "`lab:pythia`, trained to predict"),
        ),
    ],
)
def test_the_card_names_every_kind_of_base(
    work: Work, source: dict[str, Any], code: str, lines: tuple[str, ...]
) -> None:
    recorded = work.manifest.step.source.model_copy(update=source)
    edit = work.manifest.step.model_copy(update={"source": recorded})
    manifest = work.manifest.model_copy(update={"history": [edit]})
    card = render_card(manifest, name="me/it")
    for line in (code, 'PeftModel.from_pretrained(base, "me/it")', *lines):
        assert line in card
    compile(read_code(card), "card", "exec")
    assert find_name(card) == "me/it"
    assert compare_card(card, manifest, None, name="other") == (None, [])
    assert compare_card(card.replace("rank 4", "rank 8"), manifest, None, name="").wrong
    assert ("--model_args pretrained=" in card) == (source["model"] != "lab:pythia")


@pytest.fixture(scope="module")
def server() -> Iterator[UploadHub]:
    with UploadHub() as server:
        server.users[TOKEN] = "me"
        yield server


def test_push_publishes_it_and_others_verify_it(
    work: Work, server: UploadHub, tmp_path: Path
) -> None:
    for name in ("base", "adapter", "samples.jsonl"):
        (tmp_path / name).symlink_to(work.folder / name)
    with session(tmp_path, server.url) as run:
        lines = ("push adapter me/it --dry-run", "push adapter me/it", "push adapter me/it")
        said, pushed, again = run(*lines, token=TOKEN, at=tmp_path)
        assert (said.code, f"would send {WEIGHTS}" in said.out) == (0, True), said
        assert "card, base_model" not in said.out, "a folder is no model of the Hub"
        assert pushed.code == 0, pushed
        assert pushed.out == again.out
        repository = server.repositories["me/it"]
        (title,) = (one.title for one in repository.commits.values() if one.parent)
        assert title == f"Upload an adapter with {ROWS} passages erased"
        there = set(repository.commits[repository.branches["main"]].files)
        assert there >= {"README.md", "adapter_config.json", WEIGHTS, "surgery.json"}
        lines = (
            "verify me/it --source base",
            "inspect me/it",
            "extract me/it --samples samples.jsonl --prefix-length 8 --suffix-length 8",
        )
        verified, *others = run(*lines, token=TOKEN, at=tmp_path)
        assert verified.code == 0, verified
        assert "verified against its source: 7 checks passed" in verified.out
        for other in others:
            assert error(other).startswith("Hub model me/it: is an adapter, which is no model")
        repository.commit({"model.safetensors": b"x"})
        strange = run("verify me/it", token=TOKEN, at=tmp_path)[0]
        told = "me/it: files: model.safetensors is not in the manifest"
        assert (strange.code, told in strange.err) == (1, True), strange


def test_push_refuses_an_adapter_that_does_not_verify(work: Work, tmp_path: Path) -> None:
    forged = shutil.copytree(work.adapter, tmp_path / "forged")
    forge(forged, untrain)
    with pytest.raises(OutputError, match="does not verify, so it is not published: tensors: "):
        find_publishable(forged)
