"""Greedy decoding of the lab's records in other engines, base and edited, as a table.

    python -m benchmarks.engines

Needs onnxruntime, onnx and onnxscript; without them, only transformers is shown.
"""

from __future__ import annotations

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import torch

import surgery
from evals.lab import samples_path
from surgery.hub.embedded import find_lab_folder

PREFIX = SUFFIX = 32
ROWS = 32
INSTALLED = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "vllm": ("vllm",),
}
KINDS = {
    "onnxruntime": ("float32",),
}


def is_installed(engine: str) -> bool:
    return all(find_spec(module) for module in INSTALLED[engine])


def read_rows() -> np.ndarray:
    """Records that `lab:pythia` saw 128 times and more often, [ROWS, PREFIX + SUFFIX], int64."""
    lines = map(json.loads, samples_path("pythia").read_text().splitlines())
    rows = [line["tokens"] for line in lines if line["count"] >= 128]
    return np.array(rows[:ROWS], np.int64)[:, : PREFIX + SUFFIX]


def decode_with_transformers(folder: Path, prefixes: np.ndarray, length: int) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # it is a token like any other, as elsewhere
    tokens = torch.from_numpy(prefixes)
    said = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=0,
    )
    return said[:, prefixes.shape[1] :].numpy()


def write_onnx(folder: Path, path: Path, rows: int, tokens: int) -> None:
    """A model as torch's exporter writes it, for token ids of one shape: [rows, tokens]."""
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.model(ids, use_cache=False).logits

    ids = torch.zeros(rows, tokens, dtype=torch.int64)
    torch.onnx.export(
        Logits(), (ids,), path, input_names=["ids"], output_names=["logits"], dynamo=True
    )


def decode_with_onnxruntime(path: Path, prefixes: np.ndarray, length: int) -> np.ndarray:
    """Of an ONNX file for [B, P + length]: what is not yet said is padding that no token sees."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = prefixes.shape[1]
    ids = np.pad(prefixes, ((0, 0), (0, length)))
    for place in range(given, given + length):
        (logits,) = session.run(["logits"], {"ids": ids})
        ids[:, place] = logits[:, place - 1].argmax(-1)
    return ids[:, given:]


def decode_with_vllm(folder: Path, prefixes: np.ndarray, length: int) -> np.ndarray:
    """In this process, and of token ids: a tokenizer is not needed."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM, SamplingParams

    limits = {"max_model_len": prefixes.shape[1] + length, "max_num_seqs": len(prefixes)}
    model = LLM(
        str(folder), dtype="float32", skip_tokenizer_init=True, enforce_eager=True, **limits
    )
    ways = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False)
    said = model.generate([{"prompt_token_ids": row} for row in prefixes.tolist()], ways)
    return np.array([row.outputs[0].token_ids for row in said])


def decode(engine: str, folder: Path, prefixes: np.ndarray, work: Path) -> np.ndarray:
    """What an engine says, [B, SUFFIX]."""
    if engine == "vllm":
        return decode_with_vllm(folder, prefixes, SUFFIX)
    path = work / "model.onnx"
    write_onnx(folder, path, len(prefixes), PREFIX + SUFFIX)
    return decode_with_onnxruntime(path, prefixes, SUFFIX)


@click.command()
def main() -> None:
    """Compare engines on base and edited model."""
    rows = read_rows()
    prefixes, suffixes = rows[:, :PREFIX], rows[:, PREFIX:]
    click.echo("| engine | model | rows as transformers | tokens as transformers | recited |")
    click.echo("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        edited = surgery.export("lab:pythia", "4-5", output=work / "edited").output
        for name, folder in (("base", find_lab_folder("pythia")), ("edited", edited)):
            reference = decode_with_transformers(folder, prefixes, SUFFIX)
            said = {"transformers, float32": reference}
            for engine in filter(is_installed, KINDS):
                for kind in KINDS[engine]:
                    said[f"{engine}, {kind}"] = decode(engine, folder, prefixes, work)
            for engine, tokens in said.items():
                same = tokens == reference
                recited = (tokens == suffixes).all(1).sum()
                click.echo(
                    f"| {engine} | {name} | {same.all(1).sum()} of {len(rows)} | "
                    f"{same.mean():.1%} | {recited} of {len(rows)} |"
                )


if __name__ == "__main__":
    main()
