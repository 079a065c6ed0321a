"""The one idea: a head's context vector as an affine map of its own token.

Attention gives head h of token t the context vector z_h(t) = Σ_j a_tj v_j. An attention-free
variant puts z_h(t) = M_h x_t + c_h in its place, x_t being the block's attention input after its
layer norm. The output projection stays: the branch adds Σ_h W_O^h z_h + b_O to the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

Kind = Literal["affine", "constant", "none"]
Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor: a variant only passes tensors on


@dataclass(frozen=True)
class ValueWeights(Generic[Array]):
    """What a variant may look at in a block.

    `weight` [num_heads, head_size, d] is W_V; `bias` [num_heads, head_size] is b_V, or None where
    the architecture has no value bias.
    """

    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class Affine(Generic[Array]):
    """The maps (M_h, c_h) of all heads of a block.

    `weight` [num_heads, head_size, d] is M, `bias` [num_heads, head_size] is c; None stands for
    exactly zero. `keep_output_bias` tells whether b_O is still added.
    """

    weight: Array | None
    bias: Array | None
    keep_output_bias: bool = True


class Variant(Protocol):
    """An attention-free variant: one module per variant provides these names.

    `KIND` says what the branch becomes, so that a plan can be made without reading a tensor: an
    "affine" map of the token, a "constant" (M = 0), or "none" (nothing is added).
    """

    @property
    def NAME(self) -> str: ...
    @property
    def SUMMARY(self) -> str: ...
    @property
    def KIND(self) -> Kind: ...
    def affine(self, values: ValueWeights[Array], /) -> Affine[Array]: ...
