"""A server on the loopback that answers what huggingface_hub's client asks the Hub when it uploads or downloads."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_stand_in"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """One repository: whether it is private, its files at `main`, how many commits it has, and the last one."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: int = 0
    sha: str = COMMIT


@dataclass
class StandIn:
    """What the server holds, what it was asked, and what it is to refuse."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that arrived, by their sha256."""
    requests: list[str] = field(default_factory=list)
    role: str = "write"
    refuse: dict[str, int] = field(default_factory=dict)
    """Status to answer with, by the beginning of `METHOD /path`."""

    def refused(self, request: str) -> int | None:
        return next((status for start, status in self.refuse.items() if request.startswith(start)), None)


@contextmanager
def serving() -> Iterator[StandIn]:
    """Serve on a free port of the loopback."""
    hub = StandIn()

    class Handler(_Handler):
        stand_in = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer(self) -> None:
        hub, path = self.stand_in, self.path.partition("?")[0]
        body = self._body()
        request = f"{self.command} {path}"
        hub.requests.append(request)
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials"})
        if status := hub.refused(request):
            return self._send(status, {"error": "refused"})
        if path.startswith("/lfs/"):
            hub.objects[path.removeprefix("/lfs/")] = body
            return self._send(200)
        match path.strip("/").split("/"):
            case ["api", "whoami-v2"]:
                return self._send(200, {"name": "me", "auth": {"accessToken": {"role": hub.role}}})
            case ["api", "validate-yaml"]:
                licence = "license: nonsense" in json.loads(body)["content"]
                problem = {"errors": [{"message": '"license" must be one of [apache-2.0, …]'}]}
                return self._send(400, problem) if licence else self._send(200, {"warnings": [{"message": "a hint"}]})
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                private = asked.get("private", asked.get("visibility") == "private")
                hub.repositories[name] = Repository(private)
                return self._send(200, {"url": f"{hub.address}/{name}"})
            case ["api", "models", owner, name, *rest] if found := hub.repositories.get(f"{owner}/{name}"):
                return self._model(f"{owner}/{name}", found, rest, body)
            case [owner, git, "info", "lfs", "objects", "batch"]:
                assert f"{owner}/{git.removesuffix('.git')}" in hub.repositories
                return self._send(
                    200, {"objects": [self._upload_of(one["oid"]) for one in json.loads(body)["objects"]]}
                )
            case [owner, name, "resolve", _, file]:
                content = hub.repositories[f"{owner}/{name}"].files.get(file)
                if content is not None:
                    etag = hashlib.sha256(content).hexdigest()
                    return self._send(200, content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        return self._send(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

    def _upload_of(self, oid: str) -> dict[str, Any]:
        known = oid in self.stand_in.objects
        actions = {"upload": {"href": f"{self.stand_in.address}/lfs/{oid}"}}
        return {"oid": oid, "size": 1} | ({} if known else {"actions": actions})

    def _model(self, name: str, found: Repository, rest: list[str], body: bytes) -> None:
        match rest:
            case [] | ["revision", _]:
                files = [{"rfilename": file} for file in found.files]
                about = {"id": name, "private": found.private, "sha": found.sha, "siblings": files}
                return self._send(200, about)
            case ["tree", *_]:
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha256(content).hexdigest()}
                    for file, content in found.files.items()
                ]
                return self._send(200, tree)
            case ["preupload", _]:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                return self._send(200, {"files": modes})
            case ["commit", _]:
                entries = [json.loads(line) for line in body.splitlines()]
                if entries[0]["value"].get("parentCommit", found.sha) != found.sha:
                    return self._send(412, {"error": "A commit has happened since"})
                for entry in entries:
                    match entry["key"]:
                        case "file":
                            found.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                        case "lfsFile":
                            found.files[entry["value"]["path"]] = self.stand_in.objects[entry["value"]["oid"]]
                        case "deletedFile":
                            del found.files[entry["value"]["path"]]
                found.commits += 1
                return self._send(
                    200, {"commitUrl": f"{self.stand_in.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
                )
        return self._send(404, {"error": "not found"})
