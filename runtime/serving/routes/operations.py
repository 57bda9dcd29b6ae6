"""For operators and clients: is it alive, is it ready, what does it offer, what has it done."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from runtime.serving.errors import NotReadyError
from runtime.serving.policy_bounds import PolicyBounds
from runtime.serving.service import Service


def open_router(service: Service) -> APIRouter:
    """GET /health and /ready, which need no key; POST /ready, which needs the admin's."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health")
    def health() -> dict[str, Any]:
        """The process answers. Of an audit log: the last record's number and head, which can be kept elsewhere."""
        audit = service.audit
        return {"status": "alive"} if audit is None else {"status": "alive", "audit": {"number": audit.number, "head": audit.head}}

    @routes.get("/ready")
    def ready() -> JSONResponse:
        """Whether pictures are drawn; 503 where not."""
        status = 200 if service.state == "ready" else NotReadyError.status
        return JSONResponse({"state": service.state, "why": service.why}, status)

    @routes.post("/ready", status_code=202)
    def start_again(request: HttpRequest) -> dict[str, str]:
        """After a failure: ask the canaries and draw the warm pictures again. For the key named admin."""
        service.keys.require_admin(request.headers)
        service.start_again()
        return {"state": service.state, "why": service.why}

    return routes


def router(service: Service) -> APIRouter:
    """GET /v1/models and /metrics."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/v1/models")
    def models() -> dict[str, Any]:
        """The model, and under `saferedir` what may be asked of it."""
        model = {"id": service.model, "object": "model", "created": 0, "owned_by": "saferedir"}
        return {"object": "list", "data": [{**model, "saferedir": offer(service)}]}

    @routes.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return routes


def offer(service: Service) -> dict[str, Any]:
    """What may be asked for."""
    limits, manifest = service.limits, service.manifest
    bounds = {guard.concept: (guard, limits.policy.get(guard.concept, PolicyBounds())) for guard in manifest.guards}
    return {
        "samplers": limits.samplers,
        "steps": [limits.least_steps, limits.most_steps],
        "sizes": [f"{width}x{height}" for height, width in limits.picture_sizes(manifest.geometry)],
        "most_images": limits.most_images,
        "most_guidance_scale": limits.most_guidance_scale,
        "check": limits.check or manifest.check,
        "on_unsafe": limits.on_unsafe,
        "on_still_unsafe": limits.on_still_unsafe,
        "unguarded": limits.unguarded,
        "batch_size": service.batch_size,
        "concepts": {
            concept: {"policy": dataclasses.asdict(bound.default(guard.policy)), "bounds": bound.offer(guard.policy)}
            for concept, (guard, bound) in bounds.items()
        },
    }
