"""OpenVINO draws ONNX Runtime's pictures in float32, and in bfloat16 others that the guard judges alike."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from demo.world import prompt_pairs
from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.errors import BackendError, InputError
from engines.manifest import Manifest
from engines.networks import NETWORKS, NetworkSpec, TensorSpec, with_derived
from export.build import build
from export.build_command import options
from export.onnx_file import example, export_network
from runtime import GuardedPipeline
from saferedir.cli import main, parse
from tests.conftest import opened

PROMPTS = [text for _, safe, fire in prompt_pairs(np.random.default_rng(3), 4, held_out=True) for text in (safe, fire)]


def levels(found, expected) -> np.ndarray:
    """Differences in grey levels."""
    return np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))


def decisions(report) -> tuple:
    """The verdict, and the steps that each guard found unsafe."""
    return report.verdict, [guard.unsafe_steps for guard in report.guards]


@pytest.fixture(scope="module")
def float32(demo_engines, tmp_path_factory):
    """The engines of the other backend under a manifest that says OpenVINO: their files are the same."""
    opened("openvino", "float32")
    folder = shutil.copytree(demo_engines, tmp_path_factory.mktemp("float32") / "demo")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "backend": "openvino"}))
    with GuardedPipeline(folder) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def bfloat16_folder(tmp_path_factory):
    opened("openvino", "bfloat16")
    folder = tmp_path_factory.mktemp("bfloat16") / "demo"
    build(options(parse(["build", "--backend", "openvino", "--precision", "bfloat16", "--engine-dir", str(folder)])))
    return folder


@pytest.mark.parametrize(
    "request_options",
    [
        {},
        {"scheduler": "pndm"},
        {"scheduler": "lms", "guidance_scale": 4.0},
        {"guidance_scale": 1.0},
        {"height": 96, "width": 48},
        {"unguarded": True},
        {"on_unsafe": "refuse"},
    ],
    ids=str,
)
def test_float32_draws_the_pictures_of_onnxruntime(pipeline, float32, request_options):
    for texts in (PROMPTS[1:2], PROMPTS[1:4])[: 1 if request_options else 2]:
        expected, found = (each(texts, seed=5, num_inference_steps=6, **request_options) for each in (pipeline, float32))
        for image, other, report, wanted in zip(found.images, expected.images, found.reports, expected.reports, strict=True):
            assert decisions(report) == decisions(wanted)
            assert (image is None) == (other is None)
            assert image is None or levels(image, other).max() <= 1


def test_bfloat16_is_near_and_judged_alike(pipeline, bfloat16_folder):
    with GuardedPipeline(bfloat16_folder) as coarse:
        expected, found = (each(PROMPTS, seed=5, num_inference_steps=25) for each in (pipeline, coarse))
    assert {report.verdict for report in found.reports} == {"safe", "redirected"}
    differences = [levels(*pair) for pair in zip(found.images, expected.images, strict=True)]
    for report, wanted in zip(found.reports, expected.reports, strict=True):
        assert decisions(report) == decisions(wanted)
    assert max(found.max() for found in differences) <= 48 and max(found.mean() for found in differences) <= 1
    assert max(found.max() for found in differences) > 1  # bfloat16 did run


def test_bfloat16_engines_store_half_the_weights(demo_engines, bfloat16_folder):
    for network in ("text_encoder", "unet"):  # ONNX Runtime's decoder has other layers
        whole, stored = ((folder / network / "model.onnx").stat().st_size for folder in (demo_engines, bfloat16_folder))
        assert stored < 0.56 * whole, network
    for network in ("text_encoder", "unet", "vae_decoder"):
        path = bfloat16_folder / network / "model.onnx"
        weights = [tensor for tensor in onnx.load(path).graph.initializer if math.prod(tensor.dims) > 1000]
        assert weights and {tensor.data_type for tensor in weights} <= {onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT64}, network
        assert path.stat().st_size < 1.1 * sum(2 * math.prod(tensor.dims) for tensor in weights) + 200_000, network


def test_the_build_gates_openvino_itself(bfloat16_folder, capsys):
    manifest, _ = Manifest.read(bfloat16_folder)
    assert (manifest.backend, manifest.precision) == ("openvino", "bfloat16") and "openvino" in manifest.versions
    assert 1e-3 < manifest.parity["unet"]["noise_pred"]["max_abs_error"] < 0.1
    assert all(figures["max_abs_error"] < 1e-4 for figures in manifest.parity["guard"].values())
    assert main(["build", "--backend", "openvino", "--precision", "bfloat16", "--engine-dir", str(bfloat16_folder)]) == 0
    assert "nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_strided_convolution_that_leaves_one_column(tmp_path, width):
    backend = opened("openvino", "bfloat16")
    spec = NetworkSpec(
        "downsampler",
        (TensorSpec("sample", "float32", ("B", 320, "H", "W")),),
        (TensorSpec("smaller", "float32", ("B", 320, "PH", "PW")),),
        runs="call",
    )
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Conv2d(320, 320, 3, stride=2, padding=1))
    export_network(module, spec, {"D": 96}, tmp_path / "model.onnx")
    sizes = {"B": 1, "H": 8, "W": width, "PH": 4, "PW": (width + 1) // 2}
    inputs = example(spec, sizes)
    with torch.no_grad():
        expected = module(inputs["sample"]).numpy()
    found = run_once(backend.load(tmp_path / "model.onnx", spec), backend, {"sample": inputs["sample"].numpy()}, sizes)["smaller"]
    assert np.abs(found - expected).max() < 0.02


def test_precisions_that_a_backend_does_not_have():
    with pytest.raises(BackendError, match="onnxruntime: expected precision float32 or int8, found 'bfloat16'"):
        open_backend("onnxruntime", "bfloat16")
    with pytest.raises(InputError, match="expected float32 or int8 with --backend onnxruntime, found bfloat16; .* openvino or"):
        options(parse(["build", "--precision", "bfloat16"]))


def test_a_processor_without_bfloat16(monkeypatch):
    opened("openvino", "float32")

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr("engines.backends.openvino_cpu._core", Core)
    with pytest.raises(BackendError, match="expected a processor with bfloat16 arithmetic, found FP32, INT8; build with"):
        open_backend("openvino", "bfloat16")


def test_ctrl_c_after_backends_that_went_in_the_order_in_which_they_came():
    opened("openvino", "float32")
    code = (
        "import signal; from engines.backends.registry import open_backend\n"
        "first, second = open_backend('openvino', 'float32'), open_backend('openvino', 'float32')\n"
        "del first; del second\n"
        "signal.raise_signal(signal.SIGINT)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT and ended.stderr.strip().endswith("KeyboardInterrupt"), ended


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "engines.backends.openvino_cpu", raising=False)
    with pytest.raises(BackendError, match=r'openvino cannot be imported .* pip install "saferedir\[openvino\]"'):
        open_backend("openvino")


def test_pipelines_of_few_threads_take_different_cores(demo_engines, monkeypatch):
    """Pinned threads of several pipelines would all sit on the first cores."""
    given: list[dict[str, object]] = []

    class Noting:
        def __init__(self, core) -> None:
            self._core, self.read_model, self.get_property = core, core.read_model, core.get_property

        def compile_model(self, model, device, properties):
            given.append(properties)
            return self._core.compile_model(model, device, properties)

    opened("openvino", "float32")
    import openvino

    core = Noting(openvino.Core())
    monkeypatch.setattr("engines.backends.openvino_cpu._core", lambda: core)
    spec = NETWORKS["sampler_step"]
    tensors = {tensor.name: tensor.shape(with_derived({"B": 1, "C": 1, "H": 4, "W": 4, "S": 1})) for tensor in spec.tensors}
    for threads in (1, None):
        backend = open_backend("openvino", "float32", threads=threads)
        engine = backend.load(demo_engines / spec.name / "model.onnx", spec)
        engine.bind(**{tensor.name: backend.zeros(tensors[tensor.name], tensor.dtype) for tensor in spec.tensors})
    assert given[0]["INFERENCE_NUM_THREADS"] == 1 and given[0]["ENABLE_CPU_PINNING"] is False
    assert not {"INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"} & {*given[1]}
