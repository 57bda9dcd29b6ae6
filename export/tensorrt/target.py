"""What TensorRT engines will be tied to, known before they are built."""

from __future__ import annotations

from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.cuda.device import open_cuda
from engines.records import Target
from export.build_request import BuildRequest


def target_of(options: BuildRequest) -> Target:
    """The target of a build.

    Raises:
        BackendError: the library that builds is not installed; for TensorRT also: there is no GPU.
    """
    plan = options.plan
    library = f"{options.backend} {import_tensorrt(options.backend, BUILDERS).__version__}"
    if options.backend == "tensorrt-rtx":
        capabilities, gpu, driver = ", ".join(f"{sm[:-1]}.{sm[-1]}" for sm in plan.target_sm) or "portable", "", ""
    else:
        device = open_cuda().info()
        capabilities, gpu, driver = device.compute_capability, device.name, device.driver
    return Target(
        library,
        capabilities,
        gpu,
        driver,
        plan.hardware_compatibility,
        plan.version_compatible,
        plan.workspace_gib,
        plan.optimization_level,
        options.keep_onnx,
    )
