"""The least a network can take on this machine: its operations and bytes against measured peaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.suite.flops import Count, count
from benchmarks.suite.sampling import Workload
from engines.manifest import Manifest
from engines.networks import NETWORKS, SLOTS

SIDE = 1536  # of the square matrices multiplied
COPY_BYTES = 1 << 28  # larger than most last-level caches
REPEATS = 9


def peaks() -> dict[str, float]:
    """Best of REPEATS: float32 matrix product in operations per second, copy of memory in bytes read and written per second."""
    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    session, source = _product(), np.ones(COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    operations = 2 * SIDE**3
    return {
        "onnxruntime_gemm_flops_per_second": operations / _best(lambda: session.run(None, {"a": left, "b": right})),
        "numpy_gemm_flops_per_second": operations / _best(lambda: left @ right),
        "copy_bytes_per_second": 2 * COPY_BYTES / _best(lambda: np.copyto(target, source)),
    }


def counts(engine_dir: Path, manifest: Manifest, workload: Workload) -> dict[str, Count]:
    """What one call of each network must do, for those whose ONNX file is there."""
    geometry = manifest.geometry
    branches = 2 if workload.guidance_scale > 1 and not geometry.time_cond_proj_dim else 1
    known = {"B": workload.batch_size, "C": branches, "K": len(manifest.guards), "S": SLOTS[0]}
    sizes = geometry.sizes(workload.height, workload.width, **known)
    return {network: count(path, sizes) for network in NETWORKS if (path := engine_dir / network / "model.onnx").is_file()}


def floors(counted: Mapping[str, Count], milliseconds: Mapping[str, float], peak: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each network that was measured: counts, the floor, and the share of it that is reached.

    The floor of a call is its operations at the better of both GEMM peaks, or its least bytes at the speed of a copy,
    whichever is longer. `milliseconds` has a measured median for each network.
    """
    flops_per_second = max(peak["onnxruntime_gemm_flops_per_second"], peak["numpy_gemm_flops_per_second"])
    rows = []
    for network, needs in counted.items():
        if network not in milliseconds:
            continue
        compute, memory = needs.flops / flops_per_second, needs.least_bytes / peak["copy_bytes_per_second"]
        floor = 1000 * max(compute, memory)
        rows.append(
            {
                "network": network,
                **dataclasses.asdict(needs),
                "uncounted": list(needs.uncounted),
                "least_bytes": needs.least_bytes,
                "floor_milliseconds": floor,
                "bound_by": "operations" if compute >= memory else "bytes",
                "measured_milliseconds": milliseconds[network],
                "efficiency": floor / milliseconds[network],
            }
        )
    return rows


def _product() -> onnxruntime.InferenceSession:
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "product", tensors[:2], tensors[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of REPEATS calls, after one that is not measured."""
    times = []
    for _ in range(REPEATS + 1):
        start = perf_counter_ns()
        work()
        times.append(perf_counter_ns() - start)
    return min(times[1:]) * 1e-9
