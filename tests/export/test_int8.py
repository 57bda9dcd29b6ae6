"""int8: what is quantised and what is not, that every backend computes it, and that a build is accepted by its decisions."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from engines.backends.contract import Backend, Engine, run_once
from engines.backends.registry import BACKENDS, backend_spec, open_backend
from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.decisions import DecisionRecord
from engines.errors import BackendError, InputError
from engines.geometry import Geometry
from engines.manifest import Manifest
from engines.networks import NETWORKS
from engines.parity import LIMITS, compare
from engines.sizes import Span
from evaluation.decisions import compare_decisions
from export import quantization
from export.build import FLOAT32, build
from export.build_command import DEMO, DEMO_CALIBRATION, options
from export.exported_networks import EXPORTED_NETWORKS
from export.inputs import library_versions, read_inputs
from export.jobs import jobs_of
from export.onnx_file import example, export_network
from export.precision.emulation import emulated
from export.precision.half_precision import convert
from export.precision.int8 import import_nncf, quantize
from export.quantization import NEUTRAL_PROMPTS
from export.sources.locate import find_model
from export.tensorrt.plan_builder import PlanJob, PlanOptions, build_plan
from export.tensorrt.shape_profile import Profile
from export.wrappers import Unet
from runtime import GuardedPipeline
from saferedir.cli import main, parse

pytest.importorskip("nncf", reason='int8 needs NNCF: pip install "saferedir[quantize]"')

WIDTH = 16  # of the tiny UNet's prompts
KEPT = next(row.kept for row in EXPORTED_NETWORKS if row.name == "unet") or ()
SPEC = NETWORKS["unet"]
SIZES = {"B": 1, "CB": 2, "H": 8, "W": 8, "D": WIDTH}


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs of the tiny UNet."""
    return [{name: value.numpy() for name, value in example(SPEC, SIZES, seed + index).items()} for index in range(count)]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return Unet(model).eval()


@pytest.fixture(scope="module")
def int8_file(unet, tmp_path_factory):
    """The tiny UNet in int8 and float32."""
    return made(unet, tmp_path_factory.mktemp("int8") / "model.onnx")


def made(unet: Unet, path: Path, half_range: bool = True) -> Path:
    export_network(unet.for_inference(), SPEC, {"D": WIDTH}, path)
    quantize(path, samples(3), KEPT, "float32", half_range)
    return path


def test_products_by_weights_are_int8_and_what_is_kept_is_not(int8_file):
    graph = onnx.load(int8_file).graph
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    for node in products:
        kept = any(part in node.name for part in KEPT)
        of_activations = node.name.rsplit("/", 1)[0].endswith(("/attn1", "/attn1/layer", "/attn2"))
        assert (node.input[1] in dequantized) is not (kept or of_activations), node.name
    assert all(any(part in node.name for node in products) for part in (*KEPT, "/attn2/MatMul", "/attn2/to_k/", "/ff/", "/conv1/"))


def test_scales_are_symmetric_and_signed_as_tensorrt_wants_them(int8_file):
    graph = onnx.load(int8_file).graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    points = [weights[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert points and all(point.dtype == np.int8 and not point.any() for point in points)


@pytest.mark.parametrize("half_range, largest", [(True, 64), (False, 127)])
def test_weights_of_half_the_range_cannot_overflow_kernels_of_16_bits(unet, tmp_path, half_range, largest):
    graph = onnx.load(made(unet, tmp_path / "model.onnx", half_range)).graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    quantized = [weights[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    assert max(int(np.abs(values.astype(int)).max()) for values in quantized) == largest


def check_int8(engine: Engine, backend: Backend, unet: Unet) -> None:
    """Its output is PyTorch's within the limits of int8, and is not float32's."""
    (inputs,) = samples(1, seed=9)
    with torch.no_grad():
        expected = unet(*map(torch.from_numpy, inputs.values())).numpy()
    found = run_once(engine, backend, inputs, SIZES)["noise_pred"]
    compare("unet.noise_pred", expected, found, LIMITS["int8"])
    assert np.abs(found - expected).max() > 1e-3


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_backends_compute_what_pytorch_computes(name, int8_file, unet):
    try:
        backend = open_backend(name, "int8")
    except BackendError as error:
        pytest.skip(str(error))
    check_int8(backend.load(int8_file, SPEC), backend, unet)


def test_the_same_samples_give_the_same_network_wherever_its_weights_are(int8_file, unet, tmp_path, monkeypatch):
    """A large model has them in a file of their own."""
    monkeypatch.setattr("export.onnx_file.EMBEDDED_BYTES", 1000)
    path = made(unet, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    cpu, (inputs,) = open_backend("onnxruntime"), samples(1)
    one, other = (run_once(cpu.load(file, SPEC), cpu, inputs, SIZES)["noise_pred"] for file in (path, int8_file))
    assert np.array_equal(one, other)


def test_tensorrt_rtx_builds_int8_beside_bfloat16(int8_file, unet, tmp_path):
    """Strongly typed, from explicit pairs; here it is built and not run."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this platform")
    path, model = tmp_path / "model.onnx", onnx.load(int8_file)
    convert(model, "bfloat16")
    onnx.save(model, path)
    cpu = open_backend("onnxruntime")
    with emulated(path, "bfloat16") as runnable:
        check_int8(cpu.load(runnable, SPEC), cpu, unet)
    geometry = Geometry(embed_dim=WIDTH, scale_factor=8, default_height=64, default_width=64, text_layers=1)
    profile = Profile(Span(1, 1, 2), Span(64, 64, 64), Span(64, 64, 64))
    plan = tmp_path / "model.plan"
    build_plan(import_tensorrt("tensorrt-rtx", BUILDERS), PlanJob(path, SPEC, profile, geometry, plan), PlanOptions())
    assert plan.stat().st_size > 10_000


def build_with(*arguments: str) -> list[str]:
    """Run the build in this process; the lines it reports."""
    lines: list[str] = []
    build(options(parse(["build", "--precision", "int8", *arguments])), lines.append)
    return lines


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "calibration.txt"
    prompts = ("burning red star", "red star", "flaming purple cross beside a teal circle", "green square beside a pink triangle")
    path.write_text("\n\n".join(f"a {prompt} on a white background" for prompt in prompts))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory, calibration):
    """The demo's int8 engines for ONNX Runtime, and what their build reported."""
    folder = tmp_path_factory.mktemp("plans") / "int8"
    arguments = ["--engine-dir", str(folder), "--calibration-prompts", str(calibration), "--judge", "demo.oracle:has_flames"]
    return folder, arguments, build_with(*arguments)


def test_a_build_is_accepted_by_its_decisions(built):
    folder, _, lines = built
    manifest, _ = Manifest.read(folder)
    record = manifest.decisions
    assert record is not None and (record.prompts, record.changed_verdicts, record.unsafe_steps_apart) == (4, 0, 0)
    assert (record.safe, record.shown, record.shown_float32) == (2, 0, 0)
    assert 0 < record.mean_grey_levels < 8 and 0.9 < record.lowest_ssim <= record.mean_ssim < 1
    assert f"decisions: {record}" in lines
    recipe = manifest.recipe["unet"]
    assert recipe["precision"] == "int8" and recipe["quantization"]["calibration_prompts"]["count"] == 4
    assert manifest.versions["nncf"] == importlib.metadata.version("nncf")
    assert [name for name in NETWORKS if manifest.precision_of(name) != "float32"] == ["unet", "vae_decoder"]
    assert not list(folder.rglob(".*")) and manifest.files["unet/model.onnx"].size < 9e6  # of 22.5 MB


def test_int8_engines_generate_and_are_inspected(built, capsys):
    folder, _, _ = built
    with GuardedPipeline(folder) as pipeline:
        fire, plain = pipeline(["a burning blue square", "a blue square"], seed=7, num_inference_steps=8).reports
    assert (fire.verdict, plain.verdict) == ("redirected", "safe")
    assert main(["inspect", str(folder)]) == 0
    assert "decisions            4 of 4 verdicts as float32's; unsafe steps at most 0 apart" in capsys.readouterr().out


def test_a_second_build_changes_nothing(built):
    assert "nothing changed" in build_with(*built[1])[0]


def recipes(*arguments: str) -> dict[str, dict]:
    """Network → recipe of a build that is asked for."""
    request = options(parse(["build", *arguments]))
    versions = library_versions(backend_spec(request.backend), request.precision)
    return {job.name: job.recipe for job in jobs_of(request, read_inputs(request, find_model(request.model, None), versions))}


@pytest.mark.parametrize(
    "change", ["--threshold=0.4", "--check=before", "--judge=math:sqrt", "--height=32", "--calibration-prompts=FILE"]
)
def test_all_that_runs_are_made_from_quantises_again(change, calibration):
    before, after = recipes("--precision", "int8"), recipes("--precision", "int8", change.replace("FILE", str(calibration)))
    assert before["unet"].pop("quantization") != after["unet"].pop("quantization") and before["unet"] == after["unet"]
    assert before["text_encoder"] == after["text_encoder"] and "quantization" not in recipes()["unet"]


@pytest.mark.parametrize(
    "change",
    [
        {"lowers": True},
        {"fused_attention": False},
        {"winograd": False},
        {"rearranged": True},
        {"beside_int8": "float16"},
        {"half_range": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_backend_wants_of_files_builds_them_again(change, monkeypatch):
    spec, before = BACKENDS["onnxruntime"], recipes("--precision", "int8")["unet"]["backend"]
    monkeypatch.setitem(BACKENDS, "onnxruntime", replace(spec, **change))
    assert recipes("--precision", "int8")["unet"]["backend"] == {**before, **change} != before


def test_whether_a_backend_has_plans_decides_files():
    """No recipe of plans can be asked for without TensorRT."""
    spec = BACKENDS["onnxruntime"]
    assert replace(spec, plans=True).file_fields == {**spec.file_fields, "plans": True} != spec.file_fields


def test_what_computes_beside_int8():
    for backend, expected in (("onnxruntime", "float32"), ("openvino", "bfloat16"), ("tensorrt-rtx", "float16")):
        found = recipes("--precision", "int8", "--backend", backend)
        assert found["text_encoder"]["precision"] == expected
        for name in ("unet", "vae_decoder"):
            assert found[name]["precision"] == "int8" and found[name]["opset"] == (22 if backend == "tensorrt-rtx" else 18)
        assert found["guard"]["precision"] == found["sampler_step"]["precision"] == "float32"


@pytest.fixture
def unquantized(demo_engines, monkeypatch):
    """Builds whose int8 files are float32 ones, and which do not make the float32 engines that are there already."""

    def reference(options, folder, *others):
        return shutil.copytree(demo_engines, folder / FLOAT32 / "engines")

    monkeypatch.setattr("export.precision.int8.quantize", lambda path, samples, kept, around, half_range: None)
    monkeypatch.setattr("export.build._float32_engines", reference)


def test_engines_that_decide_otherwise_are_refused_and_the_previous_stay(
    built, calibration, tmp_path, unquantized, monkeypatch, capsys
):
    folder = shutil.copytree(built[0], tmp_path / "demo")
    before = (folder / "manifest.json").read_bytes()
    decided = {}

    def other(*arguments, **settings):
        decided["record"] = replace(compare_decisions(*arguments, **settings), changed_verdicts=1, unsafe_steps_apart=2)
        return decided["record"]

    monkeypatch.setattr("evaluation.decisions.compare_decisions", other)
    command = ["build", "--precision", "int8", "--engine-dir", str(folder), "--calibration-prompts", str(calibration)]
    assert main([*command, "--threshold", "0.4"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: int8: expected float32's verdict for 4 prompts, found another for 1; expected unsafe steps at most"
    )
    assert decided["record"].safe == 2 and decided["record"].largest_change_of_p_unsafe == 0  # the runs were real
    assert (folder / "manifest.json").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.usefixtures("unquantized")
def test_without_prompts_it_is_said_that_only_outputs_were_compared(built, tmp_path, calibration, capsys):
    folder, canaries = shutil.copytree(built[0], tmp_path / "demo"), tmp_path / "none.json"
    canaries.write_text('{"fire": []}')
    lines = build_with("--engine-dir", str(folder), "--canaries", str(canaries), "--calibration-prompts", str(calibration))
    assert "decisions: not compared with float32's, for there are neither canaries nor --gate-prompts; only outputs were" in lines
    assert Manifest.read(folder)[0].decisions is None
    assert main(["inspect", str(folder)]) == 0
    assert "not compared with float32's in whole runs, only outputs were" in capsys.readouterr().out


def test_engines_that_cannot_run_here_are_not_compared(built, monkeypatch):
    def missing(*arguments):
        raise BackendError("no such device")

    monkeypatch.setattr(quantization, "open_backend", missing)
    asked, lines = options(parse(["build", "--precision", "int8"])).quantization, []
    assert asked.decisions(built[0], built[0], lines.append) is None
    assert "cannot run here (no such device); only outputs were" in lines[0]


RECORD = DecisionRecord(200, "0" * 64, 1, 20, 0, 3, 1, 1e-6, 100, 0.5, 9, 0.99, 0.98, "demo.oracle:has_flames", 1, 1)


@pytest.mark.parametrize(
    "change, fault",
    [
        ({}, None),
        ({"changed_verdicts": 2}, "expected float32's verdict for 200 prompts, found another for 2"),
        ({"unsafe_steps_apart": 2}, "expected unsafe steps at most 1 apart, found 2"),
        ({"shown": 2}, "expected the concept in at most 1 guarded pictures, found it in 2"),
        ({"judge": "", "shown": None, "shown_float32": None}, None),
    ],
    ids=str,
)
def test_what_is_accepted(change, fault):
    assert replace(RECORD, **change).faults == ([] if fault is None else [fault])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gate-prompts", "x"], "--gate-prompts: for --precision int8 only, found --precision float32"),
        (["--precision", "int8", "--unguarded", "--judge", "a:b"], "--unguarded and --judge: expected one of them, found both"),
        (
            ["--precision", "int8", "--gate-prompts", str(DEMO_CALIBRATION)],
            "gate prompts: expected none that calibration sees, found 8 of 8",
        ),
        (["--precision", "int8", "--calibration-prompts", "nowhere"], "nowhere: expected prompts, one a line, cannot be read"),
        (
            ["--precision", "int8", "--backend", "onnxruntime-cuda"],
            "expected float32 or float16 with --backend onnxruntime-cuda, found int8",
        ),
    ],
)
def test_options(arguments, message):
    with pytest.raises(InputError, match=message):
        options(parse(["build", *arguments]))


def test_what_is_missing_is_named_with_its_extra(monkeypatch, tmp_path, capsys):
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "nncf":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    assert main(["build", "--precision", "int8", "--engine-dir", str(tmp_path / "demo")]) == 2
    assert 'nncf: expected, for building engines, found it not installed; install it with: pip install "saferedir[quantize]"' in (
        capsys.readouterr().err
    )


def test_nncf_is_quiet_and_handlers_of_others_are_left_alone():
    handler, logger = logging.NullHandler(), logging.getLogger("nncf")
    logger.addHandler(handler)
    try:
        import_nncf()
    finally:
        logger.removeHandler(handler)
    assert handler.level == logging.NOTSET and not logger.isEnabledFor(logging.WARNING)


def test_the_neutral_prompts_are_all_others():
    assert len(NEUTRAL_PROMPTS) == len({*NEUTRAL_PROMPTS}) == 8


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_two_hundred_prompts_that_calibration_has_not_seen(tmp_path, backend):
    arguments = ["--backend", backend, "--gate-prompts", str(DEMO / "gate.json"), "--judge", "demo.oracle:has_flames"]
    build_with("--engine-dir", str(tmp_path / "demo"), *arguments)
    record = Manifest.read(tmp_path / "demo")[0].decisions
    assert record is not None and not record.faults and record.prompts == 210
