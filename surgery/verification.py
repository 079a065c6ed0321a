"""Proves that an exported folder is what its manifest says, down to the last byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.blocks import format_blocks
from surgery.checkpoint.copying import sha256_of
from surgery.checkpoint.source import Checkpoint, open_checkpoint
from surgery.checkpoint.tensors import DTYPES
from surgery.errors import ManifestError, SurgeryError
from surgery.hub import find_model
from surgery.inventory import take_inventory
from surgery.manifest import NAME as MANIFEST
from surgery.manifest import Manifest, read_manifest
from surgery.plan import make_plan

_CODE_OR_WEIGHTS = {".py", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}


@dataclass(frozen=True)
class Check:
    """One thing that was proved or refuted."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True)
class Verification:
    """All checks of a folder; `ok` when every one holds."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "folder": str(self.folder),
            "checks": [check.to_json() for check in self.checks],
        }


def verify(
    folder: str | Path, *, source: str | Path | None = None, revision: str | None = None
) -> Verification:
    """Checks an exported folder.

    1. `files`: every file has its recorded SHA-256, and no weights or code lie beside them.
    2. `untouched` and `rewritten` (with `source`): every tensor that the edit left alone is
       byte-equal to the source's, and every other one equals what the edit computes from it.
    3. `attention-free`: the model is loaded through transformers, and for each edited block the
       attention output of a token does not change when every other token does; for the other
       blocks it does.

    The model is loaded only if the files are sound. **Raises:** `ManifestError` when the folder has
    no manifest; errors of reading the source.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest is None:
        raise ManifestError(
            f"has no {MANIFEST}", where=path, fix="verify a folder that `attn-surgery export` wrote"
        )
    checks = [_guarded("files", lambda: _check_files(path, manifest))]
    if checks[0].ok and source is not None:
        original = open_checkpoint(find_model(source, revision)[0])
        checks += _check_tensors(open_checkpoint(path), original, manifest)
    if all(check.ok for check in checks):
        checks += _check_behavior(path, manifest)
    return Verification(path, tuple(checks))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except SurgeryError as error:
        return Check(name, False, str(error))


def _check_files(folder: Path, manifest: Manifest) -> Check:
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return Check("files", False, f"{name} is missing")
        if path.stat().st_size != record.size or sha256_of(path) != record.sha256:
            return Check("files", False, f"{name} differs from its recorded SHA-256")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.suffix in _CODE_OR_WEIGHTS and relative not in manifest.files:
            return Check("files", False, f"{relative} is not in the manifest")
    total = sum(record.size for record in manifest.files.values())
    return Check("files", True, f"{len(manifest.files)} files, {total:,} bytes, SHA-256 equal")


def _check_tensors(result: Checkpoint, original: Checkpoint, manifest: Manifest) -> list[Check]:
    edit = manifest.edit
    touched = {*edit.changed.rewritten, *edit.changed.added, *edit.changed.dropped}
    checks = []
    untouched = [name for name in original.tensors if name not in touched]
    different = [
        name
        for name in untouched
        if name not in result.tensors
        or result.infos[name] != original.infos[name]
        or result.tensors[name].raw() != original.tensors[name].raw()
    ]
    strange = sorted(set(result.tensors) - set(original.tensors) - set(edit.changed.added))
    left = sorted(set(edit.changed.dropped) & set(result.tensors))
    if different or strange or left:
        wrong = (different + strange + left)[0]
        checks.append(Check("untouched", False, f"tensor {wrong!r} is not the source's"))
    else:
        count = f"{len(untouched)} tensors byte-equal to the source"
        checks.append(Check("untouched", True, count))
    checks.append(_guarded("rewritten", lambda: _check_rewritten(result, original, manifest)))
    return checks


def _check_rewritten(result: Checkpoint, original: Checkpoint, manifest: Manifest) -> Check:
    edit = manifest.edit
    inventory = take_inventory(original.config, original.infos)
    spec = format_blocks(tuple(edit.blocks))
    plan = make_plan(inventory, spec, variant=edit.variant, layout=edit.layout)
    for change in plan.changes:
        if change.action == "drop":
            continue
        expected = plan.compute(change, original.read)
        expected = expected.astype(DTYPES[inventory.dtype], copy=False)
        if change.name not in result.tensors or not np.array_equal(
            expected.reshape(-1).view(np.uint8), result.read(change.name).reshape(-1).view(np.uint8)
        ):
            return Check(
                "rewritten", False, f"tensor {change.name!r} is not what {edit.variant} makes of it"
            )
    return Check("rewritten", True, f"{len(plan.rewritten)} tensors repeat bit for bit")


def _check_behavior(folder: Path, manifest: Manifest) -> list[Check]:
    from surgery.mixing import attention_mixes  # needs torch and transformers

    try:
        mixes = attention_mixes(folder)
    except SurgeryError as error:
        return [Check("loads", False, str(error))]
    checks = [Check("loads", True, "through transformers, no weight missing")]
    free = manifest.attention_free
    for block, mixing in mixes.items():
        if block in free:
            detail = "depends on other tokens" if mixing else "depends on its own token alone"
            checks.append(
                Check(f"block {block} attention-free ({free[block]})", not mixing, detail)
            )
    attending = [block for block in mixes if block not in free]
    idle = [block for block in attending if not mixes[block]]
    blocks = format_blocks(tuple(idle or attending)) or "no other block"
    detail = f"blocks {blocks} no longer mix tokens" if idle else f"{blocks}: attention still mixes"
    checks.append(Check("other blocks", not idle, detail))
    return checks
