"""A model that was found: looked up, opened and read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from surgery.checkpoint import Checkpoint, hash_content, open_checkpoint
from surgery.compact import read_blocks
from surgery.config import check_config
from surgery.families import Dimensions, Family, family_of
from surgery.lab import PREFIX
from surgery.plan import check_attention, find_dtype
from surgery.record.manifest import Manifest, Source, read_manifest


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was found. `folder`: its files. `source`: where they come from.

    The properties are computed on first use. Each raises as the function that computes it.
    """

    folder: Path
    source: Source

    def __str__(self) -> str:
        """Its name on this machine, by which it can be found again."""
        return self.source.model if self.has_name else str(self.folder)

    @property
    def has_name(self) -> bool:
        """Whether it has a name other than its folder's."""
        return self.source.commit is not None or self.source.model.startswith(PREFIX)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.folder)

    @property
    def family(self) -> Family:
        return family_of(self.checkpoint.config)

    @cached_property
    def dimensions(self) -> Dimensions:
        return self.family.dimensions(self.checkpoint.config)

    @cached_property
    def dtype(self) -> str:
        """That of its attention, as safetensors names it."""
        check_config(self.checkpoint.config)
        check_attention(self.checkpoint.config, self.checkpoint.tensors)
        return find_dtype(self.checkpoint.config, self.checkpoint.tensors)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The record of the edits that made the model; None if there is none."""
        return read_manifest(self.folder)

    @cached_property
    def cut(self) -> tuple[int, ...]:
        """The blocks that its files say an edit changed, wholly or partly, ascending."""
        edited = self.manifest.edited_heads if self.manifest else {}
        return tuple(sorted({*edited, *read_blocks(self.checkpoint.config)}))

    @cached_property
    def identified(self) -> Source:
        """The source, with the hash of its content."""
        content = self.source.content or hash_content(self.checkpoint)
        return self.source.model_copy(update={"content": content})

    def is_that(self, recorded: Source) -> bool:
        """Whether it is a recorded model, by content and never by name.

        The same commit of the same Hub id has the same content, so its weights are not read.
        """
        if recorded.commit is not None and is_same(recorded, self.source):
            return True
        return recorded.content is not None and recorded.content == self.identified.content

    def is_source_of(self, manifest: Manifest) -> bool:
        """Whether a step of a manifest began with it."""
        return any(map(self.is_that, manifest.sources))


def is_same(one: Source, other: Source) -> bool:
    """Whether two records are of the same model: by content, or by commit of the same Hub id."""
    if one.commit is not None and one.commit == other.commit:
        return one.model.casefold() == other.model.casefold()
    return one.content is not None and one.content == other.content
