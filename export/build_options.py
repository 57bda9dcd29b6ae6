"""What to build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.backends.registry import PRECISIONS
from engines.backends.tensorrt_module import BUILDERS
from engines.errors import InputError
from engines.manifest import Geometry, Policy
from export.tensorrt.plan_builder import PlanOptions
from export.tensorrt.shape_profile import Profile, Span


@dataclass(frozen=True)
class BuildOptions:
    """What to build. `redirector` None means engines without a guard, which only unguarded generation accepts.

    Raises:
        InputError: the backend cannot run in the precision.
    """

    model: str
    redirector: Path | None
    engine_dir: Path
    concept: str = ""
    backend: str = "onnxruntime"
    precision: str = "float32"
    batch_size: str = "1:1:4"  # sizes of TensorRT engines, MIN:OPT:MAX; None stands for the model's own
    height: str | None = None
    width: str | None = None
    plan: PlanOptions = PlanOptions()
    keep_onnx: bool = False
    mask_again: bool = False
    policy: Policy = Policy()
    force: bool = False
    command_line: str = ""  # for the manifest

    def __post_init__(self) -> None:
        if self.precision not in (able := PRECISIONS[self.backend]):
            others = [name for name, precisions in PRECISIONS.items() if self.precision in precisions]
            raise InputError(
                f"precision: expected {' or '.join(able)} with --backend {self.backend}, found {self.precision}; "
                f"for that choose --backend {' or '.join(others)}"
            )

    def profile(self, geometry: Geometry) -> Profile | None:
        """The shapes of TensorRT engines; None for the others, which take any."""
        if self.backend not in BUILDERS:
            return None
        height, width = self.height or str(geometry.default_height), self.width or str(geometry.default_width)
        return Profile(
            Span.parse("batch-size", self.batch_size),
            Span.parse("height", height, geometry.size_multiple),
            Span.parse("width", width, geometry.size_multiple),
        )

    @property
    def half_files(self) -> bool:
        """Whether the ONNX files themselves are in the precision; OpenVINO lowers it when it compiles float32 files."""
        return self.backend in BUILDERS
