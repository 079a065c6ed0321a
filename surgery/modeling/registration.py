"""Makes the library's auto classes know the compact models, without importing anything heavy.

Two hooks, each of which runs when its module is imported (or at once if it already is):

1. the library's table of configurations: gets a placeholder per family, which imports the
   family's modeling file when a checkpoint of that type is first opened. Importing the file any
   earlier would load torch for everyone and could meet the library half imported.
2. a modeling file: its classes are registered in place of the placeholder.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

from surgery.modeling.files import MODELING_FILES, ModelingFile

__all__ = ["register"]

CONFIGURATIONS = "transformers.models.auto.configuration_auto"


def register() -> None:
    """Lets AutoConfig, AutoModel and AutoModelForCausalLM load compact checkpoints.

    No remote code is needed afterwards, whether transformers is imported before or after.
    """
    for file in MODELING_FILES.values():
        wrapt.when_imported(CONFIGURATIONS)(partial(_announce, file))
        wrapt.when_imported(file.module)(partial(_register, file))


def _load(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class _LazyClass(wrapt.LazyObjectProxy):  # type: ignore[type-arg]  # it was not always generic
    """A class that is imported when it is first used."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # The table it stands in can be pickled, so it must be too; it arrives as the class.
        config = self.__wrapped__
        return _load, (config.__module__, config.__name__)


def _announce(file: ModelingFile, configurations: ModuleType) -> None:
    if file.model_type not in configurations.CONFIG_MAPPING:
        config = _LazyClass(partial(_load, file.module, f"{file.prefix}Config"))
        configurations.CONFIG_MAPPING.register(file.model_type, config)


def _register(file: ModelingFile, modeling: ModuleType) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = getattr(modeling, f"{file.prefix}Config")
    AutoConfig.register(file.model_type, config, exist_ok=True)
    AutoModel.register(config, getattr(modeling, f"{file.prefix}Model"), exist_ok=True)
    AutoModelForCausalLM.register(config, getattr(modeling, file.architecture), exist_ok=True)
