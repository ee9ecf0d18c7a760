"""What stands between the page's server and other programs: who may ask, and how much.

The server listens on the loopback only, but any page in the user's browser can send requests there, and a name server
can let another host's name point to it. So a request must carry the token in its path, which only the user's own page
knows, and name this server as its host and, where the browser says it, as its origin.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 128 << 10
"""Of a request's body: a text of 10,000 characters, escaped, and its other fields."""
BODY_SECONDS = 10.0
"""Within which a body must have arrived."""
BODY = "whispertune.body"
"""Where the scope holds the JSON object that a POST carries."""
NONCE = "whispertune.nonce"
HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; connect-src 'self'; media-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Serves `app` under /TOKEN/ to the page alone."""

    def __init__(self, app: Asgi, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # websockets and lifespan are not used
            return
        nonce = secrets.token_urlsafe(16)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0].decode("latin-1").lower() not in ours]
                policy = POLICY.format(nonce=nonce)
                added = [
                    (name.encode(), value.encode()) for name, value in (*HEADERS, ("content-security-policy", policy))
                ]
                message = {**message, "headers": kept + added}
            await send(message)

        try:
            path = self._path(scope)
            body = await self._body(scope, receive)
        except _RefusedError as refused:
            content = json.dumps({"error": str(refused)}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()),
                       (b"connection", b"close")]  # fmt: skip
            await send_guarded({"type": "http.response.start", "status": refused.status, "headers": headers})
            await send_guarded({"type": "http.response.body", "body": content})
            return
        passed = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace"), BODY: body, NONCE: nonce}
        await self._app(passed, receive, send_guarded)

    def _path(self, scope: Scope) -> str:
        """The path below the token.

        Raises:
            _RefusedError: if the request is not the page's.
        """
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value)
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise _RefusedError(421, "this server answers to its own address only")
        own = b"http://" + hosts[0].lower()
        if any(origin.lower() != own for origin in origins):
            raise _RefusedError(403, "asked by another origin")
        if any(site.lower() not in (b"same-origin", b"none") for site in given.get(b"sec-fetch-site", [])):
            raise _RefusedError(403, "asked by another site")
        if scope["method"] == "POST":
            if not origins:
                raise _RefusedError(403, "no origin is named")
            if given.get(b"content-type", [b""])[0].split(b";")[0].strip().lower() != b"application/json":
                raise _RefusedError(415, "a body must be application/json")
        elif scope["method"] not in ("GET", "HEAD"):
            raise _RefusedError(405, "method not allowed")
        token, slash, path = scope["path"].removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode("utf-8", "replace"), self._token):
            raise _RefusedError(404, "not found; the address that the command printed holds a token")
        return f"/{path}"

    async def _body(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The JSON object that a POST carries; {} for other methods.

        Raises:
            _RefusedError: if it is too large, too slow, or no JSON object.
        """
        if scope["method"] != "POST":
            return {}
        content = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _RefusedError(400, "the request was cut short")
                    content += message.get("body", b"")
                    if len(content) > MOST_BYTES:
                        raise _RefusedError(413, f"a body holds at most {MOST_BYTES} bytes")
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise _RefusedError(408, "the body did not arrive in time") from None
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            raise _RefusedError(400, "the body is not JSON") from None
        if not isinstance(body, dict):
            raise _RefusedError(400, "the body is not a JSON object")
        return body
