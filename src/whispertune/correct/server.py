"""The page's server: the segments as JSON, their audio by id, and the edits."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whispertune.correct.audio import MOST_SECONDS, byte_range, peaks_of, wav_of
from whispertune.correct.guard import BODY, NONCE, Guard
from whispertune.correct.journal import Correction, StaleError
from whispertune.correct.outlook import outlook
from whispertune.correct.segments import STATUSES, EditError, Segment
from whispertune.errors import RecipeError, WhispertuneError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MOST_ITEMS = 200
"""Rows of the list that are sent at once."""
MOST_PEAKS = 2_000
STATIC = {
    "correct.js": "text/javascript",
    "correct.css": "text/css",
    "wavesurfer.min.js": "text/javascript",
    "regions.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The files that the page loads."""
NOT_WRITTEN = 507
"""Insufficient storage: an edit could not be written."""


def require_server() -> None:
    """Raise RecipeError if the libraries of the page's server are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the page needs {error.name}, which is not installed: pip install 'whispertune[correct]'"
        ) from None


def application(
    correction: Correction,
    save: Callable[[], Mapping[str, Any]],
    changed: Callable[[], None],
    fault: Callable[[], str | None],
) -> Starlette:
    """The server's routes; the guard stands before them.

    save: writes all files, and returns what the page shows of that. changed: called after each edit. fault: why the
    files could not be written last time.
    """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    session = correction.session
    content = {
        name: files("whispertune.correct").joinpath("static", name).read_bytes() for name in (*STATIC, "page.html")
    }

    def answered(handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """The handler, with its errors as answers."""

        def handle(request: Request) -> Response:
            try:
                return handler(request)
            except StaleError:
                return JSONResponse({"error": "this segment was changed in another tab; it is shown anew"}, 409)
            except (EditError, WhispertuneError) as error:
                return JSONResponse({"error": str(error)}, 422)
            except OSError as error:
                return JSONResponse({"error": f"cannot be written: {error.strerror or error}"}, NOT_WRITTEN)

        return handle

    def page(request: Request) -> Response:
        html = content["page.html"].replace(b"NONCE", request.scope[NONCE].encode())
        return Response(html, media_type="text/html; charset=utf-8")

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return JSONResponse({"error": "not found"}, 404)
        return Response(content[name], media_type=f"{STATIC[name]}; charset=utf-8")

    original = {segment.id: segment for segment in correction.base}

    def state() -> dict[str, Any]:
        return {
            "number": session.number, "counts": session.counts, "undo": session.can_undo, "redo": session.can_redo,
            "total": len(session.segments), "outlook": outlook(session, original),
            "fault": fault(),
        }  # fmt: skip

    def items(request: Request) -> Response:
        show, search = request.query_params.get("show", "all"), request.query_params.get("search", "").casefold()
        first = _whole(request.query_params.get("first", "0"))
        with correction.lock:
            found = session.ranked()
            if request.query_params.get("order") == "time":
                found.sort(key=lambda segment: (segment.recording, segment.start))
            found = [
                segment for segment in found
                if (show not in STATUSES or segment.status == show)
                and (not search or search in f"{segment.text}\n{segment.id}\n{segment.note}".casefold())
            ]  # fmt: skip
            shown = [_item(segment) for segment in found[first : first + MOST_ITEMS]]
            return JSONResponse({**state(), "items": shown, "found": len(found), "first": first})

    def segment(request: Request) -> Response:
        with correction.lock:
            found = _named(request)
            recording = session.recordings[found.recording]
            start, end = _view(request, found, recording.duration)
            others = [
                other.as_json() for other in session.of_recording(found.recording)
                if other.id != found.id and other.start < end and other.end > start
            ]  # fmt: skip
            return JSONResponse({
                **state(), "segment": found.as_json(), "others": others, "start": start, "end": end,
                "recording": {"name": Path(recording.audio).name, "duration": recording.duration,
                              "fault": recording.fault},
            })  # fmt: skip

    def stretch(request: Request) -> bytes:
        with correction.lock:
            found = _named(request)
            recording = session.recordings[found.recording]
            start, end = _view(request, found, recording.duration)
        return wav_of(recording, start, end)

    def audio(request: Request) -> Response:
        wav = stretch(request)
        headers = {"accept-ranges": "bytes"}
        try:
            part = byte_range(request.headers.get("range"), len(wav))
        except EditError:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(wav)}"})
        if part is None:
            return Response(wav, media_type="audio/wav", headers=headers)
        headers["content-range"] = f"bytes {part[0]}-{part[1] - 1}/{len(wav)}"
        return Response(wav[part[0] : part[1]], 206, media_type="audio/wav", headers=headers)

    def peaks(request: Request) -> Response:
        return JSONResponse({"peaks": peaks_of(stretch(request), MOST_PEAKS)})

    def apply(request: Request) -> Response:
        step = correction.apply(request.scope[BODY])
        changed()
        with correction.lock:
            # What an undone step had added is gone; its id begins with that of the segment beside it.
            focus = next((id_ for id_ in (step.focus, step.focus.rpartition("~")[0]) if id_ in session.segments), None)
            return JSONResponse({**state(), "focus": focus, "changed": [id_ for id_, _, _ in step.changes]})

    def save_all(_: Request) -> Response:
        saved = save()
        with correction.lock:
            return JSONResponse({**saved, **state()})

    def _named(request: Request) -> Segment:
        found = session.segments.get(request.query_params.get("id", ""))
        if found is None:
            raise EditError("no such segment")
        return found

    return Starlette(routes=[
        Route("/", page), Route("/static/{name}", static), Route("/items", answered(items)),
        Route("/segment", answered(segment)), Route("/audio", answered(audio)), Route("/peaks", answered(peaks)),
        Route("/apply", answered(apply), methods=["POST"]), Route("/save", answered(save_all), methods=["POST"]),
    ])  # fmt: skip


def _item(segment: Segment) -> dict[str, Any]:
    """A row of the list."""
    return {
        "id": segment.id, "text": segment.text[:200], "status": segment.status, "note": segment.note[:100],
        "seconds": round(segment.end - segment.start, 3), "score": segment.score, "confidence": segment.confidence,
    }  # fmt: skip


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise EditError("not a number")
    return int(text)


def _view(request: Request, segment: Segment, duration: float) -> tuple[float, float]:
    """The stretch that is shown, in seconds: as asked for, else the segment with 2 s on either side."""
    try:
        start = float(request.query_params.get("start", segment.start - 2))
        end = float(request.query_params.get("end", segment.end + 2))
    except ValueError:
        raise EditError("not a number") from None
    if not (abs(start) < 1e9 and abs(end) < 1e9):  # not for NaN either
        raise EditError("not a time")
    start = round(max(0.0, start), 3)
    return start, round(min(end, duration, start + MOST_SECONDS), 3)


def listening_socket(port: int) -> socket.socket:
    """A socket on the loopback; 0 takes any free port.

    Raises:
        RecipeError: if the port is taken.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
    except OSError as error:
        made.close()
        raise RecipeError(
            f"is {port}, which cannot be used ({error.strerror}); name another one", field="port"
        ) from None
    return made


def serve(app: Starlette, token: str, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it. ready: called with the page's address once it can be opened."""
    import uvicorn

    port = listening.getsockname()[1]
    config = uvicorn.Config(
        Guard(app, token, port), log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
        limit_concurrency=64, timeout_graceful_shutdown=2, h11_max_incomplete_event_size=16 << 10, http="h11",
    )  # fmt: skip
    server = uvicorn.Server(config)

    def wait() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.02)
        if server.started:
            ready(f"http://127.0.0.1:{port}/{token}/")

    threading.Thread(target=wait, daemon=True).start()
    server.run(sockets=[listening])
