"""Contract: no command runs code that a model folder brings or asks for, and none ever asks to.

Each folder holds code that would leave a mark; whoever runs it, or reads an answer from the
terminal, is found out.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROOT, attn_surgery, start
from forging import seal
from transformers import AutoConfig
from transformers.utils import import_utils

import surgery
from hostile.victims import change, commands, model, refuse
from surgery.loading import load_model, load_tokenizer

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("was here")
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast
class Config(GPTNeoXConfig):
    model_type = "evil"
class Model(GPTNeoXForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
def generate(model, **options):
    return model
"""
CLASSES = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}
KERNEL = "chooses attention code, which the library may download and run"
FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown type": (
        "config.json",
        {"model_type": "evil", "auto_map": CLASSES},
        "unsupported model_type evil",
    ),
    "a known type": (
        "config.json",
        {"auto_map": CLASSES},
        "brings its own modeling code (auto_map), which is never run",
    ),
    "the tokenizer": (
        "tokenizer_config.json",
        {"auto_map": CLASSES},
        "the tokenizer brings its own code (auto_map), which is never run",
    ),
    "the tokenizer, as the oldest models have it": (
        "tokenizer_config.json",
        {"auto_map": ["evil.Tokenizer", "evil.Tokenizer"]},
        "the tokenizer brings its own code (auto_map), which is never run",
    ),
    "a kernel": ("config.json", {"attn_implementation": "me/evil-kernel"}, KERNEL),
    "a kernel by its inner name": (
        "config.json",
        {"_attn_implementation_internal": "me/evil:forward"},
        KERNEL,
    ),
    "an adapter": (
        "adapter_config.json",
        {"peft_type": "LORA", "base_model_name_or_path": "me/evil"},
        "holds an adapter, which the library would load into the model",
    ),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked on the terminal, where every answer is yes."""
    questions: list[str] = []

    def yes(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    return questions


def trapped_model(folder: Path, *names: str) -> Path:
    """A model beside code that would leave a mark; returns the mark."""
    mark = folder.with_name("mark")
    model(folder)
    for name in (*names, "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(EVIL.format(mark=str(mark)))
    return mark


@pytest.mark.parametrize("form", FORMS)
def test_code_of_the_folder_is_not_run(tmp_path: Path, asked: list[str], form: str) -> None:
    mark = trapped_model(tmp_path / "model", "evil.py")
    file, values, message = FORMS[form]
    change(tmp_path / "model" / file, **values)
    every = commands(tmp_path / "model", tmp_path)
    for command in every if form == "a known type" else ("extract", "export"):
        refuse(every[command], message)
    assert not mark.exists()
    assert not asked


def test_code_that_nothing_asks_for_is_left_alone(tmp_path: Path, asked: list[str]) -> None:
    mark = trapped_model(tmp_path / "model", "modeling_gpt_neox.py", "conftest.py")
    load_model(tmp_path / "model")
    load_tokenizer(tmp_path / "model")
    assert not mark.exists()
    assert not asked


def test_the_trap_is_one(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder in the library's own hands: it asks, and the code runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    mark = trapped_model(tmp_path / "model", "evil.py")
    change(tmp_path / "model" / "config.json", model_type="evil", auto_map=CLASSES)
    AutoConfig.from_pretrained(tmp_path / "model")
    assert mark.exists()
    assert asked


# --- pickles


class Payload:
    """Unpickled without care, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    source = model(tmp_path / "source", weights="bin", tokenizer=False)
    content: Any = {"x": Payload(tmp_path / "executed")}
    path = source / "pytorch_model.bin"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    export = ("export", source, "--drop-attn", "1", "--output", tmp_path / "out")
    refuse(
        export,
        "pytorch_model.bin: cannot be read as a pickled state dict of tensors",
        "convert it to safetensors if you trust its author",
    )
    attn_surgery("inspect", source).assert_error("pytorch_model.bin")
    assert not (tmp_path / "executed").exists()
    if form != "plain pickle":  # the payload is a real one
        torch.load(path, weights_only=False)
        assert (tmp_path / "executed").is_dir()


# --- kernels

# A package `kernels` that both libraries take for the real one: whoever fetches leaves a mark.
KERNELS = """
from pathlib import Path
from unittest.mock import MagicMock

def get_kernel(name, *arguments, **options):
    Path({mark!r}).write_text(str(name))
    raise OSError("fetched " + str(name))

def use_kernel_forward_from_hub(name):
    return lambda cls: cls

use_kernelized_func = use_kernel_forward_from_hub

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()
"""
VICTIMS = """
import sys
from pathlib import Path
from command_line import attn_surgery
from transformers import AutoModelForCausalLM

mark, trap, *lines = sys.stdin.read().splitlines()
for line in lines:
    outcome = attn_surgery(*line.split())
    print(outcome.code, outcome.stderr.splitlines()[-1])
print("marked before the trap:", Path(mark).exists())
try:
    AutoModelForCausalLM.from_pretrained(trap, attn_implementation="me/evil")
except (OSError, ValueError):
    print("marked by the trap:", Path(mark).exists())
"""


@pytest.mark.slow
def test_no_kernel_is_fetched(tmp_path: Path) -> None:
    """With the package that fetches kernels installed, in whatever version of the library."""
    mark, beside = tmp_path / "mark", tmp_path / "site"
    version = getattr(import_utils, "KERNELS_MIN_VERSION", "0.12.0")  # older libraries take any
    info = beside / f"kernels-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    (beside / "kernels.py").write_text(KERNELS.format(mark=str(mark)))
    path = {"PYTHONPATH": os.pathsep.join(map(str, (beside, ROOT, ROOT / "tests")))}

    fine = model(tmp_path / "fine")
    edited = tmp_path / "edited"
    surgery.export(fine, "1", output=edited)
    lines = []
    for number, value in enumerate(
        (
            {"_attn_implementation_internal": "me/evil"},
            {"attn_implementation": "flash_attention_2"},
            {"task_specific_params": {"_attn_implementation": "me/evil"}},
        )
    ):
        source = Path(shutil.copytree(fine, tmp_path / f"source{number}"))
        change(source / "config.json", **value)
        made = Path(shutil.copytree(edited, tmp_path / f"edited{number}"))
        change(made / "config.json", **value)
        seal(made)
        asked = commands(source, tmp_path)
        lines += [("verify", made), asked["extract"], asked["export"]]
    text = "\n".join((str(mark), str(fine), *(" ".join(map(str, line)) for line in lines)))
    with start(program=("-c", VICTIMS), env=path, stdin=subprocess.PIPE) as process:
        out, err = process.communicate(text, timeout=240)
    assert "marked before the trap: False\nmarked by the trap: True\n" in out, err
    assert out.count("1 error: ") == out.count("attn_implementation") == len(lines), out
