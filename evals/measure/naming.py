"""What every figure is called, and which table shows it: said once, here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evals.measure.attacks.attack import Attack
from evals.measure.attacks.names import TRAINING, find_attack, find_attacker
from evals.measure.edits.costs import MEASURES as COSTS
from evals.measure.memorization.measures import MEASURES
from evals.table.words import render
from surgery.card.facts import make_printable
from surgery.card.measurements import say_runs
from surgery.record.measured import MOST_LETTERS, Measured, On
from surgery.record.report import Named, SamplesRecord, Table

Names = dict[str, Named]
_METRICS = {
    "acc": "the share of right answers",
    "acc_norm": "the share of right answers, with choices compared by likelihood per character",
    "perplexity": "e to the power of the mean loss",
    "word_perplexity": "e to the power of the mean loss per word",
    "byte_perplexity": "e to the power of the mean loss per byte",
    "bits_per_byte": "the mean loss per byte, in bits",
}
"""What lm-eval's names of metrics mean."""
_OF_TASKS = ("task", "description", "num_fewshot", "batch_size", "version")
HEALED = "healed."
"""What the names of figures of a healed edit begin with, in a search."""
_OTHERS = {
    "heldout_rise": "rise of the loss on held-out text, nats per token",
    **COSTS,
    "estimated_kl": "estimated KL divergence, nats per token",
    "estimated_margin": "estimated mean square change of margins, nats²",
    "estimated_recited": "estimated share recited word for word",
}
_ON_THE_CARD = ("recited", "next_token_accuracy")
"""Measures that the model index has."""
_SIDE: dict[str, On] = {"taught": "taught", "unlisted": "not listed", "all": "all"}
"""Tables of other passages than those of the main figures."""


def name_figures(
    figures: Sequence[Measured],
    samples: SamplesRecord | None = None,
    tasks: Iterable[Mapping[str, Any]] = (),
) -> Names:
    """The names of all figures, in the order of the tables. `tasks`: each with its `task`, main
    `metric`, `description`, and how it was asked."""
    there = dict.fromkeys(figure.name.removeprefix(HEALED) for figure in figures)
    named: Names = dict(_name_recital(there, samples))
    subjects = (name.removeprefix("recovered.") for name in there if name.startswith("recovered."))
    for attack in dict.fromkeys(subject.partition(" ")[0] for subject in subjects):
        named |= _name_attack(find_attack(attack), there, figures)
    for name in there:
        if name.startswith("membership."):
            score = name.removeprefix("membership.")
            hint = "area under the ROC curve; 0.5 is chance"
            named[name] = Named(label=f"membership by {score}", hint=hint)
    for task in tasks:
        named |= _name_task(task, there, figures)
    if "heldout" in there:
        kinds = {
            figure.details.get("kind", "text") for figure in figures if figure.name == "heldout"
        }
        what = "held-out text" if "text" in kinds else "passages that no model was trained on"
        named["heldout"] = Named(label=f"loss on {what}, nats per token", main=True)
    if "form" in there:
        hint = "passages of the same form that no model was trained on"
        label = "loss on new text of the passages' form, nats per token"
        named["form"] = Named(label=label, hint=hint, main=True)
    named |= {name: Named(label=label) for name, label in _OTHERS.items() if name in there}
    for name in (one for one in there if one not in named):  # a task of a search
        plain = name.removeprefix("task.")
        named[name] = Named(label=plain, main=True, details={"task": plain})
    return named | _name_healed(figures, named)


def _name_healed(figures: Iterable[Measured], named: Names) -> Names:
    every = dict.fromkeys(figure.name for figure in figures if figure.name.startswith(HEALED))
    plain = {name: named[name.removeprefix(HEALED)] for name in every}
    return {
        name: one.model_copy(update={"label": f"{one.label}, once healed"})
        for name, one in plain.items()
    }


def _name_recital(
    there: Iterable[str], samples: SamplesRecord | None
) -> Iterator[tuple[str, Named]]:
    """Of every measure, by how often passages were seen, and of what is left of it."""
    for one in MEASURES:
        key = one.figure or one.name
        for name in there:
            label, known = one.label, dict[str, Any]()
            if name.startswith(f"{key}."):
                count = name.removeprefix(f"{key}.")
                label = _describe_count(count) if key == "recited" else f"{label}, {count}"
            elif name != key:
                continue
            if name in _ON_THE_CARD and samples is not None:
                known = {
                    "metric": one.name,
                    "dataset_type": "memorized-passages",
                    "dataset_name": "passages of the training data",
                    "prefix_length": samples.prefix_length,
                    "suffix_length": samples.suffix_length,
                }
            yield name, Named(label=label or key, main=name == "recited", details=known)


def _describe_count(count: str) -> str:
    """Says how often the passages of a stratum were seen in training."""
    return {"0": "never seen", "1": "seen once"}.get(count, f"seen {count.replace('-', '–')} times")


def _name_attack(attack: Attack, there: Iterable[str], figures: Sequence[Measured]) -> Names:
    """What it recovers, at each of its steps and learning rates if it has any."""
    key, found = f"recovered.{attack.name}", Names()
    runs = {figure.runs for figure in figures if figure.name == key}
    said = say_runs(runs)
    said = f", {said}" if said else ""
    for name in there:
        if name == key:
            facts = {"setting": attack.setting, "source": attack.source, "cost": attack.cost}
            known: dict[str, Any] = {at: _print(text) for at, text in facts.items()}
            known |= {"attack": attack.name, "attacker": find_attacker(attack.name)}
            known["trains"] = attack.name in TRAINING or bool(attack.stages)
            label, hint = f"recovered by {attack.name}{said}", _print(attack.definition)
            found[name] = Named(label=label, hint=hint, main=True, details=known)
        elif name.startswith(f"{key} at "):
            rate = name.removeprefix(f"{key} at ")
            found[name] = Named(label=f"by any, {attack.name} at {rate}{said}")
        elif name.startswith(f"{key} "):
            steps = int(name.removeprefix(f"{key} "))
            one = ", one run" if runs != {None} else ""
            found[name] = Named(
                label=f"by any, after {steps:,} steps of {attack.name}{one}",
                details={"steps_of": attack.name, "steps": steps},
            )
    return found


def _print(text: str) -> str:
    return make_printable(text)[:MOST_LETTERS]


def _name_task(task: Mapping[str, Any], there: Iterable[str], figures: Sequence[Measured]) -> Names:
    """Every metric of a task. Tables show only the main one."""
    found, key = Names(), f"task.{task['task']}"
    for name in there:
        main = name == key
        if not main and not name.startswith(f"{key} "):
            continue
        metric = task["metric"] if main else name.removeprefix(f"{key} ")
        higher = task["higher_is_better"][metric]
        meaning = f"{metric} is {_METRICS[metric]}" if metric in _METRICS else ""
        about = (task["description"] or "").rstrip(".")
        known = {
            **{
                at: task[at]
                for at in ("task", "description", "num_fewshot", "batch_size", "version")
            },
            "dataset_type": task["task"],
            "dataset_name": task["task"],
            "metric": metric,
            "higher_is_better": higher,
        }
        found[name] = Named(
            label=f"{task['task']}, {metric}{'' if higher else ', lower is better'}",
            hint="; ".join(filter(None, (about, meaning))),
            main=main,
            details=known,
        )
    return found


def make_tables(names: Names, figures: Sequence[Measured], **known: Any) -> list[Table]:
    """Every table that has figures, in the order of the page. `known`: for the template."""
    shown = _list_shown(names, figures)
    found: dict[str, list[str]] = {}
    for line in render("tables", **known):
        if line.startswith("# "):
            found[line.removeprefix("# ")] = []
        else:
            found[[*found][-1]].append(line)
    return [
        Table(key=key, heading=heading, text=" ".join(text), on=_SIDE.get(key), names=shown[key])
        for (key, _, heading), text in ((one.partition(": "), said) for one, said in found.items())
        if shown[key]
    ]


def _list_shown(names: Names, figures: Sequence[Measured]) -> dict[str, list[str]]:
    """Table → the figures that it shows."""
    labels = {one.figure or one.name for one in MEASURES if one.label}
    attacks = [name for name in names if name.startswith(("recovered.", "membership."))]
    shown = {
        "recited": [n for n in names if n in labels or n.startswith("recited.")],
        "attacked": attacks,
        "cost": [n for n, one in names.items() if ("task" in one.details and one.main)],
    }
    shown["cost"] += [name for name in ("heldout", "form") if name in names]
    main = dict[str, On | None]()
    for one in figures:  # the main figures come first
        main.setdefault(one.name, one.on)
    for key, on in _SIDE.items():
        others = dict.fromkeys(
            figure.name for figure in figures if figure.on == on != main[figure.name]
        )
        shown[key] = [name for name in names if name in others]
    return shown
