"""A small corpus to correct, and its server in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import soundfile

TEXTS = [
    ("Buongiorno a tutti.", "Anna"),
    ("مرحبا بكم في البرنامج", "Omar"),
    ("สวัสดีครับยินดีต้อนรับ", "Somchai"),
    ("नमस्ते आप कैसे हैं", "Asha"),
    ("<b onmouseover=alert(1)>Ciao</b> & arrivederci", "Anna"),
]
SECONDS = 12.0


def write_recording(path: Path, seconds: float = SECONDS, rate: int = 16_000) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    loud = 0.4 + 0.3 * np.sin(2 * np.pi * 0.7 * time)
    soundfile.write(path, (loud * np.sin(2 * np.pi * 220 * time)).astype(np.float32), rate)
    return path


def transcript(folder: Path, name: str = "talk") -> Path:
    """A recording and its transcript as `transcribe` writes it, with words and their confidence."""
    write_recording(folder / f"{name}.wav")
    segments = []
    for number, (text, speaker) in enumerate(TEXTS):
        start, words = 2.0 * number + 0.5, text.split()
        length = 1.5 / len(words)
        segments.append(
            {
                "id": number,
                "start": start,
                "end": start + 1.5,
                "text": text,
                "speaker": speaker,
                "avg_logprob": -0.1 * (number + 1),
                "words": [
                    {
                        "start": start + n * length,
                        "end": start + (n + 1) * length,
                        "text": word,
                        "confidence": round(0.95 - 0.25 * ((n + number) % 4), 2),
                    }
                    for n, word in enumerate(words)
                ],
            }
        )
    content = {
        "audio": str(folder / f"{name}.wav"),
        "model": "m",
        "duration": SECONDS,
        "language": "it",
        "text": " ".join(text for text, _ in TEXTS),
        "segments": segments,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


class Client:
    """Requests to the page's server, byte by byte as given."""

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self.address, self.process = address, process
        parts = urlsplit(address)
        self.port, self.path = int(parts.port or 0), parts.path
        self.origin = f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        bare: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. path: below the token, unless `bare`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path if bare else self.path + path, skip_host=True, skip_accept_encoding=True)
            given = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
            if body is not None and "Content-Length" not in given:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> dict[str, Any]:
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def post(self, path: str, content: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        body = json.dumps({} if content is None else content).encode()
        given = {"Content-Type": "application/json", "Origin": self.origin, **headers}
        status, _, answer = self.ask("POST", path, body, given)
        return status, json.loads(answer)

    def edit(self, op: str, id_: str | None = None, **fields: object) -> dict[str, Any]:
        status, answer = self.post("apply", {"op": op, "id": id_, "seen": self.json("items")["number"], **fields})
        assert status == 200, answer
        return answer

    def segment(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json(f"segment?id={quote(id_)}")["segment"]
        return found


@contextmanager
def served(*arguments: str) -> Iterator[Client]:
    """The command in a process of its own, killed at the end without a chance to write anything."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"}
    process = subprocess.Popen(
        [sys.executable, "-m", "whispertune", "correct", *arguments, "--open", "false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("page: "):
                break
        else:
            raise AssertionError("".join(shown))
        yield Client(line.removeprefix("page: ").strip(), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
