"""Contract: whatever a foreign file holds, it is read, or refused with an error of ours.

    FUZZ_INPUTS=100000 python -m pytest -s tests/hostile/test_fuzz.py

Each input is a valid file that was changed by chance, with a fixed seed. Any other exception is a
failure, and so are a warning, an input that takes longer than `SLOWEST`, and an allocation that
fails: what a file merely claims takes no memory. A failing input stays where it was read.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from hostile.fuzz import FORMS
from hostile.readers import Reader, make_readers
from surgery.errors import SurgeryError

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1000"))
SLOWEST = 20.0
"""Seconds for one input; a shared machine may stand still for a while."""


def refusal_of(reader: Reader) -> SurgeryError | None:
    try:
        reader.read(reader.path)
    except SurgeryError as error:
        return error
    return None


@pytest.mark.slow
def test_inputs_are_read_or_refused(tmp_path: Path) -> None:
    found = make_readers(tmp_path)
    total = sum(reader.share for reader in found.values())
    for name, reader in found.items():
        draw, refused = random.Random(name), 0
        reader.path.write_bytes(reader.content)
        assert refusal_of(reader) is None
        inputs = max(1, round(INPUTS * reader.share / total))
        print(f"{name}: {inputs:,} inputs", end="", flush=True)
        for _ in range(inputs):
            reader.path.write_bytes(FORMS[reader.form](draw, reader.content))
            begun = time.monotonic()
            error = refusal_of(reader)
            assert time.monotonic() - begun < SLOWEST
            if error is not None:
                refused += 1
                assert "\n" not in str(error)
                assert not isinstance(error.__cause__, MemoryError | Warning)
        print(f", {refused:,} refused")
        assert refused, f"{name}: nothing was hostile enough"
        reader.path.write_bytes(reader.content)
