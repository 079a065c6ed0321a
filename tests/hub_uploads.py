"""The upload protocol of the Hub: repositories, branches, large files, commits, pull requests.

    with UploadHub() as hub:
        hub.users[TOKEN] = "me"
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN})
        assert hub.repositories["me/model"].branches["main"]

Large files go to the storage, whole or in parts of `part_size` bytes, and are kept there whether a
commit follows or not: that is what lets an upload be taken up again. Small files are in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from hub_http import Answer, RefusedError, Request, json_answer, route
from hub_repository import LFS_SUFFIXES, Repository
from hub_server import ID, HubServer

RELATIONS = {"adapter", "merge", "quantized", "finetune"}
LARGE = 10_000_000  # bytes from which a file of any name is stored as a large one


class UploadHub(HubServer):
    """A Hub that can be written to, but not by tokens in `read_only`."""

    def __init__(self) -> None:
        super().__init__()
        self.read_only: set[str] = set()
        self.part_size: int | None = None
        self.parts: dict[tuple[str, int], bytes] = {}

    def writer(self, request: Request, namespace: str) -> str:
        """The user, who must be allowed to write to what belongs to `namespace`."""
        user = self.user(request)
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        if request.token in self.read_only or user != namespace:
            raise RefusedError(403, "You don't have the rights to do that")
        return user

    def uploads(self, sha256: str) -> int:
        """How often the content of a large file was sent as a whole."""
        paths = [request.path for request in self.requests if request.method == "PUT"]
        return sum(sha256 in path for path in paths)


def _json(request: Request) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(request.body)
    return value


@route("POST", "/api/repos/create")
def create(hub: UploadHub, request: Request) -> Answer:
    asked = _json(request)
    namespace = asked.get("organization") or hub.user(request) or ""
    hub.writer(request, namespace)
    id = f"{namespace}/{asked['name']}"
    if id in hub.repositories:
        url = f"{hub.url}/{id}"
        return json_answer({"error": "You already created this model repo", "url": url}, status=409)
    repository = hub.create(id, private=_is_private(asked))
    lines = [f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES)]
    repository.commit({".gitattributes": "".join(lines).encode()}, title="initial commit")
    return json_answer({"url": f"{hub.url}/{id}", "name": id, "id": id})


def _is_private(asked: dict[str, Any]) -> bool:
    """As newer clients and older ones say it."""
    return bool(asked["visibility"] == "private" if "visibility" in asked else asked["private"])


@route("PUT", f"/api/models/{ID}/settings")
def change_settings(hub: UploadHub, request: Request, id: str) -> Answer:
    repository = hub.repository(request, id)
    hub.writer(request, repository.id.partition("/")[0])
    repository.private = _is_private(_json(request))
    return json_answer({})


@route("POST", f"/api/models/{ID}/branch/(?P<branch>[^/]+)")
def create_branch(hub: UploadHub, request: Request, id: str, branch: str) -> Answer:
    repository = hub.repository(request, id)
    hub.writer(request, repository.id.partition("/")[0])
    name = unquote(branch)
    if name in repository.branches:
        raise RefusedError(409, f"Reference already exists: refs/heads/{name}")
    repository.branches[name] = repository.branches["main"]
    return json_answer({"success": True})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: UploadHub, request: Request) -> Answer:
    """The checks of a card's metadata that a push can meet."""
    block = re.match(r"\s*---\r?\n([\S\s]*?)\r?\n---", _json(request)["content"])
    if block is None:
        return json_answer({"errors": [], "warnings": [{"message": "empty or missing metadata"}]})
    data = yaml.safe_load(block[1])
    errors = [f'"{key}" {problem}' for key, problem in _problems(data)]
    status = 400 if errors else 200
    return json_answer({"errors": [{"message": e} for e in errors], "warnings": []}, status=status)


def _problems(data: dict[str, Any]) -> list[tuple[str, str]]:
    def listed(key: str) -> list[Any]:
        value = data.get(key) or []
        return value if isinstance(value, list) else [value]

    strings = ("license", "library_name", "pipeline_tag")
    lists = ("tags", "language", "datasets")
    found = [(k, "must be a string") for k in strings if not isinstance(data.get(k, ""), str)]
    found += [
        (key, "must be a list of strings")
        for key in lists
        if not all(isinstance(value, str) for value in listed(key))
    ]
    if not all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(id)) for id in listed("base_model")):
        found.append(("base_model", "must be a model id"))
    if data.get("base_model_relation", "finetune") not in RELATIONS:
        found.append(("base_model_relation", "must be one of those that exist"))
    for result in (result for model in listed("model-index") for result in model["results"]):
        if not result["task"]["type"] or not {"type", "name"} <= set(result["dataset"]):
            found.append(("model-index", "lacks a task or a dataset"))
        if not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
            found.append(("model-index", "lacks a metric"))
    return found


@route("POST", f"/api/models/{ID}/preupload/(?P<revision>[^/]+)")
def preupload(hub: UploadHub, request: Request, id: str, revision: str) -> Answer:
    """How each file is to be sent, if `.gitignore` lets it, and what is there under its name."""
    repository = hub.repository(request, id)
    _check_rights(hub, request, repository)
    commit = hub.commit(repository, revision)
    rules = commit.files.get(".gitignore")
    patterns = rules.data.decode().split() if rules else []
    files = []
    for file in _json(request)["files"]:
        assert len(base64.b64decode(file["sample"])) <= 512
        lfs = Path(file["path"]).suffix in LFS_SUFFIXES or file["size"] >= LARGE
        blob = commit.files.get(file["path"])
        oid = None if blob is None else blob.etag
        mode = "lfs" if lfs else "regular"
        ignored = any(fnmatch(file["path"], pattern) for pattern in patterns)
        known = {"uploadMode": mode, "shouldIgnore": ignored, "oid": oid}
        files.append({"path": file["path"], **known})
    return json_answer({"files": files})


def _check_rights(hub: UploadHub, request: Request, repository: Repository) -> None:
    """Who may read may propose a pull request; who owns may write."""
    if request.query.get("create_pr") != ["1"]:
        hub.writer(request, repository.id.partition("/")[0])
    elif hub.user(request) is None:
        raise RefusedError(401, "Invalid username or password.")


@route("POST", f"/{ID}\\.git/info/lfs/objects/batch")
def lfs_batch(hub: UploadHub, request: Request, id: str) -> Answer:
    """For every large file where to send it, or nothing when it is there."""
    repository = hub.repository(request, id)
    if hub.user(request) is None:
        raise RefusedError(401, "Invalid username or password.")
    asked = _json(request)
    assert asked["operation"] == "upload"
    assert asked["hash_algo"] == "sha256"
    objects = []
    for wanted in asked["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        entry: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid not in repository.objects:
            entry["actions"] = _actions(hub, repository.id, oid, size)
        objects.append(entry)
    return json_answer({"transfer": "basic", "objects": objects})


def _actions(hub: UploadHub, id: str, oid: str, size: int) -> dict[str, Any]:
    verify = {"href": f"{hub.url}/{id}.git/info/lfs/objects/verify"}
    storage = f"{hub.storage_url}/put/{id}/{oid}"
    if hub.part_size is None or size <= hub.part_size:
        return {"upload": {"href": f"{storage}/0"}, "verify": verify}
    numbers = range(1, math.ceil(size / hub.part_size) + 1)
    parts = {f"{number:05d}": f"{storage}/{number}" for number in numbers}
    href = f"{hub.url}/api/complete_multipart/{id}"
    header = {"chunk_size": str(hub.part_size), **parts}
    return {"upload": {"href": href, "header": header}, "verify": verify}


@route("PUT", f"/put/{ID}/(?P<oid>[0-9a-f]{{64}})/(?P<part>\\d+)")
def put(hub: UploadHub, request: Request, id: str, oid: str, part: str) -> Answer:
    """The content of a large file; part 0 is the whole."""
    assert request.on_storage, "large files go to the storage"
    assert request.token is None, "a token went to the storage"
    if part == "0":
        _store(hub, id, oid, request.body)
    else:
        hub.parts[oid, int(part)] = request.body
    return Answer(200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", f"/api/complete_multipart/{ID}")
def complete(hub: UploadHub, request: Request, id: str) -> Answer:
    asked = _json(request)
    oid, numbers = asked["oid"], [part["partNumber"] for part in asked["parts"]]
    assert numbers == list(range(1, len(numbers) + 1))
    _store(hub, id, oid, b"".join(hub.parts.pop((oid, number)) for number in numbers))
    return json_answer({"success": True})


def _store(hub: UploadHub, id: str, oid: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != oid:
        raise RefusedError(400, "The content does not have its SHA-256")
    hub.repositories[id].objects[oid] = data


@route("POST", f"/{ID}\\.git/info/lfs/objects/verify")
def lfs_verify(hub: UploadHub, request: Request, id: str) -> Answer:
    asked = _json(request)
    data = hub.repository(request, id).objects.get(asked["oid"])
    if data is None or len(data) != asked["size"]:
        raise RefusedError(404, "The object is not there", "EntryNotFound")
    return json_answer({})


@route("POST", f"/api/models/{ID}/commit/(?P<revision>[^/]+)")
def commit(hub: UploadHub, request: Request, id: str, revision: str) -> Answer:
    """One line of JSON for the header, and one for each file."""
    repository = hub.repository(request, id)
    _check_rights(hub, request, repository)
    parent, branch = hub.commit(repository, revision), unquote(revision)
    header, *lines = map(json.loads, request.body.splitlines())
    assert header["key"] == "header"
    expected = header["value"].get("parentCommit")
    if expected is not None and expected != parent.sha:
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
    files: dict[str, bytes | None] = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in repository.objects:
                raise RefusedError(400, f"The object of {value['path']} is not there")
            files[value["path"]] = repository.objects[value["oid"]]
        else:
            assert line["key"] == "deletedFile"
            files[value["path"]] = None
    answer: dict[str, Any] = {"success": True}
    if request.query.get("create_pr") == ["1"]:
        number = len(repository.pulls) + 1
        branch = f"refs/pr/{number}"
        repository.pulls[branch] = parent.sha
        answer["pullRequestUrl"] = f"{hub.url}/{repository.id}/discussions/{number}"
    sha = repository.commit(files, branch=branch, title=header["value"]["summary"])
    url = f"{hub.url}/{repository.id}/commit/{sha}"
    return json_answer({**answer, "commitOid": sha, "commitUrl": url})
