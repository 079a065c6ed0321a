"""The compact layout's model classes: one file for all families, which travels with checkpoints.

`register` makes the library's auto classes know them without importing anything heavy. When the
library's table of configurations is imported (or at once if it already is), it gets a placeholder
per family, which imports the modeling file, makes that family's classes and registers them when a
checkpoint of that type is first opened. Importing the file any earlier would load torch for
everyone and could meet the library half imported.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

from surgery.families import FAMILIES, Family

MODELING_FILE = Path(__file__).with_name("modeling_attention_free.py")
"""The file to copy beside a compact checkpoint of any family."""
MODULE = f"{__name__}.{MODELING_FILE.stem}"
"""Name under which its code is imported from this package."""


def class_names(family: Family) -> dict[str, str]:
    """Auto class → the class of a family's compact checkpoints."""
    stem = "AttentionFree" + family.architecture.removesuffix("ForCausalLM")
    kinds = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    return {auto: stem + kind for auto, kind in kinds.items()}


def auto_map(family: Family) -> dict[str, str]:
    """The value of `auto_map` in config.json: auto class → file.Class."""
    return {auto: f"{MODELING_FILE.stem}.{name}" for auto, name in class_names(family).items()}


def load_class(name: str) -> Any:
    """A class of the modeling file, by name."""
    return getattr(import_module(MODULE), name)


def register() -> None:
    """Lets AutoConfig, AutoModel and AutoModelForCausalLM load compact checkpoints.

    No remote code is needed afterwards, whether transformers is imported before or after.
    """
    wrapt.when_imported("transformers.models.auto.configuration_auto")(_announce)


def _announce(configurations: ModuleType) -> None:
    for family in FAMILIES:
        if family.compact_model_type not in configurations.CONFIG_MAPPING:
            config = _LazyClass(partial(_register, family))
            configurations.CONFIG_MAPPING.register(family.compact_model_type, config)


def _register(family: Family) -> Any:
    """A family's configuration class, registered with its model classes."""
    import transformers

    classes = {auto: load_class(name) for auto, name in class_names(family).items()}
    config = classes.pop("AutoConfig")
    transformers.AutoConfig.register(family.compact_model_type, config, exist_ok=True)
    for auto, model in classes.items():
        getattr(transformers, auto).register(config, model, exist_ok=True)
    return config


class _LazyClass(wrapt.LazyObjectProxy):  # type: ignore[type-arg]  # it was not always generic
    """A class that is imported when it is first used."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # The table it stands in can be pickled, so it must be too; it arrives as the class.
        return load_class, (self.__wrapped__.__name__,)
