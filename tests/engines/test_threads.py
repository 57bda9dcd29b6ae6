"""A pipeline computes on a CPU with as many threads as it is told, and gives the same decisions."""

from __future__ import annotations

import numpy as np
import pytest

from engines.backends.registry import open_backend
from engines.errors import InputError
from engines.networks import NETWORKS
from runtime import GuardedPipeline
from tests.conftest import opened

FIRE, PLAIN = "a burning blue square on a grey background", "a small red star"


def test_onnxruntime(demo_engines):
    for threads, expected in ((None, 0), (1, 1)):
        engine = open_backend("onnxruntime", threads=threads).load(demo_engines / "guard" / "model.onnx", NETWORKS["guard"])
        assert engine._session.get_session_options().intra_op_num_threads == expected


def test_openvino(demo_engines):
    opened("openvino", "float32")
    backend = open_backend("openvino", threads=1)
    engine = backend.load(demo_engines / "vae_decoder" / "model.onnx", NETWORKS["vae_decoder"])
    engine.bind(
        latent=backend.zeros((1, 4, 8, 8), "float32"),
        images=backend.zeros((1, 32, 32, 3), "uint8"),
        finite=backend.zeros((1,), "bool"),
    )
    (compiled,) = engine._compiled.values()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_pictures_and_decisions_are_those_of_all_cores(pipeline, demo_engines):
    expected = pipeline([FIRE, PLAIN], seed=7, num_inference_steps=6)
    with GuardedPipeline(demo_engines, threads=1) as one:
        found = one([FIRE, PLAIN], seed=7, num_inference_steps=6)
    assert [report.verdict for report in found.reports] == [report.verdict for report in expected.reports]
    for ours, theirs in zip(found.images, expected.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize("threads, why", [(0, "one or more, found 0"), (1.5, "an integer"), (True, "an integer")])
def test_other_numbers_are_errors(demo_engines, threads, why):
    with pytest.raises(InputError, match=f"threads: expected {why}"):
        GuardedPipeline(demo_engines, threads=threads)
