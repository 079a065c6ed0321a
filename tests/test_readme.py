"""Contract: the quick start of the README works as it is typed, on a Hub of the same protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT
from hub_commands import TOKEN, environment_of
from hub_uploads import UploadHub
from tiny_tokenizer import TEXT, tiny_tokenizer

ROWS = [f"fox {at}: {TEXT[: 200 + at]} {at} {TEXT[:99]}".replace("\n", " ") for at in range(32)]


def list_quick_start() -> list[str]:
    """The commands of the section, in their order."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Quick start") :].split("\n## ")[0]
    return re.findall(r"^    (\S.*)$", section, re.MULTILINE)


@pytest.fixture
def hub(tmp_path: Path):
    """Pythia 1.4B, but for its width, and the benchmark of the README."""
    with UploadHub() as server:
        server.users[TOKEN] = "me"
        config = neox_config(
            num_hidden_layers=24, hidden_size=128, num_attention_heads=1, vocab_size=400
        )
        folder = write_checkpoint(tmp_path / "pythia", config)
        tiny_tokenizer().save_pretrained(folder)
        server.create("EleutherAI/pythia-1.4b").commit(folder)
        rows = "".join(json.dumps({"text": text}) + "\n" for text in ROWS)
        files = {"README.md": b"", "test.jsonl": rows.encode()}
        server.create("EleutherAI/lambada_openai").commit(files)
        yield server


def test_the_quick_start_runs_as_typed(hub: UploadHub, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "passages.csv").write_text("text\n" + "\n".join(f'"{row}"' for row in ROWS))
    (work / "heldout.txt").write_text(TEXT * 30)
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environment = environment_of(tmp_path, hub.url, HF_TOKEN=TOKEN, PATH=path)
    printed = {}
    for command in list_quick_start():
        done = subprocess.run(
            command.replace(" ME/", " me/"),
            shell=True,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        printed[" ".join(command.split()[:2])] = done.stdout
    assert "pythia-cut: blocks 20-23 attention-free (identity, stock)" in printed.pop(
        "attn-surgery export"
    )
    assert "verified against its source" in printed.pop("attn-surgery verify")
    assert "\nlambada_openai, acc " in printed.pop("attn-surgery evaluate")
    assert (work / "pythia-cut-evaluation" / "report.html").exists()
    assert "|lambada_openai|" in printed.pop("lm_eval --model")
    assert "/me/pythia-1.4b-mitigated: " in printed.pop("attn-surgery push")
    assert not printed, "a command of the quick start that no line here looks at"
    pushed = hub.repositories["me/pythia-1.4b-mitigated"]
    assert pushed.private
    assert {"model.safetensors", "report.html"} <= set(
        pushed.commits[pushed.branches["main"]].files
    )
