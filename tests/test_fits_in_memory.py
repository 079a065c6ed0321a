"""Contract: a model that no memory here can hold is refused before it is loaded, with what helps.

A file of two terabytes that holds nothing, so it takes no space on the disk.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import attn_surgery
from decoders import config_of, write_decoder
from safetensors import safe_open

import surgery
from surgery.checkpoint.tensors import TensorInfo, write_header
from surgery.hub.finding import find_model

HUGE = 1 << 32  # the width of the MLPs


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_decoder(tmp_path_factory.mktemp("huge") / "model", "llama")
    config = config_of("llama", intermediate_size=HUGE, torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(config))
    with safe_open(folder / "model.safetensors", "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    infos = []
    for name, shape in shapes.items():
        size = [HUGE if ".mlp." in name and n == 64 else n for n in shape]
        infos.append(TensorInfo(name, "BF16", tuple(size)))
    with (folder / "model.safetensors").open("wb") as out:
        out.write(write_header(infos, {"format": "pt"}))
        out.truncate(out.tell() + sum(info.nbytes for info in infos))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--max-extraction", "0.1", "--output", "found"],
        ["extract", "--output", "extracted.json"],
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_loaded(
    huge: Path, tmp_path: Path, command: list[str]
) -> None:
    rows, text = tmp_path / "rows.jsonl", tmp_path / "text.txt"
    rows.write_text(json.dumps({"tokens": list(range(100))}) + "\n")
    text.write_text("Some text. " * 400)
    given = ["--corpus", text] if command[0] == "search" else []
    name, *options = command
    outcome = attn_surgery(
        name, huge, "--samples", rows, *given, *options[:-1], tmp_path / options[-1]
    )
    outcome.assert_error("the model does not fit into the memory of this machine", "GB", "export")
    assert not (tmp_path / options[-1]).exists()


def test_four_bits_are_counted_as_what_they_become(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "llama")
    inventory = find_model(source).inventory
    assert inventory.num_parameters == surgery.inspect(source).parameters
    packed = {**inventory.infos, "experts.down_proj_blocks": TensorInfo("x", "U8", (4, 16))}
    more = type(inventory)(
        inventory.family, inventory.dimensions, inventory.config, packed, inventory.compact_blocks
    )
    assert more.num_parameters == inventory.num_parameters + 128
