"""Engines compared with their own ONNX files by Polygraphy: `saferedir verify ENGINE_DIR --polygraphy`

The parity gate compares an engine with PyTorch. Where it fails, this tells whether the error is in the ONNX file or in the engine
made from it: Polygraphy runs both on the recorded cases' inputs, the file in ONNX Runtime on a CPU, without graph optimisations.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.contract import Backend, Engine, check_names, run_once
from engines.backends.registry import ONNX_FILE
from engines.errors import BackendError, ManifestError, ParityError, SafeRedirError
from engines.install import install
from engines.networks import NetworkSpec
from engines.parity import LIMITS, Limits
from engines.store.engine_store import EngineStore
from engines.store.recorded_cases import Case


@dataclass(frozen=True)
class Difference:
    """One output of an engine against that of its ONNX file: the worst of several calls, as Polygraphy measured it."""

    cosine: float
    max_abs_error: float
    relative_error: float  # max_abs_error of the largest magnitude that the ONNX file gave
    passed: bool  # within the limits of the parity gate


def compare_with_onnx(
    engine: Engine, backend: Backend, onnx_file: Path, cases: Sequence[Case], precision: str
) -> dict[str, Difference]:
    """Run an engine that computes in `precision` and its ONNX file on every case's inputs; output → difference.

    Raises:
        BackendError: Polygraphy or ONNX Runtime is not installed, or one of the two cannot be run.
    """
    _require_polygraphy()
    session = _session(onnx_file, engine.spec)
    worst: dict[str, Difference] = {}
    for case in cases:
        for name, difference in _compare_case(engine, backend, session, case, LIMITS[precision]).items():
            known = worst.get(name)
            if known is None or (difference.passed, -difference.max_abs_error) < (known.passed, -known.max_abs_error):
                worst[name] = difference
    return worst


def print_comparison(store: EngineStore, backend: Backend) -> None:
    """Compare every engine of a folder with the ONNX file beside it, a line for each output. A failure does not end it.

    Raises:
        ManifestError: there is no ONNX file beside an engine.
        ParityError: an output differs by more than the limits of the parity gate.
        BackendError: as for `compare_with_onnx`, of one network at least.
    """
    _require_polygraphy()
    networks = store.networks
    if missing := [name for name in networks if f"{name}/{ONNX_FILE}" not in store.manifest.files]:
        raise ManifestError(
            f"{store.folder}: expected {ONNX_FILE} beside the engine of {', '.join(missing)}, found none; "
            f"build again with: {store.manifest.command} --keep-onnx"
        )
    print(f"{store.folder} on {backend.device}, against its ONNX files in ONNX Runtime")
    print(f"{'network':<14} {'output':<18} {'cosine':>9}  {'error':>8}  {'relative':>8}")
    failed: list[str] = []
    refused: list[BackendError] = []
    for name in networks:
        engine, path = store.load([name], backend)[name], store.open(name, ONNX_FILE).path
        try:
            differences = compare_with_onnx(engine, backend, path, store.cases(name), store.manifest.precision_of(name))
        except BackendError as error:
            refused.append(error)
            print(f"{name:<14} not compared")
            continue
        for output, difference in differences.items():
            failed += [] if difference.passed else [f"{name}.{output}"]
            print(_line(name, output, difference))
    if failed:
        raise ParityError(f"{store.folder}: expected the ONNX files' outputs, found others: {', '.join(failed)}")
    if refused:
        raise refused[0]


def _line(network: str, output: str, difference: Difference) -> str:
    figures = f"{difference.cosine:9.6f}  {difference.max_abs_error:8.1e}  {difference.relative_error:8.1e}"
    return f"{network:<14} {output:<18} {figures}  {'passed' if difference.passed else 'FAILED'}"


def _require_polygraphy() -> None:
    try:
        import onnxruntime  # noqa: F401
        from polygraphy.comparator import CosineSimilarityCompareFunc, SimpleCompareFunc  # noqa: F401  # since 0.53
    except ImportError as error:
        raise BackendError(f"Polygraphy cannot be used ({error}); install it with: {install('polygraphy')}") from None


def _session(onnx_file: Path, spec: NetworkSpec) -> Any:
    """ONNX Runtime on a CPU, which runs the graph node by node as it is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code; it has no bfloat16 on a CPU
        raise BackendError(f"{onnx_file}: ONNX Runtime cannot run it on a CPU, so nothing to compare with: {error}") from error
    check_names(spec, [value.name for value in (*session.get_inputs(), *session.get_outputs())])
    return session


def _engine_runner(engine: Engine, backend: Backend, sizes: Mapping[str, int]) -> Any:
    """An engine of any backend as a Polygraphy runner; `sizes` has a number for each symbol of its spec."""
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    class EngineRunner(BaseRunner):  # type: ignore[misc]
        def get_input_metadata_impl(self) -> TensorMetadata:
            metadata = TensorMetadata()
            for tensor in engine.spec.inputs:
                metadata.add(tensor.name, np.dtype(tensor.dtype), [dim if isinstance(dim, int) else None for dim in tensor.dims])
            return metadata

        def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            started = time.perf_counter()
            outputs = run_once(engine, backend, feed_dict, sizes)
            self.inference_time = time.perf_counter() - started
            return outputs

    return EngineRunner(name="engine")


def _compare_case(engine: Engine, backend: Backend, session: Any, case: Case, limits: Limits) -> dict[str, Difference]:
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    runners = [_engine_runner(engine, backend, case.sizes), OnnxrtRunner(session, name="ONNX file")]
    # Polygraphy prints all it does, and takes the difference of each number relative to itself, zeros included.
    with G_LOGGER.verbosity(), np.errstate(divide="ignore", invalid="ignore"):
        try:
            (_, (outputs,)), (_, (expected,)) = Comparator.run(runners, data_loader=[dict(case.inputs)])
        except SafeRedirError:
            raise
        except Exception as error:  # whatever ONNX Runtime or Polygraphy raises
            raise BackendError(f"{engine.spec.name}: Polygraphy cannot run its ONNX file: {error}") from error
        allowed = {name: limits.error(values) for name, values in expected.items()}
        errors = SimpleCompareFunc(atol=allowed, rtol=0.0, check_error_stat="max")(outputs, expected)
        cosines = CosineSimilarityCompareFunc(limits.cosine)(outputs, expected)
    return {name: _difference(errors[name], cosines[name], expected[name]) for name in allowed}


def _difference(error: Any, cosine: Any, expected: np.ndarray) -> Difference:
    """From what Polygraphy's two comparisons give: results, or False where the shapes are different."""
    absolute = float(getattr(error, "max_absdiff", np.inf))
    magnitude = max(float(np.abs(expected.astype(np.float64)).max()), 1e-6)
    return Difference(
        float(getattr(cosine, "cosine_similarity", 0.0)), absolute, absolute / magnitude, bool(error) and bool(cosine)
    )
