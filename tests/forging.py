"""Changes to an exported folder by one who wants to deceive: the recorded hashes fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import attn_surgery, running
from safetensors.torch import load_file, save_file

import surgery
from cli.terminal import name_options
from surgery.checkpoint import hash_content, open_checkpoint
from surgery.errors import OutputError, SurgeryError
from surgery.publishing.upload import find_publishable

WEIGHTS = "model.safetensors"


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    seal(folder)


def seal(folder: Path, *more: str) -> None:
    """Records the files as they now are, and more of them."""

    def record(manifest: Any) -> None:
        manifest["files"].update({name: {} for name in more})
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        with suppress(SurgeryError, ValueError):  # of weights or a configuration that is damaged
            manifest["content"] = hash_content(open_checkpoint(folder))

    edit_json(folder / "surgery.json", record)


def assert_fails(folder: Path, name: str, detail: str, source: Path | None = None) -> None:
    """That check fails, with exit code 1 and a line that names it, for people and for programs."""
    options = () if source is None else ("--source", source)
    outcome = attn_surgery("verify", folder, *options, "--json")
    assert outcome.code == 1, outcome
    assert outcome.json["ok"] is False
    failed = [check for check in outcome.json["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == [name], outcome.json
    assert detail in failed[0]["detail"], failed
    line = f"error: {folder}: {name}: {failed[0]['detail']}\n"
    assert outcome.stderr == name_options(line, running("verify"))
    assert not surgery.verify(folder, source=source).ok


def assert_refused(
    folder: Path, name: str, detail: str, source: Path, compared: str | None = None
) -> None:
    """That check fails without the source and with it, and nothing is published.

    `compared`: its detail with the source, by default `detail`.
    """
    assert detail
    assert_fails(folder, name, detail)
    assert_fails(folder, name, compared or detail, source)
    with pytest.raises(OutputError, match=f"does not verify, so it is not published: {name}: "):
        find_publishable(folder)
