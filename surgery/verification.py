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
from surgery.errors import ManifestError, SurgeryError
from surgery.hub import find_model
from surgery.inventory import take_inventory
from surgery.manifest import NAME as MANIFEST
from surgery.manifest import Edit, Manifest, read_manifest
from surgery.modeling import MODELING_FILE
from surgery.plan import Plan, make_plan
from surgery.rewriting import changed_by, new_content
from surgery.selection import Part, format_selection

CODE_OR_WEIGHTS = {".py", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}


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
    2. With `source`, the edit is planned anew. `edit`: the manifest and config.json say what that
       plan says; `carried`: tokenizer, license and the like are the source's; `untouched`: every
       tensor that the plan leaves alone is byte-equal to the source's; `rewritten`: every other one
       equals what the edit computes from it.
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
        checks += _check_source(path, original, manifest)
    if all(check.ok for check in checks):
        checks += _check_behavior(path, manifest)
    return Verification(path, tuple(checks))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except SurgeryError as error:
        return Check(name, False, str(error))


def _check_files(folder: Path, manifest: Manifest) -> Check:
    if "config.json" not in manifest.files:
        return Check("files", False, "config.json is not in the manifest")
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return Check("files", False, f"{name} is missing")
        if path.stat().st_size != record.size or sha256_of(path) != record.sha256:
            return Check("files", False, f"{name} differs from its recorded SHA-256")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.suffix in CODE_OR_WEIGHTS and relative not in manifest.files:
            return Check("files", False, f"{relative} is not in the manifest")
    total = sum(record.size for record in manifest.files.values())
    return Check("files", True, f"{len(manifest.files)} files, {total:,} bytes, SHA-256 equal")


def _check_source(folder: Path, original: Checkpoint, manifest: Manifest) -> list[Check]:
    edit = manifest.edit
    try:
        result = open_checkpoint(folder)
        inventory = take_inventory(original.config, original.infos)
        plan = make_plan(inventory, tuple(edit.parts), layout=edit.layout)
    except SurgeryError as error:
        return [Check("edit", False, str(error))]
    return [
        _check_edit(result, edit, plan),
        _check_carried(result, original, manifest, plan),
        _check_untouched(result, original, plan),
        _guarded("rewritten", lambda: _check_rewritten(result, original, plan)),
    ]


def _check_edit(result: Checkpoint, edit: Edit, plan: Plan) -> Check:
    expected = dict(plan.config)
    if "auto_map" in expected:  # `carried` judges it together with the code that it names
        expected["auto_map"] = result.config.get("auto_map")
    if result.config != expected:
        return Check("edit", False, "config.json is not what the edit makes of the source's")
    planned = {
        "family": plan.family.model_type,
        "num_blocks": plan.inventory.dimensions.num_blocks,
        "num_heads": plan.inventory.dimensions.num_heads,
        "changed": changed_by(plan),
        "one_hot": plan.one_hot,
    }
    for field, value in planned.items():
        if value != getattr(edit, field):
            return Check("edit", False, f"the manifest's {field} is not what the edit does")
    return Check("edit", True, f"blocks {plan.spec}, {edit.variant}")


def _check_carried(
    result: Checkpoint, original: Checkpoint, manifest: Manifest, plan: Plan
) -> Check:
    names = [path.relative_to(original.folder).as_posix() for path in original.sidecars]
    for name, path in zip(names, original.sidecars, strict=True):
        if name not in manifest.files or manifest.files[name].sha256 != sha256_of(path):
            return Check("carried", False, f"{name} is not the source's")
    if plan.layout.NAME == "compact":
        code = {n: file.sha256 for n, file in manifest.files.items() if n.endswith(".py")}
        ours = {MODELING_FILE.name: sha256_of(MODELING_FILE)}
        if code != ours or result.config.get("auto_map") != plan.config["auto_map"]:
            wrote = manifest.edit.versions.get("attn-surgery", "unknown")
            found = ", ".join(code) or MODELING_FILE.name
            detail = f"{found} is not this version's (exported by version {wrote})"
            return Check("carried", False, detail)
    return Check("carried", True, f"{len(names)} files equal to the source's")


def _check_untouched(result: Checkpoint, original: Checkpoint, plan: Plan) -> Check:
    untouched = set(original.tensors) - {*plan.rewritten, *plan.dropped}
    wrong = set(result.tensors) ^ (untouched | set(plan.rewritten))  # missing, or of no one
    wrong |= {
        name
        for name in untouched & set(result.tensors)
        if result.infos[name] != original.infos[name]
        or result.tensors[name].raw() != original.tensors[name].raw()
    }
    if wrong:
        return Check("untouched", False, f"tensor {min(wrong)!r} is not the source's")
    return Check("untouched", True, f"{len(untouched)} tensors byte-equal to the source")


def _check_rewritten(result: Checkpoint, original: Checkpoint, plan: Plan) -> Check:
    """Repeats the edit. What was fitted cannot be repeated without its calibration text."""
    repeated = 0
    for change in plan.changes:
        if change.action == "drop" or change.block in plan.fitted:
            continue
        repeated += 1
        expected, found = new_content(change, plan, original.read), result.read(change.name)
        if (expected.shape, expected.dtype) != (found.shape, found.dtype) or not np.array_equal(
            expected.reshape(-1).view(np.uint8), found.reshape(-1).view(np.uint8)
        ):
            detail = f"tensor {change.name!r} is not what {plan.variant} makes of it"
            return Check("rewritten", False, detail)
    detail = f"{repeated} tensors repeat bit for bit"
    fitted = len(plan.rewritten) - repeated
    if fitted:
        detail += (
            f"; {fitted} were fitted to calibration text (attn-surgery reproduce repeats that)"
        )
    return Check("rewritten", True, detail)


def _check_behavior(folder: Path, manifest: Manifest) -> list[Check]:
    from surgery.mixing import mixing_heads  # needs torch and transformers

    try:
        opened = open_checkpoint(folder)
        take_inventory(opened.config, opened.infos)
        mixes = mixing_heads(folder)
    except (SurgeryError, FloatingPointError) as error:
        return [Check("loads", False, str(error))]
    checks = [Check("loads", True, "through transformers, no weight missing")]
    edited, heads = manifest.edited_heads, manifest.edit.num_heads
    for block, variants in edited.items():
        mixing = mixes.get(block)  # None: no such block
        whole = len(variants) == heads
        spec = format_selection([Part(block, tuple(variants), "")], heads)
        name = f"block {block} attention-free" if whole else f"heads {spec} attention-free"
        wrong = [] if mixing is None else [head for head in variants if mixing[head]]
        detail = "depends on other tokens" if wrong else "depends on its own token alone"
        checks.append(
            Check(
                f"{name} ({', '.join(sorted(set(variants.values())))})",
                mixing is not None and not wrong,
                "no such block" if mixing is None else detail,
            )
        )
    attending = [block for block in mixes if len(edited.get(block, {})) < heads]
    idle = [
        block
        for block in attending
        if not any(mixes[block][head] for head in range(heads) if head not in edited.get(block, {}))
    ]
    blocks = format_blocks(tuple(idle or attending)) or "no other block"
    detail = f"blocks {blocks} no longer mix tokens" if idle else f"{blocks}: attention still mixes"
    checks.append(Check("other blocks", not idle, detail))
    return checks
