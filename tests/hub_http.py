"""An HTTP server for tests: routes that are functions, a record of requests, faults on demand.

It listens on two ports of the loopback interface: two origins, as a Hub and its file storage are.
A route takes the server and the request and returns an answer; `@route` marks it. Errors that are
meant are raised as `RefusedError`; any other exception of a route fails the test when the server
closes.
"""

from __future__ import annotations

import json
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CHUNK = 1 << 16


@dataclass
class Request:
    """One request. `file` is the stored file it was about, `sent` the bytes of its answer."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    on_storage: bool
    status: int = 0
    file: str | None = None
    sent: int = 0

    @property
    def token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: str | None = None


def json_answer(
    value: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Answer:
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, json.dumps(value).encode(), headers)


class RefusedError(Exception):
    """An answer that ends a request early. `code` is the Hub's own name for the reason."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        named = {"X-Error-Code": code} if code else {}
        headers = {**named, "X-Error-Message": message, **(headers or {})}
        self.answer = json_answer({"error": message}, status=status, headers=headers)


Handler = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(methods: str, pattern: str) -> Callable[[Handler], Handler]:
    """Marks the handler of a path. Named groups of `pattern` become its keyword arguments."""

    def add(handler: Handler) -> Handler:
        ROUTES.extend((method, re.compile(pattern), handler) for method in methods.split())
        return handler

    return add


@dataclass
class Fault:
    """Something that goes wrong on purpose to requests whose method and path match.

    `kind`: "answer" gives another answer; "download" cuts the body of an answer and "upload" that
    of a request after some bytes; "stall" reads as many bytes of a request and no more.
    """

    kind: str
    methods: str
    path: str
    left: float
    answer: Answer | None = None
    after: int = 0
    reached: threading.Event = field(default_factory=threading.Event)


class RecordingServer:
    """Serves `ROUTES` on `url` and `storage_url` while it is entered."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.crashes: list[str] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._servers = [_Listener(self, on_storage) for on_storage in (False, True)]
        self.url, self.storage_url = (
            f"http://127.0.0.1:{listener.server_address[1]}" for listener in self._servers
        )

    def __enter__(self) -> Any:
        for listener in self._servers:
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        for listener in self._servers:
            listener.shutdown()
            listener.server_close()
        assert not self.crashes, self.crashes[0]

    def fail(
        self,
        status: int,
        path: str = "",
        *,
        methods: str = "GET HEAD POST PUT DELETE",
        times: float = float("inf"),
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answers requests whose path matches with an error, or with a body that is nonsense."""
        answer = RefusedError(status, "Failed on purpose", headers=headers).answer
        if body is not None:
            answer = Answer(status, body, {"Content-Type": "text/html"})
        self._faults.append(Fault("answer", methods, path, times, answer=answer))

    def cut(self, path: str, after: int, *, times: float = float("inf")) -> Fault:
        """Closes the connection after some bytes of the body of a matching answer to GET.

        Returns the fault, of which `times` less the cuts that were made is `left`.
        """
        self._faults.append(Fault("download", "GET", path, times, after=after))
        return self._faults[-1]

    def cut_upload(self, path: str, after: int, *, times: float = float("inf")) -> Fault:
        """Closes the connection after some bytes of the body of a matching PUT or POST.

        Returns the fault, as `cut` does.
        """
        self._faults.append(Fault("upload", "PUT POST", path, times, after=after))
        return self._faults[-1]

    def stall_upload(self, path: str, after: int) -> threading.Event:
        """Reads no further than some bytes of a matching PUT or POST; the event: it is there."""
        fault = Fault("stall", "PUT POST", path, float("inf"), after=after)
        self._faults.append(fault)
        return fault.reached

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        self._faults.clear()

    def record(self, request: Request) -> Fault | None:
        """Keeps a request whose body has not been read yet, and says what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if _strikes(fault, request)), None)
            if fault is not None:
                fault.left -= 1
        return fault

    def wait_for_the_end(self, fault: Fault) -> None:
        """Of a request that stalls."""
        fault.reached.set()
        self._closing.wait()

    def answer(self, request: Request) -> Answer:
        try:
            return self._dispatch(request)
        except RefusedError as refusal:
            return refusal.answer
        except Exception:
            self.crashes.append(traceback.format_exc())
            return Answer(500)

    def _dispatch(self, request: Request) -> Answer:
        for method, pattern, handler in ROUTES:
            match = pattern.fullmatch(request.path)
            if match is not None and method == request.method:
                return handler(self, request, **match.groupdict())
        raise RefusedError(404, f"No route for {request.method} {request.path}")


def _strikes(fault: Fault, request: Request) -> bool:
    meant = fault.left > 0 and request.method in fault.methods.split()
    return meant and re.search(fault.path, request.path) is not None


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: RecordingServer, on_storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.owner, self.on_storage = owner, on_storage

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query, on_storage = parse_qs(url.query), self.server.on_storage
        request = Request(self.command, url.path, query, self.headers, b"", on_storage)
        fault = self.server.owner.record(request)
        kind = fault.kind if fault is not None else None
        if fault is not None and kind in ("upload", "stall"):
            request.body = self._body(fault.after)
            if kind == "stall":
                self.server.owner.wait_for_the_end(fault)
            self.close_connection = True
            return
        request.body = self._body()
        if fault is not None and fault.answer is not None:
            answer = fault.answer
        else:
            answer = self.server.owner.answer(request)
        self._send(request, answer, fault.after if fault and kind == "download" else None)

    def _send(self, request: Request, answer: Answer, cut_after: int | None) -> None:
        request.status, request.file = answer.status, answer.file
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if request.method == "HEAD":
            return
        body = answer.body[:cut_after]
        for start in range(0, len(body), CHUNK):
            self.wfile.write(body[start : start + CHUNK])
            request.sent += len(body[start : start + CHUNK])
        self.close_connection = self.close_connection or cut_after is not None

    def _body(self, most: int | None = None) -> bytes:
        """The body of the request, of known length or in chunks; at most so many bytes of it."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            wanted = length if most is None else min(length, most)
            body = self.rfile.read(wanted)
            if len(body) < wanted:
                raise ConnectionError("the client went away in the middle of a request")
            return body
        body = b""
        while most is None or len(body) < most:
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()  # the end of the chunk
            if size == 0:
                break
        return body[:most]

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are recorded, not printed."""
