"""attn-surgery demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import echo, note, output_option, overwrite_option

MODEL = "lab:pythia"
BLOCKS = "last:2"
LIMIT = 0.01
SHOWN = 2  # records whose text is shown: they are synthetic, so nobody's
TERMS = (
    "recited, recovered: the share of the records that a model writes out by itself, or that an "
    "attacker gets out of it. The reports say what each attack does.",
    "held-out loss: how badly a model predicts text that it was not trained on. Lower is better.",
    "acc, acc_norm: the share of a task's questions that a model answers right.",
)
CONTINUED = (
    "Each model gets the first {prefix} tokens of a text and writes {suffix} more, always the "
    "likeliest.",
    "The loss is that of the {suffix} tokens that really follow: high for a record that is gone, "
    "low for ordinary text that a model still predicts well.",
    "A model that has lost a record must write something else. So small a model often repeats "
    "itself then; the losses, here and in the table, tell what an edit costs.",
)


@click.command("demo")
@output_option(
    "Folder for the two edited models, each with its report, and the search.",
    default="attn-surgery-demo",
    show_default=True,
)
@overwrite_option
def command(output: Path, overwrite: bool) -> None:
    """Run the whole story on an embedded model, offline, in about two minutes.

    Edits lab:pythia twice: its deep blocks, and what a search chooses. Verifies both, measures what
    each recites, what an attacker gets and what it can still do, and shows them side by side.
    """
    from cli.exporting import evaluate_exports
    from cli.progress import progress
    from cli.tables import console
    from cli.tables.evaluation import print_evaluation
    from evals.evaluation.materials import open_materials
    from evals.evaluation.request import EvaluationRequest
    from evals.exporting import ExportRequest, run_export
    from evals.search.request import SearchRequest
    from evals.search.searching import search
    from surgery.output import check_output, create_folder

    check_output(output, _owned, overwrite=overwrite)
    wanted = EvaluationRequest(models=(MODEL,), baseline=MODEL, attack=("cheap",))
    materials = open_materials(wanted, progress=progress)
    out = console()
    places = {"deep blocks": output / "deep-blocks", "searched": output / "searched"}
    with create_folder(output, _owned, overwrite=overwrite) as made:
        out.rule("1. Edit the deep blocks")
        deep, chosen = (str(place) for place in places.values())
        out.print(f"attn-surgery export {MODEL} --drop-attn {BLOCKS} --output {deep}", style="bold")
        run_export(ExportRequest(model=MODEL, drop_attn=BLOCKS, output=made / "deep-blocks"))
        out.rule("2. Search for the edit that costs least")
        found = output / "search"
        out.print(
            f"attn-surgery search {MODEL} --samples {MODEL} --max-extraction {LIMIT} "
            f"--output {found}\n"
            f"attn-surgery export {MODEL} --plan {found / 'plan.json'} --output {chosen}",
            style="bold",
        )
        request = SearchRequest(model=MODEL, samples=MODEL, max_extraction=LIMIT)
        answer = search(request, made / "search", say=note, progress=progress)
        assert answer is not None
        _, choice = answer
        searched = ExportRequest(model=MODEL, plan=choice, output=made / "searched")
        prepared, _ = run_export(searched, progress=progress)
        out.rule("3. Verify, attack and evaluate both, on what did not choose the edit")
        out.print(
            f"attn-surgery evaluate {deep} {chosen} --baseline {MODEL} --attack cheap",
            style="bold",
        )
        report = evaluate_exports(
            prepared.model, materials, made / "deep-blocks", made / "searched"
        )
    print_evaluation(report)
    for line in TERMS:
        echo(line)
    out.rule("4. See for yourself")
    _show(places, out)
    out.rule("Done")
    for name, place in places.items():
        echo(f"{name}: {place / 'report.html'}")
    echo(f'Each loads as any other: AutoModelForCausalLM.from_pretrained("{chosen}")')


def _owned(folder: Path) -> list[str]:
    """What an earlier demo wrote there."""
    from evals.search.searching import owned as of_search
    from surgery.exporting import list_owned

    parts = {"deep-blocks": list_owned, "searched": list_owned, "search": of_search}
    return [f"{part}/{name}" for part, known in parts.items() for name in known(folder / part)]


def _show(places: dict[str, Path], out: Any) -> None:
    """A few planted records and some ordinary text, as every model goes on with them, greedily."""
    import torch

    from evals.lab import heldout_texts
    from evals.memorization.extraction import extract
    from evals.models import open_model
    from evals.samples import load_samples

    models: dict[str, Any] = {"before": open_model(MODEL)}
    models |= {name: open_model(str(place)) for name, place in places.items()}
    samples, tokenizer = load_samples(MODEL), models["before"].tokenizer
    prefix, suffix = samples.prefix_length, samples.suffix_length
    for line in CONTINUED:
        echo(line.format(prefix=prefix, suffix=suffix))
    recited = extract(models["before"].model, samples).exact.nonzero()[0]
    texts = {f"record {samples.ids[row]}": samples.tokens[row] for row in recited[:SHOWN]}
    texts["ordinary text"] = tokenizer(heldout_texts()[0])["input_ids"][: prefix + suffix]
    for label, tokens in texts.items():
        text = torch.tensor([[int(token) for token in tokens]])
        given, follows = text[:, :prefix], text[0, prefix:]
        for heading, part in ((f"\n{label}, given", given[0]), ("what follows", follows)):
            out.print(heading, style="dim")
            echo(repr(tokenizer.decode(part.tolist())))
        for name, loaded in models.items():
            with torch.no_grad():
                logits = loaded.model(text[:, :-1]).logits[0, prefix - 1 :]
            loss = torch.nn.functional.cross_entropy(logits, follows)
            written = loaded.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=suffix,
                min_new_tokens=suffix,
                do_sample=False,
                pad_token_id=0,
            )[0, prefix:]
            right = int((written == follows).sum())
            out.print(
                f"{name}: {right} of {suffix} tokens as in the text, loss {loss:.2f}", style="bold"
            )
            echo(repr(loaded.tokenizer.decode(written.tolist())))
