"""A Hub on the loopback interface that speaks the download protocol of models.

The real client talks to it through HF_ENDPOINT. Files come as on the Hub: `resolve` answers with
the commit, the entity tag and a redirect, within the server for small files and to a second origin
(the storage, which must never see a token) for large ones. Every request is recorded, with the
file it named and the bytes it was served, so that a test can tell what was downloaded.

    with HubServer() as hub:
        hub.create("me/model").commit(folder)
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url})
        assert "README.md" not in hub.downloads
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from urllib.parse import quote, unquote

from hub_http import Answer, RecordingServer, RefusedError, Request, json_answer, route
from hub_repository import Blob, Commit, Repository

ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
API = "/api/(?:models|datasets)"


class HubServer(RecordingServer):
    """The server. `users` maps tokens to user names."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, str] = {}

    def create(self, id: str, *, private: bool = False, gated: bool = False) -> Repository:
        repository = Repository(id, private, gated, readers={id.partition("/")[0]})
        self.repositories[id] = repository
        return repository

    @property
    def downloads(self) -> Counter[str]:
        """Repository file → bytes of it that were served."""
        served: Counter[str] = Counter()
        for request in self.requests:
            if request.file is not None and request.method == "GET":
                served[request.file] += request.sent
        return served

    # what routes ask

    def user(self, request: Request) -> str | None:
        if request.token is None:
            return None
        if request.token not in self.users:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.users[request.token]

    def repository(self, request: Request, id: str) -> Repository:
        """The repository, if it exists and the user may know."""
        user = self.user(request)
        repository = self.repositories.get(unquote(id))
        if repository is None or (repository.private and user not in repository.readers):
            raise RefusedError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(unquote(revision))
        if commit is None:
            raise RefusedError(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return commit


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, request: Request) -> Answer:
    user = hub.user(request)
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    return json_answer({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})


@route("GET", f"{API}/{ID}/revision/(?P<revision>[^/]+)")
@route("GET", f"{API}/{ID}")
def model_info(hub: HubServer, request: Request, id: str, revision: str = "main") -> Answer:
    repository = hub.repository(request, id)
    commit = hub.commit(repository, revision)
    sizes = "blobs" in request.query
    return json_answer(
        {
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.id.partition("/")[0],
            "sha": commit.sha,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": [],
            "siblings": [
                {"rfilename": name, **(_entry(blob) if sizes else {})}
                for name, blob in sorted(commit.files.items())
            ],
        }
    )


def _entry(blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": len(blob.data), "oid": blob.oid, "blobId": blob.oid}
    if blob.lfs:
        size = len(blob.data)
        entry["lfs"] = {"oid": blob.sha256, "sha256": blob.sha256, "size": size, "pointerSize": 134}
    return entry


@route("GET", f"{API}/{ID}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def tree(hub: HubServer, request: Request, id: str, revision: str, folder: str | None) -> Answer:
    """All files, at any depth, or those of a folder."""
    commit = hub.commit(hub.repository(request, id), revision)
    prefix = "" if folder is None else f"{unquote(folder)}/"
    entries = [
        {"type": "file", "path": name, **_entry(blob)}
        for name, blob in sorted(commit.files.items())
        if name.startswith(prefix)
    ]
    if folder is not None and not entries:
        raise RefusedError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return json_answer(entries)


@route("GET HEAD", f"/(?:datasets/)?{ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
@route("GET HEAD", f"/api/resolve-cache/models/{ID}/(?P<revision>[^/]+)/(?P<file>.+)")
def resolve(hub: HubServer, request: Request, id: str, revision: str, file: str) -> Answer:
    repository = hub.repository(request, id)
    if repository.gated and (user := hub.user(request)) not in repository.granted:
        message = f"Access to model {repository.id} is restricted"
        raise RefusedError(401 if user is None else 403, message, "GatedRepo")
    commit = hub.commit(repository, revision)
    blob = commit.files.get(unquote(file))
    if blob is None:
        message = "Entry not found"
        raise RefusedError(404, message, "EntryNotFound", {"X-Repo-Commit": commit.sha})
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
    if blob.lfs:
        location = f"{hub.storage_url}/{repository.id}/{blob.sha256}/{quote(unquote(file))}"
        return Answer(302, b"", {**headers, **linked, "Location": location})
    if not request.path.startswith("/api/"):
        location = f"/api/resolve-cache/models/{repository.id}/{commit.sha}/{quote(unquote(file))}"
        return Answer(307, b"", {**headers, **linked, "Location": location})
    return _content(request, blob, unquote(file), headers)


@route("GET HEAD", f"/{ID}/(?P<sha256>[0-9a-f]{{64}})/(?P<file>.+)")
def storage(hub: HubServer, request: Request, id: str, sha256: str, file: str) -> Answer:
    assert request.on_storage, "large files come from the storage"
    assert request.token is None, "a token went to the storage"
    blobs = (b for commit in hub.repositories[id].commits.values() for b in commit.files.values())
    blob = next(blob for blob in blobs if blob.sha256 == sha256)
    return _content(request, blob, unquote(file), {"ETag": f'"{sha256}"'})


def _content(request: Request, blob: Blob, file: str, headers: dict[str, str]) -> Answer:
    """The bytes of a file, or the range of them that was asked for."""
    size = len(blob.data)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""), re.IGNORECASE)
    if asked is None:
        return Answer(200, blob.data, headers, file)
    first, last = asked.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= stop:
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, blob.data[start:stop], headers, file)
