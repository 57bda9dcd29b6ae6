"""The page for people: static files that ask nothing of any other server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from runtime.serving.service import Service

FOLDER = Path(__file__).resolve().parent.parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Scripts and styles from these files only, requests to this server only, and no other site shows the page in a frame.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router(service: Service) -> APIRouter:
    """GET / and the files that it names, under /page/; no route unless the settings ask for the page.

    The files are read once, here: what a request names is never looked up on the disk.
    """
    routes = APIRouter(include_in_schema=False)
    for file in sorted(FOLDER.iterdir()) if service.settings.page else []:
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        routes.add_api_route(path, _answer(file.read_bytes(), MEDIA_TYPES[file.suffix]), methods=["GET"])
    return routes


def _answer(content: bytes, media_type: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return answer
