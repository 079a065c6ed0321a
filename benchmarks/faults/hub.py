"""The repository's own Hub server in a process of its own, and what a repository there holds."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.faults.place import TOKEN


@contextmanager
def hub() -> Iterator[str]:
    """The address of a server that is there as long as the block lasts."""
    reading, writing = os.pipe()
    pid = os.fork()  # a process that is forked later must not have the server's threads
    if pid == 0:
        from hub_uploads import UploadHub

        with UploadHub() as server:
            server.users[TOKEN] = "me"
            os.write(writing, server.url.encode() + b"\n")
            signal.pause()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        url = pipe.readline().strip()
    try:
        yield url
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def files_of(url: str, repo: str) -> dict[str, str] | None:
    """A repository's files with their hashes; None where there is none, or nothing in it yet.

    What the Hub itself puts there is left out, and the hash of the card: it names the repository.
    """
    request = urllib.request.Request(
        f"{url}/api/models/{repo}/tree/main?recursive=true",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            entries = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    files = {entry["path"]: entry["oid"] for entry in entries if entry["type"] == "file"}
    files.pop(".gitattributes", None)
    return {**files, **({"README.md": ""} if "README.md" in files else {})} or None
