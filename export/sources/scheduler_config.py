"""A scheduler's config as diffusers' StableDiffusionPipeline uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIFFUSERS = "diffusers"


def as_pipeline_corrects(config: Mapping[str, Any], indexed: object) -> dict[str, Any]:
    """`config` with what the pipeline changes when it is made.

    Configs of the first releases lack `steps_offset` and `clip_sample`: the pipeline makes any offset 1 and switches clipping off.
    It takes the scheduler's class from model_index.json, whose entry `indexed` is: a library and a class, or None.
    """
    filled_in = config.get("_use_default_values")  # by the class that saved it; diffusers reads them as absent
    absent = ["_use_default_values", *(filled_in if isinstance(filled_in, list) else ())]
    corrected = {key: value for key, value in config.items() if key not in absent}
    corrected["steps_offset"] = 1
    if corrected.get("clip_sample", True) is True:
        corrected["clip_sample"] = False
    if isinstance(indexed, list) and len(indexed) == 2 and isinstance(indexed[1], str):
        library, name = indexed
        corrected["_class_name"] = name if library == DIFFUSERS else f"{library}.{name}"
    return corrected


def changes(config: Mapping[str, Any], corrected: Mapping[str, Any]) -> list[str]:
    """What was corrected, one phrase each; not what a config of today leaves out and its class would not read."""
    found = {"steps_offset": 0, "clip_sample": False, **config}
    return [
        f"{key} {found[key]} read as {corrected[key]}"
        for key in ("_class_name", "steps_offset", "clip_sample")
        if key in found and found[key] != corrected.get(key, found[key])
    ]
