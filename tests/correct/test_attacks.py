"""What others may try with the page's server: each is refused, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from correct_samples import TEXTS, Client, served, transcript

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    path = transcript(folder)
    (folder / "secret.txt").write_text("the secret", encoding="utf-8")
    (folder / "link.wav").symlink_to(folder / "secret.txt")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["audio"] = str(folder / "link.wav")
    linked = folder / "link.json"
    linked.write_text(json.dumps(content), encoding="utf-8")
    with served(str(path), str(linked), "--output", str(folder / "out")) as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_changes(client: Client) -> Iterator[None]:
    yield
    assert client.json("items")["number"] == 0


@pytest.fixture
def first(client: Client) -> str:
    return str(client.json("items?order=time")["items"][0]["id"])


def edit(client: Client, first: str, **headers: str) -> int:
    given = {"Content-Type": "application/json", "Origin": client.origin, **headers}
    body = json.dumps({"op": "edit", "id": first, "text": "attacked", "seen": 0}).encode()
    return client.ask("POST", "apply", body, given)[0]


def test_without_a_token(client: Client) -> None:
    for path in ("/", "/items", "/apply", "/static/correct.js", "//items", "/?token="):
        status, _, body = client.ask("GET", path, bare=True)
        assert status == 404
        assert b"segments" not in body


def test_a_wrong_token(client: Client) -> None:
    token = client.path.strip("/")
    for wrong in (token[:-1], f"{token}x", token.swapcase(), "x" * 100_00, "%00", "é".encode().hex()):
        assert client.ask("GET", f"/{wrong}/items", bare=True)[0] in (400, 404)


def test_another_host(client: Client) -> None:
    """DNS rebinding: the name of an attacker's host, which points here."""
    for host in (
        "evil.example",
        f"evil.example:{client.port}",
        f"127.0.0.1.evil.example:{client.port}",
        "127.0.0.1",
        "0.0.0.0",
    ):
        assert client.ask("GET", "items", headers={"Host": host})[0] == 421


def test_no_host_or_two(client: Client) -> None:
    for hosts in (b"", b"Host: 127.0.0.1:%d\r\nHost: evil.example\r\n" % client.port):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
            raw.sendall(b"GET %sitems HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (client.path.encode(), hosts))
            assert raw.recv(1 << 16).split()[1] in (b"400", b"421")


def test_another_origin(client: Client, first: str) -> None:
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{client.port + 1}",
        f"https://127.0.0.1:{client.port}",
        f"http://localhost:{client.port}",
    ):
        assert edit(client, first, Origin=origin) == 403
        assert client.ask("GET", "items", headers={"Origin": origin})[0] == 403


def test_an_edit_without_an_origin(client: Client, first: str) -> None:
    assert edit(client, first, Origin="") == 403


def test_asked_from_another_site(client: Client, first: str) -> None:
    """An image or a script tag of another page sends no origin, but says that it is another site."""
    for site in ("cross-site", "same-site"):
        assert client.ask("GET", f"audio?id={quote(first)}", headers={"Sec-Fetch-Site": site})[0] == 403


def test_a_form_of_another_page(client: Client, first: str) -> None:
    """Forms can send these without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert edit(client, first, **{"Content-Type": kind}) == 415


def test_other_methods(client: Client) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"):
        assert client.ask(method, "items")[0] in (400, 405)
    assert client.ask("GET", "apply")[0] == 405
    assert client.ask("GET", "save")[0] == 405


def test_no_permission_for_other_origins(client: Client) -> None:
    _, headers, _ = client.ask("GET", "items")
    assert not any(name.startswith("access-control") for name in headers)
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-frame-options"] == "DENY"


def test_traversal_in_the_path(client: Client) -> None:
    for path in (
        "static/../../secret.txt",
        "static/..%2f..%2fsecret.txt",
        "static/%2e%2e/%2e%2e/secret.txt",
        "../../etc/passwd",
        "static//etc/passwd",
        "static/..\\..\\secret.txt",
        "static/page.html",
        "static/wavesurfer.LICENSE",
        "static/__init__.py",
        "static/%00correct.js",
    ):
        status, _, body = client.ask("GET", path)
        assert status in (400, 404)
        assert b"secret" not in body


def test_traversal_in_an_id(client: Client, folder: Path) -> None:
    for id_ in (
        "../secret.txt",
        str(folder / "secret.txt"),
        "/etc/passwd",
        "file:///etc/passwd",
        "talk.wav",
        "\0",
        "~",
    ):
        for path in ("audio", "peaks", "segment"):
            status, _, body = client.ask("GET", f"{path}?id={quote(id_)}")
            assert status == 422
            assert b"the secret" not in body


def test_a_symbolic_link_in_place_of_a_recording(client: Client) -> None:
    """Only decoded samples are sent, so what is no recording is not sent at all."""
    linked = [item["id"] for item in client.json("items")["items"] if item["id"].startswith("link")]
    assert linked
    for path in ("audio", "peaks"):
        status, _, body = client.ask("GET", f"{path}?id={quote(linked[0])}")
        assert status == 422
        assert b"the secret" not in body


def test_a_huge_body(client: Client) -> None:
    given = {"Content-Type": "application/json", "Origin": client.origin}
    status, _, _ = client.ask("POST", "apply", b'{"text": "' + b"a" * 200_000 + b'"}', given)
    assert status == 413


def test_a_body_of_unknown_length_that_does_not_end(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
        raw.sendall(
            b"POST %sapply HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: %s\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % (client.path.encode(), client.port, client.origin.encode())
        )
        try:
            for _ in range(64):
                raw.sendall(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        assert raw.recv(1 << 16).split()[1] == b"413"


def test_huge_headers(client: Client) -> None:
    try:
        status, _, _ = client.ask("GET", "items", headers={"X-Long": "a" * 200_000})
    except (ConnectionError, OSError):
        return
    assert status in (400, 431)


def test_bodies_that_are_no_objects(client: Client) -> None:
    given = {"Content-Type": "application/json", "Origin": client.origin}
    for body in (b"", b"[]", b"1", b"null", b'"a"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000):
        assert client.ask("POST", "apply", body, given)[0] == 400


def test_fields_of_other_types(client: Client, first: str) -> None:
    for content in (
        {"op": ["edit"], "id": first, "seen": 0},
        {"op": "edit", "id": {"a": 1}, "text": "x", "seen": 0},
        {"op": "edit", "id": first, "text": {"$": 1}, "seen": 0},
        {"op": "edit", "id": first, "text": "x"},
        {"op": "edit", "id": first, "text": "x", "seen": True},
        {"op": "edit", "id": first, "start": 1e400, "seen": 0},
        {"op": "edit", "id": first, "recording": 1, "further": {"audio": "/etc/passwd"}, "seen": 0},
        {"op": "__init__", "id": first, "seen": 0},
        {"op": "split", "id": first, "at": 1, "texts": "ab", "seen": 0},
        {"op": "edit", "id": first, "status": "gone", "seen": 0},
    ):
        assert client.post("apply", content)[0] == 422


def test_stretches_and_ranges_outside(client: Client, first: str) -> None:
    for stretch in (
        "start=-5&end=-1",
        "start=5&end=2",
        "start=nan",
        "end=inf",
        "start=1e300",
        "start=11.9999&end=12",
        "start=x",
        "start=50&end=60",
    ):
        assert client.ask("GET", f"audio?id={quote(first)}&{stretch}")[0] == 422
    for part in ("bytes=99999999-", "bytes=5-2", "bytes=-0"):
        assert client.ask("GET", f"audio?id={quote(first)}", headers={"Range": part})[0] == 416
    for part in ("bytes=0-1,4-5", "bytes=a-b", "lines=0-1", "bytes=" + "9" * 400 + "-"):
        assert client.ask("GET", f"audio?id={quote(first)}", headers={"Range": part})[0] == 200
    for number in ("-1", "1e9", "9" * 30, "٣"):
        assert client.ask("GET", f"items?first={quote(number)}")[0] == 422


def test_markup_in_texts(client: Client) -> None:
    """Texts are sent as JSON alone, and the page may run nothing but the package's own files."""
    status, headers, body = client.ask("GET", "items")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert TEXTS[4][0] in {item["text"] for item in json.loads(body)["items"]}
    _, headers, page = client.ask("GET", "")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert b"onmouseover" not in page
    nonces = {client.ask("GET", "")[1]["content-security-policy"] for _ in range(3)}
    assert len(nonces) == 3


def test_only_the_loopback_is_listened_on(client: Client) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", client.port)) != 0


def test_a_second_process(client: Client, folder: Path) -> None:
    with pytest.raises(AssertionError, match="another process"), served("--output", str(folder / "out")):
        pass
