"""Makes the library's auto classes know the compact models, without importing anything heavy.

When the library's table of configurations is imported (or at once if it already is), it gets a
placeholder per family, which imports the modeling file, makes that family's classes and registers
them when a checkpoint of that type is first opened. Importing the file any earlier would load torch
for everyone and could meet the library half imported.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

from surgery.families import FAMILIES, Family
from surgery.modeling.names import MODULE, class_names

CONFIGURATIONS = "transformers.models.auto.configuration_auto"


def register() -> None:
    """Lets AutoConfig, AutoModel and AutoModelForCausalLM load compact checkpoints.

    No remote code is needed afterwards, whether transformers is imported before or after.
    """
    wrapt.when_imported(CONFIGURATIONS)(_announce)


def _announce(configurations: ModuleType) -> None:
    for family in FAMILIES:
        if family.compact_model_type not in configurations.CONFIG_MAPPING:
            config = _LazyClass(partial(_register, family))
            configurations.CONFIG_MAPPING.register(family.compact_model_type, config)


def _register(family: Family) -> Any:
    """A family's configuration class, registered with its model classes."""
    import transformers

    classes = {auto: _load(name) for auto, name in class_names(family).items()}
    config = classes.pop("AutoConfig")
    transformers.AutoConfig.register(family.compact_model_type, config, exist_ok=True)
    for auto, model in classes.items():
        getattr(transformers, auto).register(config, model, exist_ok=True)
    return config


def _load(name: str) -> Any:
    return getattr(import_module(MODULE), name)


class _LazyClass(wrapt.LazyObjectProxy):  # type: ignore[type-arg]  # it was not always generic
    """A class that is imported when it is first used."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # The table it stands in can be pickled, so it must be too; it arrives as the class.
        return _load, (self.__wrapped__.__name__,)
