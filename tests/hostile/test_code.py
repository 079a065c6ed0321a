"""Contract: no command runs code that a model folder brings or asks for, and none ever asks to.

Each folder holds code that would leave a mark; whoever runs it, or reads an answer from the
terminal, is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from hostile.victims import change, commands, model, refused
from surgery.editing.loading import load_model, load_tokenizer

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
FORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an unknown type": (
        lambda folder: change(folder / "config.json", model_type="evil", auto_map=CLASSES),
        "unsupported model_type evil",
    ),
    "a known type": (
        lambda folder: change(folder / "config.json", auto_map=CLASSES),
        "brings its own modeling code (auto_map), which is never run",
    ),
    "the tokenizer": (
        lambda folder: change(folder / "tokenizer_config.json", auto_map=CLASSES),
        "the tokenizer brings its own code (auto_map), which is never run",
    ),
    "the tokenizer, as the oldest models have it": (
        lambda folder: change(
            folder / "tokenizer_config.json", auto_map=["evil.Tokenizer", "evil.Tokenizer"]
        ),
        "the tokenizer brings its own code (auto_map), which is never run",
    ),
    "a kernel": (
        lambda folder: change(folder / "config.json", attn_implementation="me/evil-kernel"),
        "chooses attention code, which the library may fetch from the Hub and run",
    ),
    "a kernel by its inner name": (
        lambda folder: change(
            folder / "config.json", _attn_implementation_internal="me/evil:forward"
        ),
        "chooses attention code, which the library may fetch from the Hub and run",
    ),
    "an adapter": (
        lambda folder: change(
            folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="me/evil"
        ),
        "holds an adapter, which the library would put into the model",
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["extract", "collect", "sweep", "search", "evaluate", "export"])
def test_code_of_the_folder_is_not_run(
    tmp_path: Path, asked: list[str], form: str, command: str
) -> None:
    mark = tmp_path / "mark"
    folder = model(tmp_path / "model")
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(EVIL.format(mark=str(mark)))
    spoil, message = FORMS[form]
    spoil(folder)
    refused(commands(folder, tmp_path)[command], message)
    assert not mark.exists()
    assert not asked


def test_code_that_nothing_asks_for_is_left_alone(tmp_path: Path, asked: list[str]) -> None:
    mark = tmp_path / "mark"
    folder = model(tmp_path / "model")
    for name in ("modeling_gpt_neox.py", "custom_generate/generate.py", "conftest.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(EVIL.format(mark=str(mark)))
    load_model(folder)
    load_tokenizer(folder)
    assert not mark.exists()
    assert not asked


def test_the_trap_is_one(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder in the library's own hands: it asks, and the code runs."""
    mark = tmp_path / "mark"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    folder = model(tmp_path / "model")
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    change(folder / "config.json", model_type="evil", auto_map=CLASSES)
    AutoConfig.from_pretrained(folder)
    assert mark.exists()
    assert asked
