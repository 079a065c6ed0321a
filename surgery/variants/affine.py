"""The one idea: a head's context vector as an affine map of its own token.

Attention gives head h of token t the context vector z_h(t) = Σ_j a_tj v_j. An attention-free
variant puts z_h(t) = M_h x_t + c_h in its place, x_t being the block's attention input after its
layer norm. The output projection stays: the branch adds Σ_h W_O^h z_h + b_O to the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # help texts name the variants, and numpy takes long to import
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

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
class Sources:
    """What a variant may look at in a block.

    `weight` [num_heads, head_size, d] is W_V; `bias` [num_heads, head_size] is b_V, or None where
    the architecture has no value bias. `fit` is there for variants that are `FITTED`.
    """

    weight: Array
    bias: Array | None
    fit: Fit | None = None

    @property
    def fitted(self) -> Fit:
        """The fit, for a variant that cannot be without one."""
        if self.fit is None:
            raise ValueError("a fitted variant needs the fit of its block")
        return self.fit


@dataclass(frozen=True)
class Affine:
    """The maps (M_h, c_h) of heads of a block.

    `weight` [num_heads, head_size, d] is M, `bias` [num_heads, head_size] is c; None stands for
    exactly zero.
    """

    weight: Array | None
    bias: Array | None


class Variant(Protocol):
    """An attention-free variant: one module per variant provides these names.

    `KIND` says what the branch becomes, so that a plan can be made without reading a tensor: an
    "affine" map of the token, a "constant" (M = 0), or "none" (nothing is added). `FITTED` says
    whether it needs calibration text.
    """

    NAME: str
    SUMMARY: str
    KIND: Kind
    FITTED: bool

    def affine(self, sources: Sources, /) -> Affine: ...
