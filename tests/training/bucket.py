"""An S3 server on the loopback (moto's), behind a proxy that cuts connections."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

s3fs: Any = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
threaded_server: Any = pytest.importorskip("moto.moto_server.threaded_moto_server", reason="moto is not installed")


class Proxy:
    """Passes connections on to a port. cut_every: every nth connection is closed in the middle of its answer; 0: none.

    cuts: how often that happened.
    """

    def __init__(self, port: int) -> None:
        self.cut_every = self.cuts = self._connections = 0
        self._port, self._listening = port, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                self._connections += 1
                cut = bool(self.cut_every) and self._connections % self.cut_every == 0
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, cut), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, cut: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if cut:
                    target.sendall(data[: len(data) // 2])
                    self.cuts += 1
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.contextmanager
def serving() -> Iterator[Proxy]:
    """An empty server; its proxy's port is that of the environment's AWS_ENDPOINT_URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = threaded_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy
    proxy.close()
    server.stop()


def upload(bucket: str, files: dict[str, Path | bytes]) -> None:
    """Put files into a new bucket, under these names."""
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir(bucket)
    for name, content in files.items():
        system.pipe(f"{bucket}/{name}", content if isinstance(content, bytes) else content.read_bytes())
