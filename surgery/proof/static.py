"""Checks of a model's folder that run no model. Each relies on those before it.

1. `files`: each file has its recorded SHA-256; other files are only the card, reports, what a
   killed evaluation left, and notes of git and the Hub's client; no link leads out of the folder.
2. `contents`: weights, tokenizer, and license; no code except the compact layout's own file, byte
   for byte; no key of config.json that the family does not know.
3. `edit`: the edits, planned again, match the manifest and config.json; with a source, the latest
   is an edit of it.
4. `tensors`: edited heads hold exactly what makes them attention-free (`surgery.proof.expected`).
5. `finite`: no parameter is NaN or infinite. The pass that hashes the files sees it.
6. With a source: `carried`: tokenizer, license, and other sidecars are the source's, but for local
   paths; `untouched`: each tensor that the plan does not change is byte-equal to the source's, and
   of a trained model, at least one parameter is not; `rewritten`: each other tensor is what the
   edit computes from it, except for numbers fitted to text.

Healing trains every parameter, but no number that the edit sets whatever the source holds. So for a
healed folder, 4 proves as much as for any other; 6 compares buffers, and constants of the edit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from surgery.checkpoint.configuration import check_processors
from surgery.checkpoint.content import hash_content, hash_file
from surgery.checkpoint.inventory import Inventory, check_biases, make_inventory
from surgery.checkpoint.source import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    Checkpoint,
    open_checkpoint,
    read_sidecar,
)
from surgery.errors import CheckpointError, SurgeryError
from surgery.families import family_of
from surgery.hub.resolved import ResolvedModel
from surgery.modeling import MODELING_FILE
from surgery.plan import Plan
from surgery.proof.expected import (
    check_repeats,
    is_scrubbed,
    make_unknown,
    read_after,
    replan,
)
from surgery.proof.files import Check, FolderChecks
from surgery.record.manifest import Manifest, Step
from surgery.selection import variant_name


@dataclass(frozen=True)
class FileChecks(FolderChecks):
    """The checks of a model's folder."""

    alone: ClassVar[tuple[str, ...]] = ("files", "contents", "edit", "tensors", "finite")
    with_source: ClassVar[tuple[str, ...]] = ("carried", "untouched", "rewritten")

    @cached_property
    def result(self) -> Checkpoint:
        return open_checkpoint(self.folder)

    @cached_property
    def original(self) -> Checkpoint:
        assert self.found is not None
        return self.found.checkpoint

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """Of all steps, newest first."""
        if self.found is None:
            return replan(self.result, self.manifest)
        return replan(self.result, self.manifest, self.original, self.begins)

    @property
    def later(self) -> tuple[Plan, ...]:
        """The plans of `steps`, newest first."""
        return self.plans[: len(self.steps)]

    @property
    def is_trained(self) -> bool:
        return any(step.training for step in self.steps)

    def check_files(self) -> str:
        try:
            return super().check_files()
        except CheckpointError:
            if (inventory := self._read_inventory()) is not None:
                check_biases(inventory)  # which tells more
            raise

    def _read_inventory(self) -> Inventory | None:
        """The tensors of a folder that may be no result; None if it cannot be read."""
        with suppress(OSError, SurgeryError):
            return make_inventory(self.result.config, self.result.infos)
        return None

    def check_contents(self) -> str:
        result, edit = self.result, self.manifest.step
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
        unknown = family_of(result.config).unknown_keys(result.config)
        if unknown:
            raise CheckpointError(f"config.json: {unknown[0][:60]!r} is not a key of such a model")
        pickled = {shard.path.name for shard in result.shards if not shard.verbatim}
        strangers = sorted(set(self.manifest.files) - (read - pickled))
        if strangers:
            raise CheckpointError(f"{strangers[0]} is not part of an edited model")
        unlisted = sorted(read - set(self.manifest.files))
        if unlisted:
            raise CheckpointError(f"{unlisted[0]} is not in the manifest")
        check_processors(self.folder)
        if hash_content(result) != self.manifest.content:
            raise CheckpointError("the recorded content is not that of the weights")
        return f"weights, tokenizer and license, and {code}"

    def check_edit(self) -> str:
        if self.found is not None:
            ours, theirs = (family_of(c.config) for c in (self.result, self.original))
            if ours != theirs and ours.model_type not in theirs.saved_as:
                raise CheckpointError(
                    f"the source is a {theirs.title} model, and this is a {ours.title} model"
                )
        content = self.manifest.content
        for step in reversed(self.manifest.history):
            if step.training and content == step.source.content:
                raise CheckpointError("its weights are the source's own, so nothing was trained")
            content = step.source.content or ""
        return ", then ".join(map(_name_step, self.manifest.history, reversed(self.plans)))

    def check_tensors(self) -> str:
        later, compared = set[str](), 0
        for plan in self.plans:
            actions = {"rewrite"} if plan.layout.NAME == "compact" else {"rewrite", "add"}
            compared += check_repeats(plan, self.result, self.result.read, actions, later)[0]
            later.update((*plan.rewritten, *plan.dropped))
        hots = [step.one_hot for step in self.manifest.history if step.one_hot is not None]
        if not any(plan.selection for plan in self.plans):
            return "nothing was cut: no head is claimed to be attention-free"
        if not compared:  # the compact layout computes from tensors that are gone
            return "without the source, there is nothing to compare"
        told = f"{compared} tensors equal to what the layout computes"
        if hots:
            hot = min(hots, key=lambda hot: hot.gap)
            told = (
                f"queries and keys are constants with a score gap of {hot.gap:g} (needed: "
                f"{hot.required:g}) over {hot.num_offsets:,} offsets"
            )
        old = (plan for plan in self.plans if not plan.scrubbed)
        if all(is_scrubbed(plan, self.result) for plan in old):
            return told
        return f"{told}; not scrubbed: it holds weights that the edit made useless"

    def check_finite(self) -> str:
        inventory = self.plans[0].inventory
        for name in self.broken:
            if not inventory.is_mask(name):
                raise CheckpointError(f"tensor {name!r} holds numbers that are not finite")
        return "every parameter"

    def check_carried(self) -> str:
        theirs = self.original.sidecars
        for name in sorted({*self.result.sidecars, *theirs}):
            record = self.manifest.files.get(name)
            path = theirs.get(name)
            hashes = path and (hash_file(path), hashlib.sha256(read_sidecar(path)).hexdigest())
            if not hashes or record is None or record.sha256 not in hashes:  # 0.2.0 kept paths
                raise CheckpointError(f"{name} is not the source's")
        return f"{len(theirs)} files equal to the source's"

    def check_untouched(self) -> str:
        result, original, plan = self.result, self.original, self.later[-1]
        names = set(original.tensors)
        for one in reversed(self.later):  # a later step may change what an earlier one added
            names = (names | set(one.rewritten)) - {*one.dropped}
        untouched = names & set(original.tensors) - self._rewritten
        wrong = set(result.tensors) ^ names  # missing or unexpected
        parameters = plan.inventory.parameters if self.is_trained else {}
        trained = set[str]()
        for name in untouched & set(result.tensors):
            tensor, theirs = result.tensors[name], original.tensors[name]
            if tensor.info != theirs.info:
                wrong.add(name)
            elif tensor.read() != theirs.read():
                (trained if name in parameters else wrong).add(name)
        if wrong:
            raise CheckpointError(f"tensor {min(wrong)!r} is not the source's")
        if self.is_trained and not trained:
            what = "no parameter differs from the source's, so nothing was trained"
            raise CheckpointError(what)
        more = f"; {len(trained)} trained: only names, types, and shapes are the source's"
        more = more if trained else ""
        return f"{len(untouched - trained)} tensors byte-equal to the source{more}"

    @property
    def _rewritten(self) -> set[str]:
        return {name for plan in self.later for name in plan.rewritten}

    def check_rewritten(self) -> str:
        """Repeats all cuts since the source, and compares. If anything was trained, compares only
        the numbers that a cut sets whatever the source held."""
        compared = fitted = 0
        cuts = [plan for plan in reversed(self.later) if plan.selection]
        read = make_unknown(self.original.infos) if self.is_trained else self.original.read
        for at, plan in enumerate(cuts):
            changed_later = {c.name for other in cuts[at + 1 :] for c in other.changes}
            of_plan = check_repeats(plan, self.result, read, {"rewrite", "add"}, skip=changed_later)
            compared, fitted = compared + of_plan[0], fitted + of_plan[1]
            read = read_after(plan, read)
        if not cuts:
            return "nothing was cut"
        more = ""
        if self.is_trained:
            more = ", as far as a cut sets them whatever the source holds; the rest is trained"
        elif fitted:
            more = f", {fitted} of them except for numbers fitted to calibration text"
        return f"{compared} tensors repeat bit for bit{more}"


def _name_step(step: Step, plan: Plan) -> str:
    """What a step did."""
    if step.parts:
        return f"blocks {plan.spec}, {variant_name(plan.selection)}"
    return "erased" if step.erasing else "healed"


class AdapterChecks(FolderChecks):
    """The checks of an adapter's folder: its files are as recorded. They prove no more."""

    alone: ClassVar[tuple[str, ...]] = ("files", "contents")
    with_source: ClassVar[tuple[str, ...]] = ("source",)

    def check_contents(self) -> str:
        if strangers := sorted(self.manifest.files.keys() ^ {ADAPTER, ADAPTER_WEIGHTS}):
            has = strangers[0] in self.manifest.files
            what = "is not part of an adapter" if has else "is not in the manifest"
            raise CheckpointError(f"{strangers[0]} {what}")
        return "an adapter, and no code; what it holds is not checked"

    def check_source(self) -> str:
        if self.begins != len(self.manifest.history) - 1:
            raise CheckpointError("the adapter stands beside another source")
        return "the recorded one; the adapter was not compared with it"


WITH_SOURCE = FileChecks.with_source


def list_checks(folder: Path, manifest: Manifest, found: ResolvedModel | None) -> Iterator[Check]:
    """Yields the checks of a folder that holds a model, or an adapter. The one that fails is the
    last. Arguments: as for `FolderChecks`."""
    kind = AdapterChecks if manifest.step.is_adapter else FileChecks
    return kind(folder, manifest, found).run()
