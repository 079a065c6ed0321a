"""Contract: the product behind compact weights is accurate, and independent of summation order."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.product import multiply


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_accurate(dtype: type) -> None:
    generator = np.random.default_rng(0)
    a = (generator.standard_normal((40, 96)) * 10.0 ** generator.integers(-3, 3, (40, 1))).astype(
        dtype
    )
    b = generator.standard_normal((96, 30)).astype(dtype)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    scale = np.abs(a).max(1, keepdims=True).astype(float) * np.abs(b).max(0).astype(float)
    error = np.abs(multiply(a, b) - exact.astype(np.float64)) / scale
    assert error.max() < 96 * 2.0**-44


def test_order_of_the_sum_does_not_matter() -> None:
    """Permuting the inner dimension reorders every sum: a plain product's last bits would move."""
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal((64, 512)), generator.standard_normal((512, 64))
    expected, plain, moved = multiply(a, b), a @ b, False
    for _ in range(5):
        order = generator.permutation(512)
        assert np.array_equal(multiply(a[:, order], b[order]), expected)
        moved |= not np.array_equal(a[:, order] @ b[order], plain)
    assert moved


def test_zeros_and_single_columns() -> None:
    assert np.array_equal(multiply(np.zeros((3, 4)), np.ones((4, 1))), np.zeros((3, 1)))
