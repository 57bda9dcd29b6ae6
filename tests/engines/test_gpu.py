"""On a real GPU: engines built here run on it and give the pictures and decisions of the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

from engines.backends.registry import open_backend
from engines.errors import BackendError
from engines.manifest import Manifest
from runtime import GuardedPipeline
from saferedir.cli import main

FIRE, PLAIN = "a burning blue square on a grey background", "a small red star"
STEPS = 12


@pytest.mark.gpu
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_engines_of_this_gpu(pipeline, tmp_path, name, eager):
    try:
        open_backend(name)
    except BackendError as error:
        pytest.skip(str(error))
    folder = tmp_path / "engines"
    assert main(["build", "--backend", name, "--engine-dir", str(folder)]) == 0
    assert Manifest.read(folder)[0].parity_of == "engine"
    expected = pipeline([FIRE, PLAIN], seed=7, num_inference_steps=STEPS)
    with GuardedPipeline(folder, eager=eager) as opened:
        for _ in range(2):
            found = opened([FIRE, PLAIN], seed=7, num_inference_steps=STEPS)
            assert [report.verdict for report in found.reports] == [report.verdict for report in expected.reports]
            for ours, reference in zip(found.images, expected.images, strict=True):
                assert np.abs(np.asarray(ours).astype(int) - np.asarray(reference)).max() <= 2
    assert found.execution.graph is (name != "onnxruntime-cuda" and not eager)
