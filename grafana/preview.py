"""The embedded board: the same dashboard JSON as Grafana's, drawn in a browser, live by server-sent events.

The browser names boards, variables and a range, and never sends SQL; queries are those of the JSON, expanded here.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grafana import build
from grafana.asking import Store
from grafana.boards import BOARDS
from grafana.live import LiveBoard, View
from grafana.model import LANGUAGES, Language

STATIC: Final = Path(__file__).resolve().parent / "static"
HOST: Final = "127.0.0.1"
_PLOTLY_STYLE: Final = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
"""The one style element that plotly.js 4.1.1 adds, for maps, when it is loaded; a test in a browser tells of more."""
# plotly.js places its texts by style attributes: they are allowed, other style elements and scripts are not.
POLICY: Final = "; ".join(
    (
        "default-src 'none'", "script-src 'self'",
        f"style-src 'self' {_PLOTLY_STYLE}", "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:", "connect-src 'self'", "font-src 'self'", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'",
    )
)  # fmt: skip
_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_FILES: Final = {
    name: STATIC / name
    for name in ("board.css", "plotly.css", "board.js", "charts.js", "figures.js", "tables.js", "icon.svg")
}
_RANGES_MS: Final = {
    "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "3h": 10_800_000, "24h": 86_400_000, "7d": 604_800_000,
    "30d": 2_592_000_000,
}  # fmt: skip
_MIN_REFRESH_MS: Final = 1_000
_STREAMS_MAX: Final = 32


class Headers:
    """Puts the security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)


@dataclass(slots=True)
class Site:
    """What the routes share."""

    store: Store
    language: Language
    streams: int = 0

    def language_of(self, request: Request) -> Language:
        """Of the request, else the site's."""
        asked = request.query_params.get("lang", "")
        return next((language for language in LANGUAGES if language == asked), self.language)

    def board(self, request: Request) -> dict[str, Any]:
        """The dashboard that a path names."""
        found = next((board for board in BOARDS if board.uid == request.path_params["uid"]), None)
        if found is None:
            raise HTTPException(404, "there is no such board")
        return build.plain(found, self.language_of(request))

    async def page(self, request: Request) -> Response:
        """The page of any board."""
        self.board(request)
        return FileResponse(STATIC / "board.html", media_type="text/html; charset=utf-8")

    async def home(self, _: Request) -> Response:
        """The first board."""
        return RedirectResponse(f"/d/{BOARDS[0].uid}")

    async def listed(self, request: Request) -> Response:
        """Names of all boards."""
        language = self.language_of(request)
        boards = [{"uid": board.uid, "title": board.title.of(language)} for board in BOARDS]
        return JSONResponse({"boards": boards, "language": language, "ranges": list(_RANGES_MS)})

    async def described(self, request: Request) -> Response:
        """The dashboard JSON."""
        return JSONResponse(self.board(request))

    async def stream(self, request: Request) -> Response:
        """Figures of a board: all of them at first, then what changed."""
        if self.streams >= _STREAMS_MAX:
            raise HTTPException(503, "too many boards are open")
        live = LiveBoard(self.store, self.board(request), view_of(request.query_params))
        every = max(_MIN_REFRESH_MS, int(_number(request.query_params.get("every"), 5_000))) / 1000
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(request, live, every), media_type="text/event-stream", headers=headers)

    async def _events(self, request: Request, live: LiveBoard, every_s: float) -> AsyncIterator[str]:
        self.streams += 1
        try:
            while not await request.is_disconnected():
                began = time.monotonic()
                async for name, told in live.round():
                    yield f"event: {name}\ndata: {json.dumps(_finite(told), ensure_ascii=False)}\n\n"
                await asyncio.sleep(max(0.05, every_s - (time.monotonic() - began)))
        finally:
            self.streams -= 1


def view_of(query: Mapping[str, str]) -> View:
    """Variables and range of a request; what makes no sense falls back to the default."""
    multi = getattr(query, "multi_items", lambda: list(query.items()))()
    wanted: dict[str, list[str]] = {}
    for name, value in multi:
        if name.startswith("var-"):
            wanted.setdefault(name.removeprefix("var-"), []).append(value[:200])
    begin, end = _number(query.get("from"), 0), _number(query.get("to"), 0)
    fixed = (int(begin), int(end)) if 0 < begin < end else None
    return View(wanted, _RANGES_MS.get(query.get("range", ""), 0), fixed)


def _number(text: str | None, default: float) -> float:
    try:
        found = float(text or default)
    except ValueError:
        return default
    return found if math.isfinite(found) else default


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """JSON has no NaN, browsers refuse it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "plotly.min.js":
        return FileResponse(plotly_path(), headers={"Cache-Control": "public, max-age=86400"})
    if name not in _FILES:
        raise HTTPException(404, "there is no such file")
    return FileResponse(_FILES[name], headers={"Cache-Control": "no-cache"})


def plotly_path() -> Path:
    """plotly.js as the plotly wheel ships it; found without importing the package, which takes a second."""
    spec = find_spec("plotly")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise FileNotFoundError("the package plotly is not installed")
    return Path(folders[0], "package_data", "plotly.min.js")


def app(store: Store, language: Language = "en") -> Starlette:
    """The web application."""
    site = Site(store, language)
    return Starlette(
        routes=[
            Route("/", site.home),
            Route("/d/{uid}", site.page),
            Route("/api/boards", site.listed),
            Route("/api/boards/{uid}", site.described),
            Route("/api/stream/{uid}", site.stream),
            Route("/static/{name}", _static),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "testserver"]),
        ],
    )


def serve(store: Store, *, port: int, language: str, told: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. Errors: `OSError` when the port is taken."""
    chosen: Language = "zh" if language == "zh" else "en"
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, port))
    told(f"http://{HOST}:{listening.getsockname()[1]}")
    server(store, chosen).run(sockets=[listening])


def server(store: Store, language: Language = "en") -> uvicorn.Server:
    """The application in a server of uvicorn."""
    config = uvicorn.Config(
        app(store, language), log_level="warning", timeout_graceful_shutdown=1, server_header=False, lifespan="off"
    )
    return uvicorn.Server(config)
