"""The one idea: a head's context vector as an affine map of its own token.

Attention gives head h of token t the context vector z_h(t) = Σ_j a_tj v_j. An attention-free
variant puts z_h(t) = M_h x_t + c_h in its place, x_t being the block's attention input after its
layer norm. The output projection stays: the branch adds Σ_h W_O^h z_h + b_O to the residual.

**identity** (M_h = W_V^h, c_h = b_V^h): every token attends to itself alone, so the branch is W_O
(W_V x + b_V) + b_O. Later blocks get the token's own values at a scale that training never showed
them, so a single block can cost more than removing the branch. Source: the short-circuit of Menta,
Agrawal and Agarwal, *Analyzing Memorization in Large Language Models through the Lens of Model
Attribution*, NAACL 2025 (arXiv 2501.05078), section 3, which replaces the attention matrix by the
identity matrix.

**zero** (M_h = 0, c_h = 0): the branch adds nothing. The output bias b_O goes, too, when the whole
block is edited. Where a branch mostly adds a constant, its mean is lost. Source: the attention drop
of He, Sun, Shen and Li, *What Matters in Transformers? Not All Attention is Needed* (LLM-Drop,
arXiv 2406.15786), section 3.

**mean** (M_h = 0, c_h = the mean of z_h over the tokens of calibration text): the branch adds what
it adds on average. It keeps nothing of what attention says about one token in particular, and needs
text that resembles the model's use. Source: mean ablation, as in Wang, Variengien, Conmy, Shlegeris
and Steinhardt, *Interpretability in the Wild* (arXiv 2211.00593), section 2.

**linear** ((M_h, c_h) minimize the mean over calibration tokens of |z_h - M_h x - c_h|² plus a
ridge penalty on M_h, in closed form): the best affine guess of what attention adds, from the token
alone. It needs many more tokens than the model is wide. The more a block depends on other tokens,
the less it explains (R² on held-out text is recorded with the result). Fitting z_h in place of the
branch's output loses nothing: where W_O has full rank, the least squares of W_O z on x are W_O
times those of z. Source: ridge regression of z_h on x.

A new variant is a record in `VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from surgery.errors import UnsupportedError

if TYPE_CHECKING:  # help texts name the variants, and numpy takes long to import
    import numpy as np
    import numpy.typing as npt

Kind = Literal["affine", "constant", "none"]


@dataclass(frozen=True)
class Fit:
    """What calibration text says about one block's heads, each with attention as it is.

    Arrays are float32, so that whatever dtype they end in is rounded from the same numbers.

    - `mean`: [num_heads, head_size], the mean of z_h.
    - `weight`, `bias`: [num_heads, head_size, d] and [num_heads, head_size], the least squares of
      z_h on x; None, as the rest, where only the mean was asked for.
    - `ridge`: the penalty that was chosen, as a share of the mean variance of x.
    - `r2`: the share of the variance of z (all heads) that the map explains on held-out text, at
      most 1; None where x or z does not vary. `r2_shared`: that share if the heads of each group
      had one map, the mean of theirs, as the stock layout stores it; None without such groups.
    """

    mean: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None
    ridge: float | None = None
    r2: float | None = None
    r2_shared: float | None = None


@dataclass(frozen=True)
class Variant:
    """An attention-free variant.

    `kind` says what the branch becomes: an "affine" map of the token, a "constant" (M = 0), or
    "none" (nothing is added). `fitted` says whether it needs calibration text.
    """

    name: str
    summary: str
    kind: Kind
    fitted: bool


_ALL = (
    Variant(
        "identity",
        "each token attends to itself alone (the short-circuit): W_O (W_V x + b_V) + b_O",
        "affine",
        fitted=False,
    ),
    Variant("zero", "the attention branch is removed and adds nothing", "none", fitted=False),
    Variant("mean", "the branch adds its mean on calibration text", "constant", fitted=True),
    Variant(
        "linear",
        "the branch becomes its best affine fit from the token alone, on calibration text",
        "affine",
        fitted=True,
    ),
)
VARIANTS = {variant.name: variant for variant in _ALL}
SUMMARIES = "; ".join(f"{name}: {variant.summary}" for name, variant in VARIANTS.items())
"""What each variant is, in one line."""


def needs_text(names: Iterable[str]) -> UnsupportedError:
    """What to say where fitted variants have no calibration text."""
    return UnsupportedError(
        f"variant {' and '.join(sorted(set(names)))} needs calibration text",
        fix="name text files that resemble the model's use with `calibration`",
    )


def variant_of(name: str) -> Variant:
    """The variant of that name."""
    if (found := VARIANTS.get(name)) is None:
        raise UnsupportedError(f"unknown variant {name!r}", expected=" or ".join(VARIANTS))
    return found
