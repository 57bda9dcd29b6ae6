"""Quantises a float32 ONNX file to int8: pairs of QuantizeLinear and DequantizeLinear around what multiplies by weights.

By NNCF's post-training quantisation of ONNX files. Weights have a scale for each channel, activations one for a tensor; all are
symmetric and signed, as TensorRT wants them. OpenVINO, ONNX Runtime and TensorRT read the same form.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from engines.errors import InputError
from engines.install import install
from engines.quiet import unreported
from export.precision.half_precision import convert
from export.quantization import Sample

# Products of activations. Their ranges follow from the prompt, and libraries that fuse attention keep it as one kernel. The first
# self-attention is the `layer` of one that is called once for each image (`export.wrappers`).
ATTENTION = (r".*/attn\d+/(layer/)?MatMul.*",)


def import_nncf() -> Any:
    """NNCF, which reports to its makers unless it is imported as here.

    Raises:
        InputError: it is not installed.
    """
    try:
        with unreported():
            import nncf
    except ImportError as error:
        raise InputError(f"--precision int8: nncf cannot be imported ({error}); install it with: {install('quantize')}") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own set_log_level changes all handlers, of others too
    return nncf


def quantize(path: Path, samples: Sequence[Sample], kept: Sequence[str], around: str, half_range: bool) -> None:
    """Replace a float32 file by its quantised form; what is not int8 computes in the precision `around`.

    `samples` are the inputs that ranges are measured on. Nodes whose names have a part that is in `kept` are not quantised.
    With `half_range` weights take half of int8's range (see `engines.backends.registry.BackendSpec`).
    """
    from export import onnx_file

    nncf = import_nncf()
    weights = path.with_name(f"{path.name}.data")
    model = onnx.load(path, load_external_data=False)
    patterns = [f".*{part}.*" for part in kept]
    with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its progress bars
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(patterns=[*patterns, *ATTENTION], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,
                overflow_fix=nncf.OverflowFix.ENABLE if half_range else None,
                backend_params={"external_data_dir": str(path.parent.resolve())},
            ),
        )
    weights.unlink(missing_ok=True)
    if around != "float32":
        convert(model, around)
    onnx_file.save_model(model, path, onnx_file.EMBEDDED_BYTES)
