"""What a build is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.registry import BACKENDS, backend_spec
from engines.canary import Canary
from engines.errors import InputError
from engines.geometry import Geometry
from engines.policy import Policy
from engines.sizes import Sizes, Span
from export.quantization import Quantization
from export.sources.edits import Edit
from export.tensorrt.plan_builder import PlanOptions

PLAN_BATCH = "1:1:4"  # images of plans, where the build names none


@dataclass(frozen=True)
class Checkpoint:
    """A SafeRedir checkpoint, and how the guard uses it.

    concept      what it forgets, in the words of reports
    policy       the default of a call
    final_check  whether the checkpoint vouches for its check of finished latents
    canaries     prompts that the guard must judge rightly
    """

    path: Path
    concept: str
    mask_again: bool = False
    policy: Policy = Policy()
    final_check: bool = False
    canaries: tuple[Canary, ...] = ()


@dataclass(frozen=True)
class BuildRequest:
    """What to build. Without checkpoints the engines have no guard, and only unguarded generation accepts them.

    batch_size, height, width  sizes that the engines take, MIN:OPT:MAX or one number; see `sizes` for None
    config                     diffusers folder with the configs and the tokenizer of a model in a single file
    edits                      what is laid over the model's weights, in this order
    check                      when the guard looks by default, see `runtime.Request`
    vae                        folder, file or hub id of an autoencoder that takes the place of the model's
    quantization               how int8 engines are calibrated and accepted; for that precision only
    force                      build everything again, whatever is there
    judge_scheduler            says of a scheduler's config why it cannot be used as it is, or raises where no sampler can be;
                               `runtime.samplers.registry` has it. Without one, the first run judges

    Raises:
        InputError: the backend cannot run in the precision, int8 comes without a quantization or for larger batches only, or two
            checkpoints forget the same concept.
    """

    model: str
    checkpoints: tuple[Checkpoint, ...]
    engine_dir: Path
    config: Path | None = None
    edits: tuple[Edit, ...] = ()
    backend: str = "onnxruntime"
    precision: str = "float32"
    batch_size: str | None = None
    height: str | None = None
    width: str | None = None
    plan: PlanOptions = PlanOptions()
    keep_onnx: bool = False
    check: str = "auto"
    vae: str | None = None
    quantization: Quantization | None = None
    force: bool = False
    command_line: str = ""  # for the manifest
    judge_scheduler: Callable[[Mapping[str, Any]], str | None] | None = None

    def __post_init__(self) -> None:
        if self.precision not in (able := backend_spec(self.backend).precisions):
            others = [name for name, spec in BACKENDS.items() if self.precision in spec.precisions]
            raise InputError(
                f"precision: expected {' or '.join(able)} with --backend {self.backend}, found {self.precision}; "
                f"for that choose --backend {' or '.join(others)}"
            )
        if (self.precision == "int8") != (self.quantization is not None):
            found = "none" if self.quantization is None else f"one and precision {self.precision}"
            raise InputError(f"quantization: expected one for precision int8 and for no other, found {found}")
        if self.precision == "int8" and self.batch_size is not None and Span.parse("batch-size", self.batch_size).minimum > 1:
            raise InputError(
                "batch-size: expected engines that take one image, for decisions of precision int8 are compared image by image, "
                f"found {self.batch_size}"
            )
        concepts = [checkpoint.concept for checkpoint in self.checkpoints]
        if len(set(concepts)) != len(concepts):
            raise InputError(f"concept: expected a name of its own for each checkpoint, found {', '.join(concepts)}")

    def sizes(self, geometry: Geometry) -> Sizes:
        """What the engines take. A size that is not named is any; of plans, which have a profile, the model's own and PLAN_BATCH.

        Raises:
            InputError: one is no such text, or is none that the model can take.
        """
        unit, spans = geometry.scale_factor, {}
        rows = ("batch_size", PLAN_BATCH, 1), ("height", geometry.default_height, unit), ("width", geometry.default_width, unit)
        for name, own, multiple in rows:
            text = str(own) if (named := getattr(self, name)) is None and backend_spec(self.backend).plans else named
            if text is not None:
                spans[name] = str(Span.parse(name.replace("_", "-"), text, multiple))
        return Sizes(**spans)
