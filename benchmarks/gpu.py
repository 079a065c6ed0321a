"""On a GPU, in one go: is a stock edit bit-equal there, and how fast are the exports.

    python benchmarks/gpu.py [MODEL]     # default lab:pythia; EleutherAI/pythia-1.4b for a real one

For float16 and bfloat16, and each attention that transformers has there (eager, sdpa, and
flash_attention_2 where it is installed): logits of the stock export against those of the source
with the attention of the edited blocks replaced. Then `attn-surgery bench`. Where there is no GPU
it says so.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
SPEC = "last:2"
LENGTHS = (1, 7, 64, 200)


def attend_to_self(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    """A hook on attention: every token attends to itself alone."""
    hidden = args[0] if args else kwargs["hidden_states"]
    rows = module.query_key_value(hidden).view(*hidden.shape[:2], -1, 3, module.head_size)
    return (module.dense(rows[..., 2, :].reshape(hidden.shape)), *output[1:])


def is_equal(source: Path, stock: Path, dtype: torch.dtype, attention: str) -> bool:
    """Whether the logits are the same, bit for bit, for rows of every length."""
    from transformers import AutoModelForCausalLM

    options = {"dtype": dtype, "attn_implementation": attention}
    models = [
        AutoModelForCausalLM.from_pretrained(folder, **options).eval().to("cuda")
        for folder in (source, stock)
    ]
    for layer in models[0].gpt_neox.layers[-2:]:
        layer.attention.register_forward_hook(attend_to_self, with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    for length in LENGTHS:
        ids = torch.randint(0, 1000, (4, length), generator=generator).to("cuda")
        with torch.no_grad():
            one, other = (model(ids).logits for model in models)
        if not torch.equal(one, other):
            return False
    return True


@click.command()
@click.argument("model", default="lab:pythia")
def main(model: str) -> None:
    """Check and time MODEL, a GPT-NeoX model, on this machine's GPU."""
    if not torch.cuda.is_available():
        click.echo("no GPU here: nothing was checked")
        return
    import surgery
    from surgery.hub.finding import find_model

    source = find_model(model).folder
    attentions = ["eager", "sdpa", *(["flash_attention_2"] if find_spec("flash_attn") else [])]
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        stock, compact = Path(temporary) / "stock", Path(temporary) / "compact"
        surgery.export(model, SPEC, output=stock)
        surgery.export(model, SPEC, layout="compact", output=compact)
        click.echo(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {model}, {SPEC}")
        for dtype in (torch.float16, torch.bfloat16):
            for attention in attentions:
                found = is_equal(source, stock, dtype, attention)
                same = same and found
                click.echo(f"{dtype}, {attention}: {'bit for bit' if found else 'DIFFERENT'}")
        for edited in (stock, compact):
            command = [sys.executable, "-m", "cli.main", "bench", model, str(edited)]
            subprocess.run([*command, "--device", "cuda"], cwd=ROOT, check=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
