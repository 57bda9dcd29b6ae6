"""What decides a file is seen to: every change of the code that makes it changes its recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.geometry import Geometry
from engines.networks import NETWORKS, NetworkSpec, TensorSpec, with_derived
from engines.sizes import Span
from export.code_digest import ROOMS, code_digest
from export.exported_networks import EXPORTED_NETWORKS, TOKENIZER, resolve
from export.jobs import code_modules
from export.onnx_file import EXAMPLE_SIZES, example, export_network
from export.tensorrt.shape_profile import Profile

ROOT = Path(__file__).resolve().parent.parent.parent
STARTS = {row.name: code_modules(row) for row in (TOKENIZER, *EXPORTED_NETWORKS)}
ALL, GUARD = frozenset(STARTS), frozenset({"guard", "token_mask"})
MUST_CHANGE = {
    "export/tokenizer.py": {"tokenizer"},
    "export/sources/tokenizer_files.py": {"tokenizer"},
    "export/sources/locate.py": ALL - {"sampler_step"} - GUARD,
    "export/sources/model_folder.py": ALL,
    "export/sources/single_file.py": ALL - {"sampler_step"} - GUARD,
    "export/sources/swapped_vae.py": ALL - {"sampler_step"} - GUARD,
    "export/sources/load.py": {"text_encoder", "unet", "vae_decoder"},
    "export/sources/checkpoints.py": GUARD,
    "engines/networks.py": ALL,
    "engines/parity.py": ALL - {"tokenizer"},
    "engines/store/recorded_cases.py": ALL - {"tokenizer"},
    "export/wrappers.py": ALL - {"tokenizer"} - GUARD,
    "export/exported_networks.py": ALL - {"tokenizer"},
    "export/build_network.py": ALL - {"tokenizer"},
    "export/onnx_file.py": ALL - {"tokenizer"},
    "export/attention.py": ALL - {"tokenizer"},
    "export/reference_cases.py": ALL - {"tokenizer"},
    "export/precision/half_precision.py": ALL - {"tokenizer"},
    "export/precision/int8.py": ALL - {"tokenizer"},
    "export/precision/emulation.py": ALL - {"tokenizer"},
    "export/tensorrt/plan_builder.py": ALL - {"tokenizer"},
    "export/tensorrt/shape_profile.py": ALL - {"tokenizer"},
    "saferedir/checkpoint.py": GUARD,
    "saferedir/guard.py": GUARD,
    "saferedir/heads.py": GUARD,
    "saferedir/inference/algebra.py": GUARD,
    "saferedir/inference/winograd.py": GUARD,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the rooms whose code can be edited."""
    root = tmp_path_factory.mktemp("tree")
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("plans", "__pycache__"))
    return root


def digests(root):
    return {name: code_digest(*modules, root=root) for name, modules in STARTS.items()}


def test_a_copy_has_the_digests_of_the_original(tree):
    assert digests(tree) == digests(ROOT)


@pytest.mark.parametrize("file", MUST_CHANGE)
def test_an_edit_of_a_module_changes_the_recipes_that_it_decides(tree, file):
    before, path = digests(tree), tree / file
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "\n# edited\n", encoding="utf-8")
    after = digests(tree)
    path.write_text(content, encoding="utf-8")
    assert {name for name in before if before[name] != after[name]} >= MUST_CHANGE[file]


@pytest.mark.parametrize("file", ["engines/backends/openvino_cpu.py", "engines/cuda/graph.py"])
def test_code_that_only_runs_changes_no_recipe(tree, file):
    before, path = digests(tree), tree / file
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "\n# edited\n", encoding="utf-8")
    after = digests(tree)
    path.write_text(content, encoding="utf-8")
    assert before == after


def test_every_network_has_a_row_for_its_export():
    assert {row.name for row in EXPORTED_NETWORKS} == set(NETWORKS)
    for row in EXPORTED_NETWORKS:
        assert callable(resolve(row.wrapper)) and (row.settle is None or callable(resolve(row.settle)))
        assert (row.component is None) >= row.spec.of_guard


PICTURES = NetworkSpec(
    "vae_encoder",
    inputs=(TensorSpec("images", "uint8", ("B", "PH", "PW", 3), span=(0, 255)),),
    outputs=(TensorSpec("latent", "float32", ("B", 4, "H", "W"), varies=True),),
    runs="call",
)


class Encoder(torch.nn.Module):
    """Pictures averaged over 8x8 pixels, four channels of them."""

    def forward(self, images):
        channels = images.float().permute(0, 3, 1, 2)[:, [0, 1, 2, 0]]
        return torch.nn.functional.avg_pool2d(channels, 8)


def test_pictures_can_be_inputs(tmp_path):
    """A network that takes pictures is a row like the others: example, export and profile follow from it."""
    sizes = with_derived({**EXAMPLE_SIZES, "D": 96, "K": 1})
    images = example(PICTURES, sizes)["images"]
    assert images.shape == (2, 8 * 17, 8 * 25, 3) and images.dtype == torch.uint8 and len(np.unique(images)) > 200
    export_network(Encoder(), PICTURES, {"D": 96}, tmp_path / "model.onnx")
    from engines.backends.contract import run_once
    from engines.backends.registry import open_backend

    backend, smaller = open_backend("onnxruntime"), with_derived({"B": 1, "C": 2, "H": 4, "W": 6, "f": 8})
    inputs = {name: tensor.numpy() for name, tensor in example(PICTURES, smaller, 1).items()}
    outputs = run_once(backend.load(tmp_path / "model.onnx", PICTURES), backend, inputs, smaller)
    np.testing.assert_allclose(outputs["latent"], Encoder()(torch.from_numpy(inputs["images"])), rtol=1e-5)
    profile, geometry = Profile(Span(1, 1, 4), Span(64, 64, 128), Span(64, 128, 256)), Geometry(96, 8, 64, 64, 2)
    shapes = profile.shapes(PICTURES.inputs[0], geometry, concepts=1)
    assert shapes == ((1, 64, 64, 3), (1, 64, 128, 3), (4, 128, 256, 3))
