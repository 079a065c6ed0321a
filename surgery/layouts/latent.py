"""Multi-head latent attention (DeepSeek-V3) in the layout `stock`: what its heads share.

Queries come from a latent, q = W_b norm(W_a x + b_a), and so do keys and values. The rotated part
of keys is made beside that latent, once for all heads. No head has biases of its own, so constants
enter before: W_a = 0 and b_a = 1 make the norm return one for every token, of which a gain of 1, 0,
0, … leaves the first. The first column of W_b then holds the constants of queries. Keys have theirs
in the biases of their rotated part. The other dimensions of queries and keys are zero. Values are
not touched: their latent stays.

**Limits:** all heads share both, so only a whole block attends to itself alone. The norm stands
before the values, so they cannot hold a map of the token.
"""

from __future__ import annotations

from surgery.families import Role
from surgery.layouts.block import Array, Block

QUERY: tuple[Role, ...] = ("query_latent_weight", "query_latent_bias", "query_latent_norm")
KEY_VALUE: tuple[Role, ...] = ("key_value_latent_weight", "key_value_latent_bias")
NORM: Role = "key_value_latent_norm"


def list_roles(block: Block, *, alone: bool, idle: bool) -> list[Role]:
    """The shared tensors that hold an edit: of a block whose heads attend to themselves `alone`, or
    are all `idle`."""
    if alone:
        return [*QUERY, *KEY_VALUE]
    return [role for role in (*QUERY, *KEY_VALUE, NORM) if idle and block.has(role)]


def compute(role: Role, kappa: int | None, pairs: slice, block: Block, stored: Array) -> Array:
    """The new content of such a tensor. `kappa`: the constant at `pairs` of keys; None: idle."""
    if kappa is None or role == "query_latent_weight":
        stored[:] = 0
    elif role == "query_latent_bias":
        stored[:] = 1
    elif role == "query_latent_norm":
        stored[:] = 0
        stored[0] = 1
    else:
        rotated = stored[-block.dimensions.rotated :]
        rotated[:] = 0
        if role == "key_value_latent_bias":
            rotated[pairs] = kappa
    return stored
