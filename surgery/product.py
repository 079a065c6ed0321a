"""A matrix product that is the same on every machine, bit for bit.

BLAS libraries add in an order that depends on the processor, so a plain product differs in its last
bits between machines, and an exported file could not be reproduced. Here each factor is split into
slices so narrow that every sum of products is exact in float64, whatever the order; the few partial
products are then added in a fixed order. Source: Ozaki, Ogita, Oishi and Rump, *Error-free
transformations of matrix multiplication by using fast routines of matrix multiplication*, Numerical
Algorithms 59 (2012), algorithm 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def multiply(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Matrix:
    """`a` [n, k] @ `b` [k, m] → float64 [n, m].

    The relative error, against the largest entry of a row of `a` times that of a column of `b`, is
    below k 2^(-2 beta) with beta = (53 - log2 k) // 2: 2^-31 for k = 2,048, far below the rounding
    of any checkpoint dtype.
    """
    bits = (53 - math.ceil(math.log2(max(a.shape[1], 2)))) // 2
    a_high, a_low = _slices(np.asarray(a, np.float64), bits, axis=1)
    b_high, b_low = _slices(np.asarray(b, np.float64), bits, axis=0)
    result: Matrix = a_high @ b_high
    result += a_high @ b_low
    result += a_low @ b_high
    return result


def _slices(matrix: Matrix, bits: int, axis: int) -> tuple[Matrix, Matrix]:
    """Two slices of at most `bits` bits each, below the largest entry along `axis`."""
    largest = np.abs(matrix).max(axis=axis, keepdims=True, initial=0.0)
    _, exponent = np.frexp(largest)
    high = _round_to(matrix, exponent - bits)
    low = _round_to(matrix - high, exponent - 2 * bits)
    return high, low


def _round_to(matrix: Matrix, exponent: npt.NDArray[Any]) -> Matrix:
    """Rounds every entry to a multiple of 2^exponent."""
    rounded: Matrix = np.ldexp(np.rint(np.ldexp(matrix, -exponent)), exponent)
    return rounded
