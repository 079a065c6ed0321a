"""Checks of a folder that run no model. Each relies on those before it.

1. `files`: each file has its recorded SHA-256; other files are only the card, reports, what a
   killed evaluation left, and notes of git and the Hub's client; no link leads out of the folder.
2. `contents`: weights, tokenizer, and license; no code except the compact layout's own file, byte
   for byte.
3. `edit`: the edits, planned again, match the manifest and config.json.
4. `tensors`: edited heads hold exactly what makes them attention-free (`surgery.cuts`).
5. `finite`: no parameter is NaN or infinite.
6. With a source: `carried`: tokenizer, license, and other sidecars are the source's, but for local
   paths; `untouched`: each tensor that the plan does not change is byte-equal to the source's, and
   of a trained model, at least one parameter is not; `rewritten`: each other tensor is what the
   edit computes from it, except for numbers fitted to text.

Healing trains every parameter, but no number that the edit sets whatever the source holds. So for a
healed folder, 4 proves as much as for any other; 6 compares buffers, and constants of the edit.

Of an adapter, the files are as recorded. They prove no more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from surgery.checkpoint import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    Checkpoint,
    hash_content,
    hash_file,
    list_files,
    open_checkpoint,
    read_sidecar,
)
from surgery.compact import MODELING_FILE
from surgery.config import check_config, check_tokenizer
from surgery.cuts import (
    check_made,
    check_planned,
    check_record,
    check_repeats,
    plan_again,
    plan_from,
    read_unknown,
)
from surgery.errors import CheckpointError, ManifestError, SurgeryError
from surgery.families import family_of
from surgery.hub.resolved import ResolvedModel
from surgery.plan import Plan, check_attention, is_buffer
from surgery.privacy import check_link
from surgery.record.manifest import Manifest, Step, is_added
from surgery.selection import format_selection, variant_name
from surgery.tensors import is_finite
from surgery.untrusted import reraise_as

WITH_SOURCE = ("carried", "untouched", "rewritten")
_ALONE = ("files", "contents", "edit", "tensors", "finite")


@dataclass(frozen=True)
class Check:
    """One check, and what it found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Claim:
    """A statement of a folder that no check proves."""

    name: str
    detail: str


def claim_added(names: Iterable[str]) -> list[Claim]:
    """A claim for each of these files that somebody added beside a model (`is_added`)."""
    what = "not part of the model, and not read by any check"
    return [Claim(name, what) for name in names if is_added(name)]


def list_checks(folder: Path, manifest: Manifest, found: ResolvedModel | None) -> Iterator[Check]:
    """Yields the checks of a folder that holds a model, or an adapter. The one that fails is the
    last. `found`: the source, if given."""
    checks = _Checks(folder, manifest, found)
    names = [*_ALONE, *(WITH_SOURCE if found is not None else ())]
    if manifest.step.is_adapter:
        names = ["files", "adapter", *(["source"] if found is not None else ())]
    for name in names:
        shown = "contents" if name == "adapter" else name
        try:
            with reraise_as(CheckpointError, "cannot be verified", folder):
                detail = getattr(checks, f"check_{name}")()
        except SurgeryError as error:
            yield Check(shown, False, str(error))
            return
        yield Check(shown, True, detail)


def check_listed(folder: Path, manifest: Manifest) -> None:
    """Raises `CheckpointError` for a file that the manifest does not account for, and for a link
    out of the folder."""
    for name in list_files(folder):
        if (folder / name).is_symlink():
            check_link(folder / name, folder)
        if not manifest.accounts_for(name):
            raise CheckpointError(f"{name} is not in the manifest")


@dataclass(frozen=True)
class _Checks:
    """Each `check_…` method returns what it found, or raises a `SurgeryError`."""

    folder: Path
    manifest: Manifest
    found: ResolvedModel | None

    @cached_property
    def result(self) -> Checkpoint:
        return open_checkpoint(self.folder)

    @cached_property
    def original(self) -> Checkpoint:
        assert self.found is not None
        return self.found.checkpoint

    @cached_property
    def again(self) -> list[Plan]:
        """The cuts of the stock layout, planned on the result, oldest first."""
        return plan_again(self.result, self.manifest)

    @cached_property
    def plans(self) -> list[Plan]:
        """Of the steps since the source, oldest first."""
        earlier = self.found.manifest if self.found else None
        return plan_from(self.original, self.steps, earlier.history if earlier else [])

    @cached_property
    def begins(self) -> int:
        """The number of the step, from 0, that began with the given source; the latest, if several
        did. Raises `CheckpointError` if none did, and `ManifestError` for another name or history.
        """
        assert self.found is not None
        history, given = self.manifest.history, self.found.source
        content = self.found.identified.content
        places = [at for at, step in enumerate(history) if step.source.content == content]
        if not places:
            raise CheckpointError("the source is not one that the manifest records")
        recorded = history[places[-1]].source
        named = recorded.commit is not None or re.search("^lab:|/", recorded.model)
        # that of a folder is no name: the content alone says that it is the source
        if named and self.found.has_name and given.model.casefold() != recorded.model.casefold():
            raise ManifestError(f"the manifest names another source, {recorded.model}")
        if named and given.commit is not None and given.commit != recorded.commit:
            raise ManifestError("the manifest names another commit of the source")
        earlier = self.found.manifest
        if history[: places[-1]] != (earlier.history if earlier else []):
            raise ManifestError("the manifest's history is not the source's")
        return places[-1]

    @property
    def steps(self) -> list[Step]:
        """The steps from the given source on."""
        return self.manifest.history[self.begins :]

    @property
    def is_trained(self) -> bool:
        return any(step.training for step in self.steps)

    def check_files(self) -> str:
        try:
            return self._compare_files()
        except CheckpointError:
            if not self.manifest.step.is_adapter:
                self._check_biases()  # which tells more
            raise

    def _compare_files(self) -> str:
        listed = self.manifest.files
        check_listed(self.folder, self.manifest)
        for name, record in listed.items():
            path = self.folder / name
            if not path.is_file():
                raise CheckpointError(f"{name} is missing")
            if path.stat().st_size != record.size or hash_file(path) != record.sha256:
                raise CheckpointError(f"{name} differs from its recorded SHA-256")
        total = sum(record.size for record in listed.values())
        return f"{len(listed)} files, {total:,} bytes, SHA-256 equal"

    def _check_biases(self) -> None:
        config, tensors = None, None
        with suppress(OSError, SurgeryError):  # a folder that may be no result
            check_config(self.result.config)
            config, tensors = self.result.config, self.result.tensors
        if config is not None and tensors is not None:
            check_attention(config, tensors)

    def check_contents(self) -> str:
        result, edit = self.result, self.manifest.step
        check_config(result.config)
        weights = {shard.path.name for shard in result.shards}
        read = {"config.json", *weights, *result.sidecars}
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
        pickled = {shard.path.name for shard in result.shards if not shard.verbatim}
        strangers = sorted(set(self.manifest.files) - (read - pickled))
        if strangers:
            raise CheckpointError(f"{strangers[0]} is not part of an edited model")
        unlisted = sorted(read - set(self.manifest.files))
        if unlisted:
            raise CheckpointError(f"{unlisted[0]} is not in the manifest")
        check_tokenizer(self.folder)
        if hash_content(result) != self.manifest.content:
            raise CheckpointError("the recorded content is not that of the weights")
        return f"weights, tokenizer and license, and {code}"

    def check_edit(self) -> str:
        check_record(self.result, self.manifest, self.again)
        if self.found is not None:
            ours, theirs = (family_of(c.config) for c in (self.result, self.original))
            if ours.model_type not in (theirs.model_type, theirs.alike):
                kinds = f"{theirs.model_type} model, and this is a {ours.model_type}"
                raise CheckpointError(f"the source is a {kinds} model")
            check_planned(self.result, self.steps, self.plans)
        content = self.manifest.content
        for step in reversed(self.manifest.history):
            if step.training and content == step.source.content:
                raise CheckpointError("its weights are the source's own, so nothing was trained")
            content = step.source.content or ""
        return ", then ".join(map(_name_step, self.manifest.history))

    def check_tensors(self) -> str:
        compared = check_repeats(self.again, self.result)
        if not self.manifest.parts:
            return "nothing was cut: no head is claimed to be attention-free"
        if not compared:  # the compact layout computes from tensors that are gone
            return "without the source, there is nothing to compare"
        hots = [step.one_hot for step in self.manifest.history if step.one_hot is not None]
        if not hots:
            return f"{compared} tensors equal to what the layout computes"
        hot = min(hots, key=lambda hot: hot.gap)
        return (
            f"queries and keys are constants with a score gap of {hot.gap:g} (needed: "
            f"{hot.required:g}) over {hot.num_offsets:,} offsets"
        )

    def check_finite(self) -> str:
        for name, entry in self.result.entries.items():
            if not is_buffer(name) and not is_finite(entry.read(), entry.tensor.dtype):
                raise CheckpointError(f"tensor {name!r} holds numbers that are not finite")
        return "every parameter"

    def check_carried(self) -> str:
        theirs = self.original.sidecars
        for name in sorted({*self.result.sidecars, *theirs}):
            record, path = self.manifest.files.get(name), theirs.get(name)
            digest = path and hashlib.sha256(read_sidecar(path)).hexdigest()
            if record is None or record.sha256 != digest:
                raise CheckpointError(f"{name} is not the source's")
        return f"{len(theirs)} files equal to the source's"

    def check_untouched(self) -> str:
        result, original = self.result, self.original
        if wrong := set(result.tensors.items()) ^ set(self.plans[-1].tensors.items()):
            raise CheckpointError(f"tensor {min(t.name for _, t in wrong)!r} is not the source's")
        changed = {name for plan in self.plans for name in plan.edits}
        untouched = result.tensors.keys() & original.tensors.keys() - changed
        trained = set[str]()
        for name in sorted(untouched):
            if result.entries[name].read() == original.entries[name].read():
                continue
            if not self.is_trained or is_buffer(name):
                raise CheckpointError(f"tensor {name!r} is not the source's")
            trained.add(name)
        if self.is_trained and not trained:
            what = "no parameter differs from the source's, so nothing was trained"
            raise CheckpointError(what)
        more = f"; {len(trained)} trained: only names, types, and shapes are the source's"
        more = more if trained else ""
        return f"{len(untouched - trained)} tensors byte-equal to the source{more}"

    def check_rewritten(self) -> str:
        """Repeats all cuts since the source, and compares. If anything was trained, compares only
        the numbers that a cut sets whatever the source held."""
        cuts = [plan for plan in self.plans if plan.selection]
        original = self.original
        read = read_unknown(original.tensors) if self.is_trained else original.read
        compared, fitted = check_made(cuts, self.result, read)
        if not cuts:
            return "nothing was cut"
        more = ""
        if self.is_trained:
            more = ", as far as a cut sets them whatever the source holds; the rest is trained"
        elif fitted:
            more = f", {fitted} of them except for numbers fitted to calibration text"
        return f"{compared} tensors repeat bit for bit{more}"

    def check_adapter(self) -> str:
        if strangers := sorted(self.manifest.files.keys() ^ {ADAPTER, ADAPTER_WEIGHTS}):
            has = strangers[0] in self.manifest.files
            what = "is not part of an adapter" if has else "is not in the manifest"
            raise CheckpointError(f"{strangers[0]} {what}")
        return "an adapter, and no code; what it holds is not checked"

    def check_source(self) -> str:
        if self.begins != len(self.manifest.history) - 1:
            raise CheckpointError("the adapter stands beside another source")
        return "the recorded one; the adapter was not compared with it"


def _name_step(step: Step) -> str:
    """What a step did."""
    if step.parts:
        spec = format_selection(step.parts, step.num_heads)
        return f"blocks {spec}, {variant_name(step.parts)}"
    return "erased" if step.erasing else "healed"
