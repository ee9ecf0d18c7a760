"""Files on a web server of the loopback, read as local ones are: by ranges, and again if a connection breaks."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from whispertune.data import remote
from whispertune.data.audio.waveforms import load_waveform, probe_audio, stream_waveform
from whispertune.data.audio_files import find_audio
from whispertune.data.remote import BLOCK_BYTES, as_path, content_sha256, is_remote
from whispertune.data.sources import read_utterances
from whispertune.errors import AudioError, DataError, ManifestError, StorageError


class Web(http.server.BaseHTTPRequestHandler):
    """files: by path. broken: how many of the next answers are cut in the middle."""

    files: ClassVar[dict[str, bytes]] = {}
    broken: ClassVar[int] = 0
    status: ClassVar[int] = 200
    ranges: ClassVar[bool] = True
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        content = self.files.get(self.path)
        if content is None or self.status != 200:
            self.send_error(404 if content is None else self.status)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = content[int(asked[1]) : int(asked[2]) + 1] if asked and self.ranges else content
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", hashlib.md5(content).hexdigest())
        self.end_headers()
        if self.command == "HEAD":
            return
        if Web.broken:
            Web.broken -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="the extra `http` is not installed")
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    Web.files, Web.broken, Web.status, Web.ranges = {}, 0, 200, True
    Web.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_a_path() -> None:
    path = as_path("s3://bucket/data/train.csv")
    assert str(path.absolute().parent / "a b.wav") == "s3://bucket/data/a b.wav"
    assert (path.name, path.suffix, path.is_absolute()) == ("train.csv", ".csv", True)
    assert path == as_path("s3://bucket/data/train.csv") != as_path("s3://bucket/data/valid.csv")
    assert [is_remote(text) for text in ("hf://datasets/x/y", "s3:/x", "a/s3://x", "ftp://x", "C://x")] == [
        True, *[False] * 4
    ]  # fmt: skip
    assert type(as_path("a.csv")) is type(Path("a.csv"))


def test_urls_that_a_path_would_change_are_refused() -> None:
    for url in ("s3://bucket/a//b.wav", "https://host/a.wav?Credential=AK/2026//x", "s3://bucket/./a.wav"):
        with pytest.raises(DataError, match="empty or dot parts"):
            as_path(url)


def test_recordings_in_a_remote_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any depth, as in a local one; from a bucket that is none."""

    class Bucket:
        retries = 1

        def _strip_protocol(self, path: str) -> str:
            return path.removeprefix("s3://")

        def find(self, key: str) -> list[str]:
            return [f"{key}/{name}" for name in ("b/two.WAV", "one.flac", "notes.txt")]

        def isdir(self, key: str) -> bool:
            return key == "bucket/talks"

        def info(self, key: str) -> dict[str, object]:
            return {"name": key, "size": 1, "type": "file"}

    monkeypatch.setattr(remote, "_file_system", lambda scheme: Bucket())
    found = find_audio(["s3://bucket/talks"])
    assert list(map(str, found)) == ["s3://bucket/talks/b/two.WAV", "s3://bucket/talks/one.flac"]


def test_a_web_address_is_no_pattern() -> None:
    signed = "https://host/a.wav?Expires=1&Signature=*"
    assert find_audio([signed]) == [as_path(signed)]


@pytest.mark.parametrize("ranges", [True, False])
def test_large_files_are_read_by_ranges(web: str, ranges: bool) -> None:
    Web.ranges = ranges
    content = np.random.default_rng(0).bytes(2 * BLOCK_BYTES + 1000)
    Web.files["/a.bin"], Web.files["/empty"] = content, b""
    path = as_path(f"{web}/a.bin")
    Web.broken = 2
    with path.open("rb") as file:
        assert file.read() == content
        assert file.seek(-10, 2) == len(content) - 10
        assert file.read() == content[-10:]
        file.seek(BLOCK_BYTES - 5)
        assert file.read(10) == content[BLOCK_BYTES - 5 : BLOCK_BYTES + 5]
    assert content_sha256(path) == hashlib.sha256(content).hexdigest()
    assert as_path(f"{web}/empty").open("rb").read() == b""


@pytest.mark.parametrize("seconds", [1, 150])
def test_recordings_decode_as_local_ones(web: str, tmp_path: Path, seconds: int) -> None:
    """Small ones in one request; of long ones what is needed."""
    local = tmp_path / "a.wav"
    samples = np.random.default_rng(0).integers(-9_000, 9_000, seconds * 16_000).astype(np.int16)
    soundfile.write(local, samples, 16_000)
    Web.files["/a.wav"] = local.read_bytes()
    audio = as_path(f"{web}/a.wav")
    assert probe_audio(audio) == probe_audio(local)
    for span in ((0.0, None), (0.25, 0.75)):
        assert np.array_equal(load_waveform(audio, *span), load_waveform(local, *span))
    assert np.array_equal(np.concatenate([*stream_waveform(audio)]), np.concatenate([*stream_waveform(local)]))
    # A library that reads it by callbacks swallows their errors.
    remote._block.cache_clear()
    Web.broken = 10**6
    with pytest.raises(StorageError, match=r"a\.wav: cannot be read .* tried 5 times"):
        load_waveform(audio)


def test_an_error_amid_a_long_recording_is_not_its_end(web: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(150 * 16_000, np.int16), 16_000)
    Web.files["/a.wav"] = (tmp_path / "a.wav").read_bytes()
    audio = as_path(f"{web}/a.wav")
    assert probe_audio(audio)
    Web.status = 503
    with pytest.raises(StorageError, match="503"):
        load_waveform(audio, 140, 149)


def test_spans_of_a_long_recording_read_its_beginning_once(web: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(150 * 16_000, np.int16), 16_000)
    Web.files["/a.wav"] = (tmp_path / "a.wav").read_bytes()
    remote._block.cache_clear()
    for second in range(0, 20, 2):
        load_waveform(as_path(f"{web}/a.wav"), second, second + 2)
    assert len(Web.requests) <= 4  # the beginning, and what asks for its size


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (408, 5), (429, 5), (503, 5)])
def test_only_what_may_pass_is_asked_again(web: str, status: int, tries: int) -> None:
    Web.files["/a.wav"], Web.status = b"x", status
    with pytest.raises(StorageError, match=str(status)):
        remote._block(as_path(f"{web}/a.wav"), 1)
    assert len(Web.requests) == tries


def test_manifests(web: str) -> None:
    Web.files["/d/train.csv"] = f"audio,text\nx/a.wav,Uno.\n{web}/b.wav,Due.\nperché.wav,Tre.\n".encode()
    rows = read_utterances("train", f"{web}/d/train.csv")
    assert [str(row.audio) for row in rows] == [f"{web}/d/x/a.wav", f"{web}/b.wav", f"{web}/d/perché.wav"]
    assert rows.fingerprint == hashlib.sha256(Web.files["/d/train.csv"]).hexdigest()
    with pytest.raises(ManifestError, match=r"no\.csv: no such file"):
        read_utterances("train", f"{web}/d/no.csv")
    with pytest.raises(AudioError, match=r"no\.wav: no such file"):
        load_waveform(as_path(f"{web}/no.wav"))


def test_what_is_not_allowed_or_not_installed(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Web.files["/a.wav"], Web.status = b"x", 403
    with pytest.raises(DataError, match=r"no permission to read it .*403.*; give a URL that needs no login"):
        load_waveform(as_path(f"{web}/a.wav"))
    assert len(Web.requests) <= 3  # for it and its size: not tried again
    remote._file_system.cache_clear()
    monkeypatch.setattr("fsspec.filesystem", lambda scheme: (_ for _ in ()).throw(ImportError("Install gcsfs")))
    with pytest.raises(DataError, match=r"gs:// needs .*Install gcsfs.*; pip install 'whispertune\[gcs\]'"):
        load_waveform(as_path("gs://bucket/a.wav"))
    remote._file_system.cache_clear()
