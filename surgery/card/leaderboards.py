"""`.eval_results/*.yaml`: results of benchmarks that have a leaderboard on the Hub.

The Hub reads them beside the card's `model-index`, for data sets that are registered as benchmarks,
under the task that such a data set names.
"""

from __future__ import annotations

import yaml

from surgery.card.measured import Measured

REGISTERED = {
    "gpqa_diamond_zeroshot": ("Idavidrein/gpqa", "gpqa_diamond"),
    "gpqa_diamond_n_shot": ("Idavidrein/gpqa", "gpqa_diamond"),
    "gsm8k": ("openai/gsm8k", "gsm8k"),
}
"""lm-eval's task → data set and its task. Only what the Hub documents as registered."""
FILES = frozenset(f".eval_results/{name}.yaml" for name in REGISTERED)


def eval_results(measured: Measured) -> dict[str, str]:
    """File → text, for each registered benchmark that was measured.

    The value is the main metric of the edited model, a fraction. Empty where huggingface_hub is
    older than the format.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        return {}
    found = {}
    for name in sorted(REGISTERED.keys() & measured.tasks.keys()):
        task = measured.tasks[name]
        entry = EvalResultEntry(
            *REGISTERED[name],
            value=task.edited,
            notes=f"lm-eval {name}, {task.num_fewshot}-shot, {task.metric}",
        )
        found[f".eval_results/{name}.yaml"] = yaml.safe_dump(
            eval_result_entries_to_yaml([entry]), sort_keys=False
        )
    return found
