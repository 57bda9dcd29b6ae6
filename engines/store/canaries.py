"""A guard's canaries, run on its engines: by the build, by `saferedir verify`, and whenever a pipeline is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engines.backends.contract import Backend, Engine
from engines.canary import CanaryRecord
from engines.errors import CanaryError
from engines.manifest import REBUILD, Manifest
from engines.networks import GUARD, LATENT_CHANNELS, TEXT_ENCODER
from engines.noise import NormalStream
from engines.printable import shown
from engines.prompts import PromptTokenizer
from engines.records import GuardRecord

RUN_BY = (TEXT_ENCODER.name, GUARD.name)  # networks
TOLERANCE = 0.05  # of p_unsafe between the build and now: rounding of another processor or of half precision


def check_canaries(
    manifest: Manifest, backend: Backend, engines: Mapping[str, Engine], tokenizer: PromptTokenizer
) -> list[GuardRecord]:
    """Run every canary on `engines`, which have those of RUN_BY; the manifest's guards with the p_unsafe that they gave now.

    Raises:
        CanaryError: a guard judges a canary wrongly, or gives another p_unsafe than at the build.
    """
    if not any(guard.canaries for guard in manifest.guards):
        return manifest.guards
    ask, checked = _asked(manifest, backend, engines, tokenizer), []
    for concept, guard in enumerate(manifest.guards):
        answered = []
        for canary in guard.canaries:
            p_unsafe = ask(canary)[concept]
            _check_answer(guard, canary, p_unsafe)
            answered.append(replace(canary, p_unsafe=p_unsafe))
        checked.append(replace(guard, canaries=answered))
    return checked


def _check_answer(guard: GuardRecord, canary: CanaryRecord, p_unsafe: float) -> None:
    threshold = guard.policy.threshold
    subject, found = f"{guard.concept}: canary {shown(canary.prompt)}, seed {canary.seed}", f"found {p_unsafe:.6f}"
    if canary.p_unsafe is not None and not abs(p_unsafe - canary.p_unsafe) <= TOLERANCE:
        raise CanaryError(
            f"{subject}: expected p_unsafe {canary.p_unsafe:.6f} within {TOLERANCE}, as at the build, {found}; the engines were "
            f"altered, or what runs them computes wrongly; {REBUILD}"
        )
    if not (threshold < p_unsafe <= 1 if canary.unsafe else 0 <= p_unsafe <= threshold):
        side = "above" if canary.unsafe else "not above"
        raise CanaryError(
            f"{subject}: expected {canary.answer}, p_unsafe {side} the threshold {threshold}, {found}; such a guard does not "
            "guard: build with a checkpoint that was trained for this concept and model, or correct its canaries or the threshold"
        )


def _asked(
    manifest: Manifest, backend: Backend, engines: Mapping[str, Engine], tokenizer: PromptTokenizer
) -> Callable[[CanaryRecord], list[float]]:
    """Asks for a canary's p_unsafe of each concept.

    Both networks are bound once, in the shapes of one image under guidance, for which engines are most often used; both rows of
    text are the prompt's. Every input that is not written is zero: no shift yet, and a check that is due.
    """
    geometry, images = manifest.geometry, manifest.sizes.smallest_batch  # equal ones, where engines take no fewer
    sizes = geometry.sizes(geometry.default_height, geometry.default_width, B=images, C=2, K=len(manifest.guards))
    text, guard = (
        {tensor.name: backend.zeros(tensor.shape(sizes), tensor.dtype) for tensor in spec.tensors} for spec in (TEXT_ENCODER, GUARD)
    )
    guard["original_embeds"] = text["text_embeddings"]
    encode, judge = engines[TEXT_ENCODER.name].bind(**text), engines[GUARD.name].bind(**guard)

    def ask(canary: CanaryRecord) -> list[float]:
        backend.write(text["input_ids"], tokenizer([canary.prompt]).ids)
        backend.write(guard["sample"], NormalStream(canary.seed).draw((LATENT_CHANNELS, sizes["H"], sizes["W"])))
        backend.write(guard["timestep"], canary.timestep)
        backend.write(guard["p_unsafe"], np.nan)  # so that a guard that did not run gives no answer
        encode()
        judge()
        found: list[float] = backend.read(guard["p_unsafe"])[:, 0].tolist()
        return found

    return ask


def print_canaries(manifest: Manifest, backend: Backend, engines: Mapping[str, Engine], tokenizer: PromptTokenizer) -> None:
    """Run every canary and print a line for each.

    Raises:
        CanaryError: as for `check_canaries`.
    """
    for guard, before in zip(check_canaries(manifest, backend, engines, tokenizer), manifest.guards, strict=True):
        for now, built in zip(guard.canaries, before.canaries, strict=True):
            at_build = "not run" if built.p_unsafe is None else f"p_unsafe {built.p_unsafe:.6f}"
            print(f"canary {guard.concept}: {now}; at the build {at_build}")
