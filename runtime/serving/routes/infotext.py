"""A report as AUTOMATIC1111 writes generation parameters: as text, and field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.samplers.names import respacing_of

# AUTOMATIC1111's name → the report's.
FIELDS = {
    "Prompt": "prompt",
    "Negative prompt": "negative_prompt",
    "Steps": "num_inference_steps",
    "Sampler": "sampler",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Size-1": "width",
    "Size-2": "height",
}


def parameters(report: Mapping[str, Any]) -> dict[str, Any]:
    """Field by field; those that a report lacks are left out."""
    found = {name: value for name, key in FIELDS.items() if (value := report.get(key)) is not None}
    schedule = respacing_of(report.get("sampler_options") or {})
    return found | ({"Schedule type": schedule.title()} if schedule else {})


def infotext(report: Mapping[str, Any]) -> str:
    """The prompt, the negative prompt where there is one, and a line of the rest."""
    found = parameters(report)
    lines = [str(found.pop("Prompt", ""))]
    if negative := found.pop("Negative prompt", ""):
        lines.append(f"Negative prompt: {negative}")
    size = (found.pop("Size-1", None), found.pop("Size-2", None))
    if None not in size:
        found["Size"] = f"{size[0]}x{size[1]}"
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in found.items())])
