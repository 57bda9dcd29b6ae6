"""What a server has, in the lists of AUTOMATIC1111's API: samplers, schedule types, the model, options."""

from __future__ import annotations

from typing import Any

from runtime.samplers.names import SCHEDULE_TYPES
from runtime.samplers.registry import SAMPLERS
from runtime.serving.limits import Limits


def samplers(limits: Limits) -> list[dict[str, Any]]:
    """Those that may be asked for; a name that stands for options of a sampler is an entry of its own."""
    entries = []
    for key in limits.samplers:
        row = SAMPLERS[key]
        names = [alias for alias, chosen in row.aliases.items() if not chosen]
        entries.append(_sampler(key, [row.class_name, *names], {}))
        entries += [_sampler(alias, [], chosen) for alias, chosen in row.aliases.items() if chosen]
    return entries


def schedulers() -> list[dict[str, Any]]:
    others = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name, "label": name.title(), **others} for name in SCHEDULE_TYPES]


def models(model: str) -> list[dict[str, Any]]:
    return [{"title": model, "model_name": model, "hash": None, "sha256": None, "filename": model, "config": None}]


def options(model: str) -> dict[str, Any]:
    """The few that there are here."""
    return {"sd_model_checkpoint": model, "CLIP_stop_at_last_layers": 1, "samples_format": "png", "samples_save": False}


def _sampler(name: str, aliases: list[str], chosen: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "aliases": aliases, "options": {option: str(value) for option, value in chosen.items()}}
