"""For operators and clients: is it alive, is it ready, what does it offer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from runtime.serving.service import Service


def router(service: Service) -> APIRouter:
    """GET /health, /ready, /v1/models."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health")
    def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @routes.get("/ready")
    def ready() -> JSONResponse:
        """Whether pictures are drawn, which a guard that failed a check forbids."""
        return JSONResponse({"state": service.state, "why": service.why}, 200 if service.state == "ready" else 503)

    @routes.get("/v1/models")
    def models() -> dict[str, Any]:
        """The model, and what may be asked of it."""
        return {"object": "list", "data": [{"id": service.manifest.model, "object": "model", "owned_by": "operator", "created": 0}]}

    return routes
