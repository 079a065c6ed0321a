"""Keeps local paths on this machine: in names, in settings, and behind links.

A path tells who you are and how your disk is laid out. So it never stands in anything that may
leave: `make_public_name` shortens names before they are recorded, `separate_paths` cleans JSON that
is exported and finds what may not be pushed, and `check_link` refuses a link to a private file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import CheckpointError

_PATH = re.compile(
    r"""(?<![\w/.~+*?#&%$^)\]}\\-])      # not within a name, a URL, or a pattern
    (?: /[^\s/<>|]+/[^\s/]             # /home/alice
      | ~[\w.-]*[/\\]                  # ~/models
      | [a-z]:[\\/]+[^\s/\\]           # C:\Users, C:/Users
      | \\\\+[\w.$-]+\\                # \\server\share
      | file:/ )""",
    re.IGNORECASE | re.VERBOSE,
)
_RELATIVE = {
    "name_or_path": re.compile(r"[./\\~]|[A-Za-z]:|[^/\\]*[/\\][^/\\]*[/\\]|[^\\]*\\"),
    "_file": re.compile(r"[.~]|.*[/\\]|[A-Za-z]:"),
}
"""Key's end → how a relative path begins, as no Hub id does, and no name of a file."""
_TEXTS = (
    "tokenizer.json",
    "special_tokens_map.json",
    "chat_template.json",
    "added_tokens.json",
    "vocab.json",
)
"""Files of text that the model reads: tokens, rules of splitting, and chat templates. A token such
as /usr/bin is no path of yours."""
_TEXT_KEYS = re.compile(r"chat_template\b|added_tokens_decoder\b|\w+_token\b|\w*special_tokens\b")
"""Keys of such text in tokenizer_config.json."""


def separate_paths(value: Any, file: str = "") -> tuple[Any, list[str]]:
    """Returns a JSON value without local paths, and the keys under which they stood.

    `file`: the name of the file that holds it, whose tokens and templates stay. A path is absolute,
    of two parts or more, or in a home folder; it may be a key, or stand in a longer text. Under
    keys that name a model or a file, relative paths count, too.
    """
    found: list[str] = []

    def clean(value: Any, key: str, where: str) -> Any:
        if isinstance(value, list):
            inside = [(str(at), key, inner) for at, inner in enumerate(value)]
        elif isinstance(value, Mapping):
            inside = [(str(name), str(name), inner) for name, inner in value.items()]
        else:
            return value
        kept = {}
        for name, owner, inner in inside:
            place = f"{where}.{name}" if where else name
            if file == "tokenizer_config.json" and _TEXT_KEYS.match(place):
                kept[name] = inner
            elif _holds_path(owner, inner):
                found.append(place)
            else:
                kept[name] = clean(inner, owner, place)
        return [*kept.values()] if isinstance(value, list) else kept

    return value if file in _TEXTS else clean(value, "", ""), found


def _holds_path(key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return _PATH.search(key) is not None
    relative = any(key.endswith(end) and form.match(value) for end, form in _RELATIVE.items())
    return relative or any(_PATH.search(text) for text in (key, value))


def drop_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without local paths."""
    kept: dict[str, Any] = separate_paths(settings)[0]
    return kept


def make_public_name(model: str | Path) -> str:
    """Makes the name of a model or file for what may leave this machine: without a path.

    Shortens each file or folder, wherever it stands between commas and colons: both of
    `PREFIX.npy,SUFFIX.npy`, the data set of `hf:DATASET:SPLIT:COLUMN`, the file of `FILE:COLUMN`,
    and the folder of `KIND:FOLDER`.
    """
    parts, name = re.split("([,:])", str(model)), ""
    while parts:
        for end in range(len(parts), 0, -2):  # a file's own name may hold commas and colons
            path = expand_home("".join(parts[:end]))
            if any(parts[:end]) and path.exists():
                name += get_last_name(path)
                break
        else:
            end, name = 1, name + parts[0]
        name += "".join(parts[end : end + 1])
        parts = parts[end + 1 :]
    return name


def expand_home(path: str | Path) -> Path:
    """Returns the path with your home in place of `~`. `~name` of an unknown user is a name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def name_result(model: str | Path, what: str) -> Path:
    """The default name of what is made of a model, NAME-`what`, in the current folder.

    `model`: as for `surgery.hub.finding.find_model`. A comma would end the name in
    `lm_eval --model_args pretrained=NAME,…`.
    """
    name = get_last_name(expand_home(str(model).replace(":", "-")))
    return Path(f"{name}-{what}".replace(",", "+"))


def get_last_name(path: Path) -> str:
    """Returns the name of a file or folder without its path, as valid text."""
    name = (path.resolve() if path.name in ("", "..") else path).name
    return os.fsencode(name).decode("utf-8", "replace")


def check_link(path: Path, folder: Path) -> Path:
    """Returns the path unless it is a link out of the model's folder.

    A link may stay inside the folder, or lead into a Hub cache, where the client links
    `models--O--N/snapshots/COMMIT/NAME` to `models--O--N/blobs/HASH`. Raises `CheckpointError` for
    any other link: the folder's author could make you publish a private file.
    """
    try:
        real, place = path.resolve(strict=path.is_symlink()), folder.resolve()
    except (OSError, RuntimeError):  # a link to itself, or to what is not there
        fix = "remove it"
        raise CheckpointError("is a link that leads nowhere", where=path, fix=fix) from None
    blobs = place.parent.parent / "blobs" if place.parent.name == "snapshots" else None
    if place in real.parents or real.parent == blobs or is_in_hub_cache(real):
        return path
    raise CheckpointError(
        "is a link out of the model's folder, which is not followed",
        where=path,
        fix="replace the link with the file",
    )


def is_in_hub_cache(real: Path) -> bool:
    """Whether a resolved path is a blob in your Hub cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return real.parent.name == "blobs" and Path(HF_HUB_CACHE).resolve() in real.parents
