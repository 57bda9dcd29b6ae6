"""Half precision: what the files say, what the protections protect from, and real TensorRT-RTX builds."""

from __future__ import annotations

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.errors import InputError, ParityError
from engines.geometry import Geometry
from engines.manifest import Manifest
from engines.networks import NETWORKS, with_derived
from engines.parity import LIMITS, compare
from engines.sizes import Span
from engines.store.recorded_cases import check_cases
from engines.summary import summary
from export import onnx_file
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from export.exported_networks import EXPORTED_NETWORKS
from export.onnx_file import example, export_network
from export.precision.emulation import emulate
from export.precision.half_precision import ELEMENTS, FOLLOWING_OPS, convert, tensors_of
from export.precision.names import PRECISIONS, precision_name
from export.reference_cases import reference_cases
from export.tensorrt.plan_builder import PlanError, PlanJob, PlanOptions, build_plan
from export.tensorrt.shape_profile import Profile
from export.wrappers import VaeDecoder, in_each_branch
from saferedir.cli import main
from tests.export.test_build import built_anew

HALVES = pytest.mark.parametrize("precision", ELEMENTS)
CONVERTED = pytest.mark.parametrize("network", [name for name, spec in NETWORKS.items() if not spec.float32_only])
ROWS = {row.name: row for row in EXPORTED_NETWORKS}
ROWS = {row.name: row for row in EXPORTED_NETWORKS}
GEOMETRY = Geometry(embed_dim=96, scale_factor=4, default_height=64, default_width=64, text_layers=2)
FLOAT32_OPS = {"Softmax", "LayerNormalization", "InstanceNormalization", "ReduceSum", "ReduceMean", "ReduceL2", "Sin", "Cos", "Erf"}


def gate(module, engine, backend, geometry, precision):
    """As the build does."""
    return check_cases(engine, backend, reference_cases(module, ROWS[engine.spec.name], geometry, 1, None), precision)


def half_model(demo_engines, network, precision):
    model = onnx.load(demo_engines / network / "model.onnx")
    convert(model, precision)
    return model


def test_names():
    assert [precision_name(name) for name in ("fp32", "fp16", "bf16", "float16")] == ["float32", "float16", "bfloat16", "float16"]
    assert set(LIMITS) == set(PRECISIONS)
    with pytest.raises(InputError, match="precision: expected one of float32, float16, bfloat16, int8, fp32, .* found 'half'"):
        precision_name("half")


def test_precision_of_each_network():
    assert set(ROWS) == set(NETWORKS)
    for requested in ("float16", "bfloat16"):
        found = {name: row.half(requested, {"upcast_attention": False}) for name, row in ROWS.items()}
        assert found["unet"] == requested
        assert found["sampler_step"] == found["guard"] == "float32" and found["vae_decoder"] == "bfloat16"
    assert ROWS["unet"].half("float16", {"upcast_attention": True}) == "bfloat16"
    assert all(row.half("float16", {}) == "float32" for row in EXPORTED_NETWORKS if row.spec.float32_only)


@HALVES
@CONVERTED
def test_dtypes(demo_engines, network, precision):
    """Inputs and outputs are the specs'; products are half; what needs range or digits is not."""
    model = half_model(demo_engines, network, precision)
    onnx.checker.check_model(model, full_check=True)
    for value, tensor in zip([*model.graph.input, *model.graph.output], NETWORKS[network].tensors, strict=True):
        assert value.name == tensor.name
        assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name == tensor.dtype
        dims = tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        assert dims == tuple(96 if dim == "D" else dim for dim in tensor.dims)
    half, products = tensors_of(model, ELEMENTS[precision]), 0
    for node in model.graph.node:
        if node.op_type in FLOAT32_OPS or "/conv_in/" in node.name or "/conv_out/" in node.name:
            assert half.isdisjoint(node.input) or node.op_type in FOLLOWING_OPS, node.name
        elif node.op_type in ("Conv", "Gemm", "MatMul"):
            assert half.issuperset(name for name in node.input if name), node.name
            products += 1
    assert products > 5


@CONVERTED
def test_for_a_backend_that_lowers_the_file_is_half_for_its_weights(demo_engines, tmp_path, network):
    """Products of activations stay float32: attention, which the backend fuses."""
    model, spec, backend = onnx.load(demo_engines / network / "model.onnx"), NETWORKS[network], open_backend("onnxruntime")
    convert(model, "bfloat16", lowered=True)
    onnx.checker.check_model(model, full_check=True)
    half, large = tensors_of(model, ELEMENTS["bfloat16"]), {w.name for w in model.graph.initializer if math.prod(w.dims) > 1000}
    assert large <= half
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and not re.search(r"/(self_attn|attentions\.\d+)/MatMul(_\d+)?$", node.name):
            assert half.issuperset(name for name in node.input if name), node.name
        elif node.op_type not in ("Cast", "Gather", "Shape", "Transpose"):
            assert half.isdisjoint(node.input), node.name
    onnx.save(model, tmp_path / "model.onnx")
    sizes = with_derived({"B": 2, "C": 2, "H": 8, "W": 16, "D": 96, "f": 4})
    inputs = {name: value.numpy() for name, value in example(spec, sizes, 1).items()}
    expected = run_once(backend.load(demo_engines / network / "model.onnx", spec), backend, inputs, sizes)
    found = run_once(backend.load(emulate(tmp_path / "model.onnx", "bfloat16"), spec), backend, inputs, sizes)
    for name, values in expected.items():
        compare(f"{network}.{name}", values, found[name], LIMITS["bfloat16"])


@HALVES
@CONVERTED
def test_close_to_float32(demo_engines, tmp_path, network, precision):
    spec, backend = NETWORKS[network], open_backend("onnxruntime")
    sizes = {"B": 2, "CB": 4, "H": 8, "W": 16, "D": 96, "PH": 32, "PW": 64}
    inputs = {name: value.numpy() for name, value in example(spec, sizes, 1).items()}
    expected = run_once(backend.load(demo_engines / network / "model.onnx", spec), backend, inputs, sizes)
    onnx.save(half_model(demo_engines, network, precision), tmp_path / "model.onnx")
    found = run_once(backend.load(emulate(tmp_path / "model.onnx", precision), spec), backend, inputs, sizes)
    differences = 0
    for name, values in expected.items():
        compare(f"{network}.{name}", values, found[name], LIMITS[precision])
        differences += not np.array_equal(values, found[name])
    assert differences  # a twin that rounds nothing would pass everything


@pytest.mark.parametrize("precision, dtype", [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_emulation_rounds_every_half_result(tmp_path, precision, dtype):
    """ONNX Runtime itself drops the casts between half operators and gives float32's result."""
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["latent"], ["x"], to=ELEMENTS[precision]),
        node("Constant", [], ["c"], value=helper.make_tensor("c", ELEMENTS[precision], [1], [20000.0])),
        node("Add", ["x", "c"], ["y"]),
        node("Sub", ["y", "c"], ["z"]),
        node("Cast", ["z"], ["images"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "g", [info("latent", 1, [3])], [info("images", 1, [3])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx")
    values = torch.tensor([1.2345, 777.7, 60000.0])
    session = onnxruntime.InferenceSession(emulate(tmp_path / "model.onnx", precision), providers=["CPUExecutionProvider"])
    constant = torch.tensor(20000.0).to(dtype)
    expected = values.to(dtype) + constant - constant
    np.testing.assert_array_equal(session.run(None, {"latent": values.numpy()})[0], expected.float().numpy())


def test_weights_in_a_file_of_their_own_are_half_and_shared_with_the_twin(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 1000)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(96, 400)
            self.back = nn.Linear(400, 96)

        def forward(self, input_ids, clip_skip):
            ids = input_ids + clip_skip.unsqueeze(1)
            return self.back(self.linear(torch.sin(ids.unsqueeze(-1) * torch.arange(96.0))))

    module, spec, path = Wide(), NETWORKS["text_encoder"], tmp_path / "model.onnx"
    export_network(module, spec, {"D": 96, "K": 1}, path, "float16")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert 2 * 2 * 96 * 400 <= (tmp_path / "model.onnx.data").stat().st_size < 4 * 2 * 96 * 400
    twin, backend = emulate(path, "float16"), open_backend("onnxruntime")
    assert twin.stat().st_size < 10_000
    gate(module, backend.load(twin, spec), backend, GEOMETRY, "float16")


class LargeLogits(nn.Module):
    """Attention of pixels to the prompt in which the first token's logit is 160,000, more than twice float16's largest number."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(96, 16)
        self.register_buffer("first", torch.zeros(77, 1).index_fill(0, torch.tensor([0]), 800))

    def forward(self, sample, timestep, encoder_hidden_states):
        rows = encoder_hidden_states.shape[0]
        sample, timestep = in_each_branch(sample, rows), in_each_branch(timestep, rows)
        pixels = sample.flatten(2).transpose(1, 2)  # [CB, H·W, 4]
        query = torch.cat([pixels, pixels, pixels, pixels[..., :3], torch.full_like(pixels[..., :1], 800)], dim=2)
        tokens = encoder_hidden_states[..., :15]
        key = torch.cat([tokens, self.first.expand(tokens.shape[0], -1, -1)], dim=2)
        attended = nn.functional.scaled_dot_product_attention(query, key, self.value(encoder_hidden_states))
        return sample + attended[..., :4].mean(dim=1)[:, :, None, None] + timestep.view(-1, 1, 1, 1) / 1000


class LargeActivations(nn.Module):
    """An autoencoder whose activations reach 10^7 before a normalisation brings them back."""

    config = SimpleNamespace(scaling_factor=0.5)

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def decode(self, latent, return_dict):
        hidden = nn.functional.silu(self.norm(1e7 * self.first(1e-3 * latent)))
        return (nn.functional.interpolate(self.last(hidden), scale_factor=4.0),)


def emulated(module, network, tmp_path, precision):
    """The twin's engine and its backend."""
    backend = open_backend("onnxruntime")
    export_network(module, NETWORKS[network], {"D": 96}, tmp_path / "model.onnx", precision)
    return backend.load(emulate(tmp_path / "model.onnx", precision), NETWORKS[network]), backend


def test_logits_beyond_float16(tmp_path):
    torch.manual_seed(0)
    module = LargeLogits()
    with pytest.raises(ParityError, match="unet.noise_pred: expected finite numbers, the engine gave NaN"):
        gate(module, *emulated(module, "unet", tmp_path, "float16"), GEOMETRY, "float16")
    precision = ROWS["unet"].half("float16", {"upcast_attention": True})
    gate(module, *emulated(module, "unet", tmp_path, precision), GEOMETRY, precision)


def test_activations_beyond_float16(tmp_path):
    torch.manual_seed(0)
    module, sizes = VaeDecoder(LargeActivations()), {"B": 1, "H": 8, "W": 8, "PH": 32, "PW": 32}
    engine, backend = emulated(module, "vae_decoder", tmp_path, "float16")
    found = run_once(engine, backend, {"latent": example(engine.spec, sizes)["latent"].numpy()}, sizes)
    assert not found["images"].any() and not found["finite"].any()  # the black image
    with pytest.raises(ParityError, match="vae_decoder.images"):
        gate(module, engine, backend, GEOMETRY, "float16")
    precision = ROWS["vae_decoder"].half("float16", {})
    gate(module, *emulated(module, "vae_decoder", tmp_path, precision), GEOMETRY, precision)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--precision", "fp16"],
            "expected float32 or int8 with --backend onnxruntime, found float16; .* or tensorrt-rtx",
        ),
        (["--precision", "int4", "--backend", "tensorrt-rtx"], "precision: expected one of .* found 'int4'"),
    ],
)
def test_options(arguments, message, capsys):
    assert main(["build", *arguments]) == 2
    captured = capsys.readouterr().err
    assert re.search(message, captured) and captured.count("\n") == 1


class TestTensorRtRtx:
    """Builds need no GPU."""

    @pytest.fixture(autouse=True)
    def trt(self):
        return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this platform")

    def test_the_whole_build(self, tmp_path, capsys):
        """Float16; then a model that asks for more range, whose UNet alone is built again; then bfloat16, which is the same."""
        folder, model = tmp_path / "rtx", shutil.copytree(DEMO_MODEL, tmp_path / "model")
        command = [
            "--backend",
            "tensorrt-rtx",
            "--batch-size",
            "1",
            "--engine-dir",
            str(folder),
            "--model",
            str(model),
            "--redirector",
            str(DEMO_REDIRECTOR),
        ]
        assert main(["build", *command, "--precision", "fp16"]) == 0
        manifest = Manifest.read(folder)[0]
        assert manifest.precision == "float16" and set(manifest.parity) == set(NETWORKS)
        assert {name: manifest.precision_of(name) for name in NETWORKS} == {
            "text_encoder": "float16",
            "unet": "float16",
            "guard": "float32",
            "token_mask": "float32",
            "sampler_step": "float32",
            "vae_decoder": "bfloat16",
        }
        assert manifest.parity_of == "emulated onnx" and "half precision emulated on a CPU" in summary(manifest, "")
        config = model / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "upcast_attention": True}))
        capsys.readouterr()
        assert main(["build", *command, "--precision", "float16"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "rebuilding because of unet (opset, precision, unet/config.json)" in lines[0]
        assert built_anew(lines) == ["unet"]
        assert main(["build", *command, "--precision", "bf16"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("because of precision") and built_anew(lines) == []
        assert Manifest.read(folder)[0].precision == "bfloat16"

    def test_attention_stays_one_kernel(self, trt, demo_engines, tmp_path):
        """The casts around a softmax do not keep TensorRT from its fused attention kernel."""

        class Log(trt.ILogger):
            def __init__(self):
                trt.ILogger.__init__(self)
                self.text = ""

            def log(self, severity, message):
                self.text += message + "\n"

        onnx.save(half_model(demo_engines, "text_encoder", "float16"), tmp_path / "model.onnx")
        log = Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert trt.OnnxParser(network, log).parse_from_file(str(tmp_path / "model.onnx"))
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        shapes = builder.create_optimization_profile()
        shapes.set_shape("input_ids", (1, 77), (2, 77), (2, 77))
        shapes.set_shape("clip_skip", (1,), (2,), (2,))
        config.add_optimization_profile(shapes)
        assert builder.build_serialized_network(network, config) is not None
        layers = json.loads((DEMO_MODEL / "text_encoder" / "config.json").read_text())["num_hidden_layers"]
        kernels = set(re.findall(r"^Name: (\S+), LayerType", log.text, re.MULTILINE))
        assert sum(kernel.startswith("_gemm_mha") for kernel in kernels) == layers
        assert not any("Exp" in kernel for kernel in kernels)  # a softmax of its own

    def test_inputs_and_outputs_of_another_dtype_are_refused(self, trt, tmp_path):
        node, info, span = helper.make_node, helper.make_tensor_value_info, Span(64, 64, 64)
        nodes = [
            node("Shape", ["latent"], ["shape"]),
            node("Cast", ["latent"], ["images"], to=TensorProto.FLOAT),
            node("Cast", ["shape"], ["finite"], to=TensorProto.BOOL),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [info("latent", TensorProto.FLOAT16, ["B", 4, "H", "W"])],
            [info("images", TensorProto.FLOAT, None), info("finite", TensorProto.BOOL, None)],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx")
        with pytest.raises(PlanError, match=r"vae_decoder: expected tensors .*'latent', 'float32'.* built .*'latent', 'float16'"):
            build_plan(
                trt,
                PlanJob(
                    tmp_path / "model.onnx",
                    NETWORKS["vae_decoder"],
                    Profile(Span(1, 1, 1), span, span),
                    GEOMETRY,
                    tmp_path / "model.plan",
                ),
                PlanOptions(),
            )
        assert not (tmp_path / "model.plan").exists()
