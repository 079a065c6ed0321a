"""Proves that an exported folder is what its manifest says, down to the last byte."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.card.file import read_card
from surgery.checkpoint.copying import sha256_of
from surgery.checkpoint.foreign import guard, own_file
from surgery.checkpoint.inventory import check_tokenizer
from surgery.checkpoint.source import (
    MANIFEST,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    Checkpoint,
    open_checkpoint,
)
from surgery.errors import CheckpointError, ManifestError, SurgeryError
from surgery.families import family_of
from surgery.hub.embedded import PREFIX
from surgery.hub.finding import find_model, local_folder
from surgery.hub.resolved import ResolvedModel
from surgery.modeling import MODELING_FILE
from surgery.output import is_unfinished
from surgery.plan import Plan
from surgery.proof.claims import Claim, Render, check_card, check_report, claims, read_told
from surgery.proof.expected import check_repeats, replanned
from surgery.record.manifest import REPORTS, UNLISTED, Manifest, read_manifest
from surgery.selection import Part, format_selection


@dataclass(frozen=True)
class Check:
    """One thing that was proved or refuted."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of a folder; `ok` when every one holds. `seed`: of the behavior's random input.

    `claims`: what the folder says and no check proves.
    """

    folder: Path
    checks: tuple[Check, ...]
    seed: int
    claims: tuple[Claim, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        failed = next((check for check in self.checks if not check.ok), None)
        if failed is not None:
            return f"NOT verified: {failed.name}: {failed.detail}"
        compared = any(check.name in _WITH_SOURCE for check in self.checks)
        how = "against its source" if compared else "on its own, without its source"
        names = ", ".join(claim.name for claim in self.claims)
        return f"verified {how}: {len(self.checks)} checks hold; claimed, not checked: {names}"

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "folder": str(self.folder),
            "seed": self.seed,
            "checks": [asdict(check) for check in self.checks],
            "claims": [asdict(claim) for claim in self.claims],
        }


def verify(
    folder: str | Path,
    *,
    source: str | Path | ResolvedModel | None = None,
    revision: str | None = None,
    seed: int | None = None,
    render: Render | None = None,
    card: bool = True,
) -> Verification:
    """Checks an exported folder. Each check rests on those before: it ends with one that fails.

    1. `files`: every file has its recorded SHA-256, nothing else lies there but the card, the
       reports and what a killed evaluation left, and no link leaves the folder.
    2. `contents`: weights, tokenizer and license, and no code but the compact layout's own file,
       byte for byte; and config.json has no key that the family does not know.
    3. `edit`: the edits, planned anew, are what the manifest and config.json say; with `source`,
       for that one.
    4. `tensors`: edited heads are exactly what makes them attention-free: `surgery.proof.expected`.
    5. With `source`, `carried`: tokenizer, license and the like are the source's; `untouched`:
       every tensor that the plan leaves alone is byte-equal to the source's; `rewritten`: every
       other one equals what the edit computes from it, except for what was fitted to text.
    6. `loads`, and for each edited block `attention-free`: the model is loaded through transformers
       and run on random tokens, and a token's context does not change when others do; for all other
       heads it does.
    7. With `render`, `report`: the figures of report.json agree with each other and with the
       manifest, and its pages show them. `card`: so do the generated parts of README.md.

    What else the folder says is named in `claims`: nothing can prove it from the files.

    **Arguments:** `source`: its recorded commit is fetched where it is a Hub id and `revision` says
    nothing else. `seed`: repeats the random input of an earlier run (default: a new one). `render`:
    what reads a report (`evals.publication.report.own_report`), without which none is read, and no
    card beside one. `card`: whether README.md is compared.

    **Raises:** `ManifestError` when the folder has no manifest; errors of finding the source.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest is None:
        raise ManifestError(
            f"has no {MANIFEST}", where=path, fix="verify a folder that `attn-surgery export` wrote"
        )
    found = None if source is None else _source(source, revision, manifest)
    proof = _Proof(path, manifest, found)
    names = [*_ALWAYS, *(_WITH_SOURCE if found is not None else ())]
    seed = secrets.randbits(32) if seed is None else seed
    checks: list[Check] = []
    try:
        for name in names:
            with guard(CheckpointError, "cannot be verified", path):
                detail = getattr(proof, name)()
            checks.append(Check(name, True, detail))
        name = "loads"
        checks += _behavior(path, manifest, seed)
        if not all(check.ok for check in checks):
            return Verification(path, tuple(checks), seed)
        name, told = "report", render and read_told(path, path, render, needed=False)
        if told:
            checks.append(Check(name, True, check_report(path, told)))
        name = "card"
        if card and read_card(path) is not None and (render or not (path / REPORTS[0]).exists()):
            checks.append(Check(name, True, check_card(path, manifest, told)))
    except SurgeryError as error:
        checks.append(Check(name, False, str(error)))
        return Verification(path, tuple(checks), seed)
    by = "" if found is None else "name" if _has_name(found) else "folder"
    return Verification(path, tuple(checks), seed, tuple(claims(path, manifest, told or None, by)))


def _source(
    source: str | Path | ResolvedModel, revision: str | None, manifest: Manifest
) -> ResolvedModel:
    recorded = manifest.edit.source
    named = isinstance(source, str) and source.casefold() == recorded.model.casefold()
    if named and revision is None and local_folder(recorded.model) is None:
        revision = recorded.commit
    return find_model(source, revision)


def _has_name(found: ResolvedModel) -> bool:
    """Whether its name is more than that of a folder."""
    return found.source.commit is not None or found.source.model.startswith(PREFIX)


_ALWAYS = ("files", "contents", "edit", "tensors")
_WITH_SOURCE = ("carried", "untouched", "rewritten")
_REPORTS = {Path(name).suffix for name in UNLISTED}


@dataclass(frozen=True)
class _Proof:
    """The checks that run no model. Each says what it found, or raises a `SurgeryError`."""

    folder: Path
    manifest: Manifest
    found: ResolvedModel | None  # the source, if it is given

    @cached_property
    def result(self) -> Checkpoint:
        return open_checkpoint(self.folder)

    @cached_property
    def original(self) -> Checkpoint:
        assert self.found is not None
        return self.found.checkpoint

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        return replanned(self.result, self.manifest, self.original if self.found else None)

    def files(self) -> str:
        listed = self.manifest.files
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                own_file(path, self.folder)
            elif path.is_dir():
                continue
            if not (self.manifest.accounts_for(name) or _is_left(Path(name))):
                raise CheckpointError(f"{name} is not in the manifest")
        for name, record in listed.items():
            path = self.folder / name
            if not path.is_file():
                raise CheckpointError(f"{name} is missing")
            if path.stat().st_size != record.size or sha256_of(path) != record.sha256:
                raise CheckpointError(f"{name} differs from its recorded SHA-256")
        total = sum(record.size for record in listed.values())
        return f"{len(listed)} files, {total:,} bytes, SHA-256 equal"

    def contents(self) -> str:
        result, edit = self.result, self.manifest.edit
        weights = {shard.path.name for shard in result.shards}
        read = {"config.json", *weights, *result.carried}
        if SAFETENSORS not in weights:
            read.add(SAFETENSORS_INDEX)
        code = "no code"
        if edit.layout == "compact":
            path = self.folder / MODELING_FILE.name
            if not path.is_file() or path.read_bytes() != MODELING_FILE.read_bytes():
                wrote = edit.versions.get("attn-surgery", "unknown")
                raise CheckpointError(f"{path.name} is not this version's (exported by {wrote})")
            read.add(path.name)
            code = f"{path.name} of this version"
        unknown = family_of(result.config).unknown_keys(result.config)
        if unknown:
            raise CheckpointError(f"config.json: {unknown[0][:60]!r} is no key of such a model")
        pickled = {shard.path.name for shard in result.shards if not shard.verbatim}
        strangers = sorted(set(self.manifest.files) - (read - pickled))
        if strangers:
            raise CheckpointError(f"{strangers[0]} is no part of an edited model")
        unlisted = sorted(read - set(self.manifest.files))
        if unlisted:
            raise CheckpointError(f"{unlisted[0]} is not in the manifest")
        check_tokenizer(self.folder)
        return f"weights, tokenizer and license, and {code}"

    def edit(self) -> str:
        if self.found is not None:
            ours, theirs = (family_of(c.config).title for c in (self.result, self.original))
            if ours != theirs:
                raise CheckpointError(f"the source is a {theirs} model, and this is a {ours} model")
            recorded = self.manifest.edit.source
            if recorded.content != self.found.identified.content:
                raise CheckpointError("the source is not the one that the manifest records")
            given = self.found.source
            if _has_name(self.found) and given.model.casefold() != recorded.model.casefold():
                raise ManifestError(f"the manifest names another source, {recorded.model}")
            if given.commit is not None and given.commit != recorded.commit:
                raise ManifestError("the manifest names another commit of the source")
            earlier = self.found.manifest
            if self.manifest.history != ([*earlier.history, earlier.edit] if earlier else []):
                raise ManifestError("the manifest's history is not the source's")
        return f"blocks {self.plans[0].spec}, {self.plans[0].variant}"

    def tensors(self) -> str:
        for plan in self.plans:
            actions = {"rewrite"} if plan.layout.NAME == "compact" else {"rewrite", "add"}
            check_repeats(plan, self.result, self.result.read, actions)
        hot = self.manifest.edit.one_hot
        if hot is None:
            return "hold what the layout puts there"
        return (
            f"queries and keys are the constants that leave a gap of {hot.gap:g} (needed: "
            f"{hot.required:g}) over {hot.num_offsets:,} offsets"
        )

    def carried(self) -> str:
        theirs = self.original.carried
        for name in sorted({*self.result.carried, *theirs}):
            record = self.manifest.files.get(name)
            if name not in theirs or record is None or record.sha256 != sha256_of(theirs[name]):
                raise CheckpointError(f"{name} is not the source's")
        return f"{len(theirs)} files equal to the source's"

    def untouched(self) -> str:
        result, original, plan = self.result, self.original, self.plans[0]
        untouched = set(original.tensors) - {*plan.rewritten, *plan.dropped}
        wrong = set(result.tensors) ^ (untouched | set(plan.rewritten))  # missing, or of no one
        wrong |= {
            name
            for name in untouched & set(result.tensors)
            if result.infos[name] != original.infos[name]
            or result.tensors[name].raw() != original.tensors[name].raw()
        }
        if wrong:
            raise CheckpointError(f"tensor {min(wrong)!r} is not the source's")
        return f"{len(untouched)} tensors byte-equal to the source"

    def rewritten(self) -> str:
        compared, fitted = check_repeats(
            self.plans[0], self.result, self.original.read, {"rewrite", "add"}
        )
        detail = f"{compared} tensors repeat bit for bit"
        if fitted:
            detail += f", {fitted} of them but for what was fitted to calibration text"
            detail += " (attn-surgery reproduce repeats that)"
        return detail


def _is_left(path: Path) -> bool:
    """Whether a killed run has left a file that no loader takes for code or weights."""
    return is_unfinished(path) and (is_unfinished(Path(path.name)) or path.suffix in _REPORTS)


def _behavior(folder: Path, manifest: Manifest, seed: int) -> list[Check]:
    from surgery.proof.mixing import mixing_heads  # needs torch and transformers

    mixes = mixing_heads(folder, seed)
    checks = [Check("loads", True, f"through transformers, no weight missing; seed {seed}")]
    edited, heads = manifest.edited_heads, manifest.edit.num_heads
    for block, variants in edited.items():
        whole = len(variants) == heads
        spec = format_selection([Part(block, tuple(variants), "")], heads)
        name = f"block {block} attention-free" if whole else f"heads {spec} attention-free"
        wrong = any(mixes[block][head] for head in variants)
        detail = "depends on other tokens" if wrong else "depends on its own token alone"
        checks.append(
            Check(f"{name} ({', '.join(sorted(set(variants.values())))})", not wrong, detail)
        )
    others = {
        block: [head for head in range(heads) if head not in edited.get(block, {})]
        for block in mixes
    }
    idle = _spec({b: [h for h in others[b] if not mixes[b][h]] for b in others}, heads)
    detail = f"{idle} no longer mix tokens, and the manifest does not say so"
    fine = f"{_spec(others, heads) or 'none left'}: attention still mixes"
    checks.append(Check("other blocks", not idle, detail if idle else fine))
    return checks


def _spec(heads: dict[int, list[int]], num_heads: int) -> str:
    parts = [Part(block, tuple(some), "") for block, some in heads.items() if some]
    return format_selection(parts, num_heads)
