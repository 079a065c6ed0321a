"""Code of your own, such as an attack or a variant, at `package.module:NAME`.

Only what you name yourself is imported, never what the file of a model or of a result names.
"""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from surgery.errors import SurgeryError

T = TypeVar("T")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_path(name: str) -> bool:
    """Whether a name has the form `package.module:NAME`."""
    return _PATH.fullmatch(name) is not None


def import_named(path: str, kind: type[T], noun: str, error: type[SurgeryError]) -> T:
    """What stands at `path`. Python looks in the current folder last.

    Raises `error` if its code fails, or if no `kind` is there, which `noun` names, such as
    "an attack".
    """
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as failure:
        if failure.name is None or not f"{module}.".startswith(f"{failure.name}."):
            raise describe_failure(path, failure, error) from failure
        raise error(
            f"no module {failure.name!r}",
            where=path,
            fix="install it, or run the command in the folder that it is in",
        ) from None
    except Exception as failure:
        raise describe_failure(path, failure, error) from failure
    if not isinstance(found, kind):
        got = "no such name" if found is None else type(found).__name__
        article = "an" if kind.__module__[0] in "aeiou" else "a"
        expected = f"{attribute} to be {article} {kind.__module__}.{kind.__qualname__}"
        raise error(f"is not {noun}", where=path, expected=expected, got=got)
    return found


def describe_failure(path: str, failure: Exception, error: type[SurgeryError]) -> SurgeryError:
    """The error for code at `path` that fails."""
    return error(f"its code fails: {type(failure).__name__}: {failure}", where=path)


def hash_code(path: str) -> str:
    """SHA-256 of the files beside code that was imported, which it may import, and of its own."""
    file = sys.modules[path.partition(":")[0]].__file__
    found = hashlib.sha256()
    beside = {Path(file), *Path(file).parent.glob("*.py")} if file else ()
    for one in sorted(place for place in beside if place.is_file()):
        found.update(hashlib.sha256(one.read_bytes()).digest())
    return found.hexdigest()
