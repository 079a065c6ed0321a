"""The margins of recited tokens: how far the model is from saying something else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.running.forward import head_of, hidden_states
from evals.samples import Samples

_ROWS = 8  # at a time


@torch.inference_mode()
def margins(model: PreTrainedModel, samples: Samples) -> npt.NDArray[np.float32]:
    """The true token's logit less the largest of all others, at every suffix token: [N, S]."""
    head, found = head_of(model), []
    for rows in torch.split(torch.from_numpy(samples.tokens.astype(np.int64)), _ROWS):
        hidden, _ = hidden_states(model, rows[:, :-1])
        logits = head(hidden[:, samples.prefix_length - 1 :]).float()
        true = rows[:, samples.prefix_length :].to(logits.device).unsqueeze(-1)
        others = logits.scatter(-1, true, float("-inf")).amax(-1)
        found.append((logits.gather(-1, true).squeeze(-1) - others).cpu().numpy())
    margins: npt.NDArray[np.float32] = np.concatenate(found)
    return margins
