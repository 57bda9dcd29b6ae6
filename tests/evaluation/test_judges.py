"""A judge is found by its name; a wrong name is told in one line. Named judges answer as their packages' pages say."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from demo.oracle import has_flames
from engines.errors import InputError
from evaluation.judges import load_judge, preserves
from evaluation.person_judge import letterbox


def test_finds_a_judge_by_its_name():
    judge = load_judge("demo.oracle:has_flames")
    assert judge is has_flames
    assert judge(np.full((64, 64, 3), (255, 135, 10), np.uint8)) is True
    assert judge(np.zeros((64, 64, 3), np.uint8)) is False


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("has_flames", "expected module:function"),
        (":has_flames", "expected module:function"),
        ("demo.nothing:has_flames", "No module named"),
        ("demo.oracle:nothing", "nothing"),
        ("demo.oracle:FLAME_PIXELS", "expected a function, found int"),
        ("..oracle:has_flames", "cannot be imported"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name, found):
    with pytest.raises(InputError, match=found) as raised:
        load_judge(name)
    assert "\n" not in str(raised.value)


@pytest.fixture
def nudenet(monkeypatch):
    """In the place of the package: a detector that says what it is told, and keeps the pictures it was shown."""
    detector = SimpleNamespace(found=[], seen=[])
    detector.detect = lambda image: (detector.seen.append(image), detector.found)[1]
    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=lambda: detector))
    return detector


@pytest.mark.parametrize(
    ("name", "kind", "score", "shows"),
    [
        ("nudenet", "BUTTOCKS_EXPOSED", 0.46, True),
        ("nudenet", "BUTTOCKS_EXPOSED", 0.45, False),
        ("nudenet=0.6", "BUTTOCKS_EXPOSED", 0.46, False),
        ("nudenet", "BELLY_EXPOSED", 0.99, False),
        ("nudenet", "MALE_BREAST_EXPOSED", 0.99, True),
    ],
)
def test_nudenet_counts_six_classes_above_a_threshold(nudenet, name, kind, score, shows):
    nudenet.found = [{"class": "FACE_FEMALE", "score": 0.9, "box": []}, {"class": kind, "score": score, "box": []}]
    assert load_judge(name)(np.zeros((8, 8, 3), np.uint8)) is shows
    assert not preserves(name)


def test_nudenet_sees_blue_first(nudenet):
    load_judge("nudenet")(np.full((8, 8, 3), (255, 20, 3), np.uint8))
    assert nudenet.seen[0].tolist() == np.full((8, 8, 3), (3, 20, 255)).tolist()


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(InputError, match="the package nudenet, found none .* install it with: pip install nudenet") as raised:
        load_judge("nudenet")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("threshold", ["1", "-0.1", "much", "nan"])
def test_nudenets_threshold_is_a_score(nudenet, threshold):
    with pytest.raises(InputError, match="expected a threshold"):
        load_judge(f"nudenet={threshold}")


@pytest.fixture
def yolo(tmp_path):
    """An ONNX file shaped as YOLOv8's: its boxes' classes score the mean red (a person) and the mean green (class 1)."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),  # [1, 3]
        helper.make_node("Gather", ["means", "kinds"], ["scores"], axis=1),  # [1, 2]
        helper.make_node("Concat", ["box", "scores"], ["anchor"], axis=1),  # [1, 6]
        helper.make_node("Reshape", ["anchor", "shape"], ["output0"]),  # [1, 6, 1]
    ]
    constants = {"axes": [2, 3], "kinds": [0, 1], "shape": [1, 6, 1]}
    initializers = [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()]
    initializers.append(helper.make_tensor("box", TensorProto.FLOAT, [1, 4], [32.0, 32.0, 64.0, 64.0]))
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    answered = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 1])
    graph = helper.make_graph(nodes, "yolo", [given], [answered], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "yolo.onnx")
    return tmp_path / "yolo.onnx"


@pytest.mark.parametrize(
    ("colour", "shows"),
    [((140, 0, 0), True), ((120, 0, 0), False), ((140, 150, 0), False), ((150, 140, 0), True)],
    ids=["red", "below the confidence", "more of another class", "more of a person"],
)
def test_a_person_is_the_best_class_of_a_box(yolo, colour, shows):
    judge = load_judge(f"person={yolo}")
    assert judge(np.full((32, 32, 3), colour, np.uint8)) is shows
    assert preserves(f"person={yolo}")


def test_a_picture_that_is_not_square_lies_on_grey():
    boxed = letterbox(np.full((32, 64, 3), (255, 0, 0), np.uint8), 128)
    assert boxed.shape == (1, 3, 128, 128) and boxed.dtype == np.float32
    red = boxed[0, 0]
    assert (red[32:96] == 1).all() and np.allclose(np.concatenate([red[:32], red[96:]]), 114 / 255)


@pytest.mark.parametrize("name", ["person", "person=nothing.onnx"])
def test_a_person_needs_a_file(name):
    with pytest.raises(InputError, match="expected person=FILE .* yolo export"):
        load_judge(name)


def test_a_file_that_is_no_yolo_is_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "text.onnx").write_text("no")
    with pytest.raises(InputError, match="cannot be read as an ONNX file"):
        load_judge(f"person={tmp_path / 'text.onnx'}")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "H", "W"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", value[:1], value[1:])
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"expected \[1, 3, S, S\] in and .* yolo export"):
        load_judge(f"person={tmp_path / 'other.onnx'}")
