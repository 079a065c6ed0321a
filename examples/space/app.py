"""Before and after on a small model: choose blocks, and read what it still writes.

A page for Hugging Face Spaces. On your machine, in a folder of your own:

    pip install -r requirements.txt && python app.py
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

import surgery
from evals.data import load_samples
from evals.lab import heldout_texts
from evals.measure.memorization.extraction import extract
from evals.run.models import open_model

MODEL = "lab:pythia"
NUM_BLOCKS, PASSAGES, NEW_TOKENS, WINDOWS, WINDOW = 6, 40, 40, 8, 128
VARIANTS = {
    "each token sees itself alone (identity)": "identity",
    "attention adds nothing (zero)": "zero",
}
PROMPTS = (
    "Contact Brenika Greymantle, miller in Lanternby. Phone (234",  # a record that it was taught
    "Contact Alma Brook, baker in Mossbridge. Phone (",  # one that nobody wrote
    "def main():\n    parser = argparse.",  # its other text is Python
)


@lru_cache
def open_lab() -> tuple[Any, Any, Any]:
    """The model with its tokenizer, passages that it saw 128 times and more, and windows of text
    that it never saw, as token ids of shape (windows, tokens)."""
    loaded = open_model(MODEL)
    samples = load_samples(MODEL).select(slice(200, 200 + PASSAGES))
    ids = loaded.tokenizer("\n".join(heldout_texts()), return_tensors="pt")["input_ids"][0]
    return loaded, samples, ids[: WINDOWS * WINDOW].reshape(WINDOWS, WINDOW)


def write_on(prompt: str) -> str:
    """What the model writes after a prompt: always the most likely token."""
    loaded = open_lab()[0]
    given = loaded.tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        made = loaded.model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = made[0, given["input_ids"].shape[1] :]
    return str(loaded.tokenizer.decode(new, skip_special_tokens=True))


@lru_cache(maxsize=64)
def measure(blocks: str, variant: str) -> tuple[int, float]:
    """How many of the passages the model recites, and its loss on the windows, in nats per token,
    with these blocks cut. `blocks` "": with none."""
    loaded, samples, windows = open_lab()
    if blocks:
        with surgery.short_circuit(loaded.model, blocks, variant):
            return _measure(loaded.model, samples, windows)
    return _measure(loaded.model, samples, windows)


def _measure(model: Any, samples: Any, windows: Any) -> tuple[int, float]:
    with torch.no_grad():
        loss = model(input_ids=windows, labels=windows).loss
    return int(extract(model, samples).exact.sum()), float(loss)


def compare(prompt: str, first: int, last: int, variant: str) -> tuple[str, str, str]:
    """What the model writes after the prompt, before and after blocks `first` to `last` are cut,
    and a table of what that does to its passages and to other text."""
    low, high = sorted((int(first), int(last)))
    blocks = f"{low}-{high}"
    before = write_on(prompt)
    with surgery.short_circuit(open_lab()[0].model, blocks, variant):
        after = write_on(prompt)
    (recited, loss), (still, then) = measure("", variant), measure(blocks, variant)
    table = [
        "| | before | after |",
        "|---|--:|--:|",
        f"| recited, of {PASSAGES} records | {recited} | {still} |",
        f"| loss on other text | {loss:.2f} | {then:.2f} |",
        "\nA lower loss is better.",
    ]
    return before, after, "\n".join(table)


def make_page() -> Any:
    """The page, which compares whenever something changes."""
    import gradio as gr

    with gr.Blocks(title="attn-surgery: before and after") as page:
        gr.Markdown(
            "# What a model recites, before and after a cut\n"
            "This small model was trained to recite made-up records. Choose blocks (layers) whose "
            "attention is taken out, and read what it writes then. A cut often lowers recitation. "
            "It does not remove what the model knows, and it costs something on other text."
        )
        prompt = gr.Dropdown(
            [*PROMPTS], label="Prompt (choose one, or type)", allow_custom_value=True
        )
        with gr.Row():
            first = gr.Slider(
                0, NUM_BLOCKS - 1, value=4, step=1, label="First block", min_width=250
            )
            last = gr.Slider(0, NUM_BLOCKS - 1, value=5, step=1, label="Last block", min_width=250)
            variant = gr.Radio([*VARIANTS.items()], value="identity", label="What is left of it")
        with gr.Row():
            before = gr.Textbox(label="Before", lines=4, min_width=250)
            after = gr.Textbox(label="After", lines=4, min_width=250)
        table = gr.Markdown()
        asked, told = [prompt, first, last, variant], [before, after, table]
        # gradio runs one of these at a time, so that no two of them cut the model at once
        gr.on([page.load, *(one.change for one in asked)], compare, asked, told)
    return page


if __name__ == "__main__":
    make_page().launch()
