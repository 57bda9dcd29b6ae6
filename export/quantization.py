"""How int8 engines are calibrated, and how they are accepted: by their decisions in whole runs beside float32 engines'."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.registry import open_backend
from engines.decisions import DecisionRecord
from engines.errors import BackendError, DecisionError, InputError
from engines.manifest import Manifest

Sample = Mapping[str, np.ndarray]  # inputs of one call by name
CALIBRATION_STEPS, GATE_STEPS = 10, 20  # of each run
EVERY = 5  # of the calls that a network has in a calibration run, one is a sample
# Pixels of a calibration picture's sides, at most: calibration keeps the results of every layer, which grow with the area. Ranges
# are of single values, which hardly depend on it.
SIDE = 256
# The gate's noise is none that calibration has seen.
CALIBRATION_SEED, GATE_SEED = 10_000, 20_000
# For a model of whose concept no prompts are given; the guard's redirection is recorded with them, too.
NEUTRAL_PROMPTS = (
    "a photo of a dog running on a beach",
    "a portrait of an old man, oil painting",
    "a bowl of fruit on a wooden table",
    "a city street at night in the rain",
    "a snowy mountain under a blue sky",
    "a red car parked in front of a house",
    "two children reading a book in a garden",
    "an abstract pattern of triangles and circles",
)


@dataclass(frozen=True)
class Quantization:
    """What int8 engines are calibrated and compared with.

    record_inputs        `runtime.recording.record_inputs`
    compare_decisions    `evaluation.decisions.compare_decisions`
    calibration_prompts  one or more
    gate_prompts         whose decisions must be float32's; without any, only outputs are compared
    judge                module:function that says whether a picture shows the concept; empty for none
    """

    record_inputs: Callable[..., dict[str, list[Sample]]]
    compare_decisions: Callable[..., DecisionRecord]
    calibration_prompts: tuple[str, ...] = NEUTRAL_PROMPTS
    gate_prompts: tuple[str, ...] = ()
    judge: str = ""

    def __post_init__(self) -> None:
        """Raises InputError for prompts that are in both lists: the gate must see others than calibration."""
        if both := {*self.calibration_prompts} & {*self.gate_prompts}:
            raise InputError(f"gate prompts: expected none that calibration sees, found {len(both)} of {len(self.gate_prompts)}")

    def recipe(self) -> dict[str, Any]:
        """What decides the quantised files, and whether they are accepted."""
        return {
            "calibration_prompts": _digest(self.calibration_prompts),
            "calibration_seed": CALIBRATION_SEED,
            "gate_prompts": _digest(self.gate_prompts),
            "gate_seed": GATE_SEED,
            "judge": self.judge,
            "calibration_steps": CALIBRATION_STEPS,
            "gate_steps": GATE_STEPS,
            "every": EVERY,
            "side": SIDE,
        }

    def samples(self, float32: Path, networks: Sequence[str]) -> Mapping[str, Sequence[Sample]]:
        """What each of the networks is given in runs of float32 engines."""
        return self.record_inputs(
            float32,
            networks,
            self.calibration_prompts,
            side=SIDE,
            num_inference_steps=CALIBRATION_STEPS,
            first_seed=CALIBRATION_SEED,
            every=EVERY,
        )

    def decisions(self, float32: Path, folder: Path, report: Callable[[str], None]) -> DecisionRecord | None:
        """What the engines in `folder` decide beside float32 ones; None, which is reported, where that cannot be compared.

        Raises:
            DecisionError: they decide otherwise.
        """
        if not self.gate_prompts:
            report("decisions: not compared with float32's, for there are neither canaries nor --gate-prompts; only outputs were")
            return None
        manifest, _ = Manifest.read(folder)
        try:
            open_backend(manifest.backend, manifest.precision)
        except BackendError as error:
            report(f"decisions: not compared with float32's, for the engines cannot run here ({error}); only outputs were")
            return None
        record = self.compare_decisions(
            float32, folder, self.gate_prompts, first_seed=GATE_SEED, num_inference_steps=GATE_STEPS, judge=self.judge
        )
        if record.faults:
            raise DecisionError(
                f"int8: {'; '.join(record.faults)}; give calibration prompts that are more like those of your users, or build "
                "with another --precision"
            )
        report(f"decisions: {record}")
        return record


def _digest(prompts: Sequence[str]) -> dict[str, Any]:
    return {"count": len(prompts), "sha256": hashlib.sha256("\n".join(prompts).encode()).hexdigest()}
