"""Operation counts against products worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.suite.flops import Count, count
from engines.networks import with_derived


def weights(name, *shape):
    return helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32).tobytes(), raw=True)


def written(tmp_path, nodes, inputs, outputs, initializers):
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *infos, initializers)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_convolution(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    path = written(tmp_path, [node], {"x": ["B", 4, "H", "W"]}, {"y": None}, [weights("w", 6, 2, 3, 3)])
    # y is [3, 6, 4, 5]; each of its 360 numbers takes 2 channels times 9 weights.
    expected = Count(
        flops=2 * 360 * 18,
        weight_bytes=4 * 108,
        boundary_bytes=4 * (3 * 4 * 8 * 10 + 360),
        activation_bytes=4 * (960 + 360),
        uncounted=(),
    )
    assert count(path, {"B": 3, "H": 8, "W": 10}) == expected


def test_products_with_batches_and_transposes(tmp_path):
    nodes = [helper.make_node("MatMul", ["a", "b"], ["ab"]), helper.make_node("Gemm", ["g", "w"], ["y"], transA=1, transB=1)]
    path = written(
        tmp_path, nodes, {"a": ["B", 5, 7], "b": [7, 11], "g": [13, 17]}, {"ab": None, "y": None}, [weights("w", 19, 13)]
    )
    assert count(path, {"B": 2}).flops == 2 * (2 * 5 * 11) * 7 + 2 * (17 * 19) * 13


def test_small_int8_weights_count_as_those_that_they_stand_for(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1), helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights_int8 = helper.make_tensor("q", TensorProto.INT8, [8, 3], np.ones((8, 3), np.int8).tobytes(), raw=True)
    path = written(tmp_path, nodes, {"x": ["B", 8]}, {"y": None}, [weights_int8, weights("s", 3)])
    assert count(path, {"B": 2}).flops == 2 * (2 * 3) * 8


def test_shapes_computed_in_the_graph_are_followed(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Concat", ["minus", "length"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    indices = [helper.make_tensor("one", TensorProto.INT64, [1], [2]), helper.make_tensor("minus", TensorProto.INT64, [1], [-1])]
    path = written(tmp_path, nodes, {"x": ["B", 6, "D"]}, {"y": None}, [*indices, weights("w", 8, 3)])
    assert count(path, {"B": 2, "D": 8}).flops == 2 * (12 * 3) * 8


def test_attention_counts_scores_and_their_product_with_the_values(tmp_path):
    nodes = [
        helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=2),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    inputs = {"q": ["B", "S", 8], "k": ["B", 7, 8], "v": ["B", 7, 8]}
    path = written(tmp_path, nodes, inputs, {"z": ["B", "S", 3]}, [weights("w", 8, 3)])
    found = count(path, {"B": 2, "S": 5})
    assert found.flops == 2 * 2 * (2 * 5 * 7 * 8) + 2 * (2 * 5 * 3) * 8 and found.uncounted == ()


def test_operators_of_other_domains_and_what_follows_them_are_named_not_guessed(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Attention", ["a"], ["b"], domain="com.microsoft"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "w"], ["y"]),
    ]
    path = written(tmp_path, nodes, {"x": ["B", 8]}, {"y": ["B", 3]}, [weights("w", 8, 3)])
    found = count(path, {"B": 2})
    assert found.uncounted == ("Gemm", "com.microsoft.Attention") and found.flops == 2 * (2 * 3) * 8
    assert found.boundary_bytes == 4 * (2 * 8 + 2 * 3)


def test_demo_networks_grow_as_they_must(demo_engines):
    def flops(network, images, side):
        sizes = with_derived({"B": images, "C": 2, "K": 1, "S": 1, "H": side, "W": side, "D": 96, "f": 4})
        return count(demo_engines / network / "model.onnx", sizes).flops

    assert flops("sampler_step", 1, 16) == 2 * (1 + 1) * (1 + 2) * 4 * 16 * 16  # the product with the matrix
    assert flops("vae_decoder", 2, 16) == 2 * flops("vae_decoder", 1, 16) and flops("vae_decoder", 1, 32) == 4 * flops(
        "vae_decoder", 1, 16
    )
    assert flops("unet", 1, 32) > 4 * flops("unet", 1, 16) * 0.95  # attention grows faster, its text side does not grow


@pytest.mark.parametrize("sizes", [{"B": 3, "H": 8}])
def test_a_size_that_is_not_given_is_an_error(tmp_path, sizes):
    path = written(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], {"x": ["B", 4, "H", "W"]}, {"y": None}, [])
    with pytest.raises(KeyError, match="W"):
        count(path, sizes)
