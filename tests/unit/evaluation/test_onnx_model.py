"""Files that are not, or not quite, what Ultralytics exports."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from retrain.detector import Detector
from retrain.errors import BadInput
from retrain.evaluation.onnx_model import OnnxNetwork

DESCRIBED = {"names": "{0: 'a', 1: 'b'}", "imgsz": "[32, 32]", "task": "detect", "stride": "32"}
ROWS = np.array([[[16, 16, 8, 8, 0.9, 0.1], [8, 8, 4, 4, 0.2, 0.7]]], np.float32).transpose(0, 2, 1)


def written(path, batch="batch", side="side", kind=TensorProto.FLOAT, rows=ROWS, **described):
    """Gives the same rows for every image, plus nothing of it."""
    number = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}.get(kind, np.float32)
    given = helper.make_tensor_value_info("images", kind, [batch, 3, side, side])
    output = helper.make_tensor_value_info("output0", kind, [batch, *rows.shape[1:]])
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["means"]),
        helper.make_node("Mul", ["means", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rows"], ["output0"]),
    ]
    constants = [
        axes,
        helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 1, 1]),
        onnx.numpy_helper.from_array(np.zeros(1, number), "zero"),
        onnx.numpy_helper.from_array(rows.astype(number), "rows"),
    ]
    graph = helper.make_graph(nodes, "g", [given], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {**DESCRIBED, **described})
    onnx.save(model, path)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "shape", [{}, {"batch": 1, "side": 32}, {"batch": 4, "side": 32}, {"kind": TensorProto.FLOAT16}]
)
def test_any_batch_is_answered_by_fixed_and_free_shapes_and_half_precision(shape, file):
    network = OnnxNetwork(written(file, **shape))
    detector = Detector(network, network.classes, network.imgsz, "cpu")

    found = detector.predict([np.zeros((32, 32, 3), np.uint8)] * 6, confidence=0.5)

    assert (network.classes, network.imgsz, network.end2end) == (("a", "b"), 32, False)
    assert len(found) == 6
    for each in found:
        assert each.classes.tolist() == [0, 1]
        assert each.boxes == pytest.approx(np.array([[12, 12, 20, 20], [6, 6, 10, 10]]))
        assert each.scores == pytest.approx([0.9, 0.7], abs=1e-3)


@pytest.mark.parametrize("said", [{"end2end": "True"}, {"args": "{'batch': 1, 'nms': True}"}])
def test_a_model_that_suppresses_overlaps_itself_gives_boxes(said, file):
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [4, 4, 12, 12, 0.9, 1]
    network = OnnxNetwork(written(file, rows=rows, **said))

    found = Detector(network, network.classes, 32, "cpu").predict([np.zeros((32, 32, 3), np.uint8)])

    assert found[0].boxes.tolist() == [[4, 4, 12, 12]]
    assert found[0].classes.tolist() == [1]


def test_a_box_that_is_inside_out_is_none(file):
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, :3] = [[4, 4, 12, 12, 0.9, 1], [4, 12, 12, 4, 0.8, 1], [12, 4, 4, 12, 0.7, 0]]
    network = OnnxNetwork(written(file, rows=rows, end2end="True"))

    found = Detector(network, network.classes, 32, "cpu").predict([np.zeros((32, 32, 3), np.uint8)])

    assert found[0].scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "segment"}, "for 'segment', not a detector"),
        ({"names": ""}, "does not name its classes"),
        ({"names": "{0: 'a', 2: 'b'}"}, "does not name its classes"),
        ({"names": "__import__('os').getcwd()"}, "does not name its classes"),
        ({"names": "{0: 'a', 1: 'a'}"}, "have the same name: a, a"),
        ({"names": "{0: 'a', 1: 'b', 2: 'c'}"}, "a detector of 3 classes has 7 channels"),
        ({"imgsz": "[32, 64]"}, "one side in pixels"),
        ({"imgsz": ""}, "one side in pixels"),
        ({"imgsz": "[64, 64]", "side": 32}, "not squares of 64 pixels"),
        ({"kind": TensorProto.DOUBLE}, "only float32 and float16"),
    ],
)
def test_what_is_no_detector_of_ours_is_refused_with_what_is_wrong(changed, said, file):
    with pytest.raises(BadInput, match=said):
        OnnxNetwork(written(file, **changed))


def test_names_in_a_list_are_names(file):
    assert OnnxNetwork(written(file, names="['x', 'y']")).classes == ("x", "y")


def test_what_fails_on_an_image_names_the_file(file):
    network = OnnxNetwork(written(file, side=32))

    with pytest.raises(BadInput, match=r"model\.onnx failed on an image"):
        network(torch.zeros(1, 3, 16, 16))
