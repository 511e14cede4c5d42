import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput, NotFound, StorageFull
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.run import EvaluationItem, evaluate

BOX = Annotations.of([[0, 0, 10, 10]], [0])


def items(count, truth=BOX):
    return [
        EvaluationItem(
            f"image-{i}", f"recording-{i // 2}", lambda i=i: np.full((4, 4, 3), i, np.uint8), truth
        )
        for i in range(count)
    ]


def perfect(images, **_):
    return [Detections.of(BOX.boxes, BOX.classes, [0.9]) for _ in images]


def test_every_image_is_predicted_once_in_batches_and_progress_is_told():
    seen, progress = [], []

    def predict(images, **_):
        seen.append([int(image[0, 0, 0]) for image in images])
        return perfect(images)

    result = evaluate(predict, items(5), ["a"], batch_size=2, on_progress=progress.append)

    assert seen == [[0, 1], [2, 3], [4]]
    assert progress == [2, 4, 5]
    assert result.truth.images == tuple(f"image-{i}" for i in range(5))
    assert result.summary.map50 == pytest.approx(1.0)


def test_images_are_loaded_only_when_their_batch_is_due():
    loaded = []

    def lazy():
        for item in items(4):
            yield replace(item, load=lambda item=item: loaded.append(item.image_id) or item.load())

    def predict(images, **_):
        assert len(loaded) % 2 == 0
        assert len(images) == 2
        return perfect(images)

    evaluate(predict, lazy(), ["a"], batch_size=2)

    assert len(loaded) == 4


def test_a_saved_evaluation_comes_back_equal(tmp_path, evaluation_of):
    original = evaluation_of(0.7)

    original.save(tmp_path / "deep" / "evaluation.json")
    again = Evaluation.load(tmp_path / "deep" / "evaluation.json")

    assert again.summary.to_json() == original.summary.to_json()
    assert again.truth.digest == original.truth.digest
    assert (again.protocol, again.confidence) == (original.protocol, original.confidence)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "deep" / "evaluation.json").read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["evaluation.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch, evaluation_of):
    evaluation_of(0.9).save(tmp_path / "evaluation.json")
    before = (tmp_path / "evaluation.json").read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=str(tmp_path)):
        evaluation_of(0.1).save(tmp_path / "evaluation.json")

    assert (tmp_path / "evaluation.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_slice_is_scored_as_if_only_it_had_been_evaluated(evaluation_of):
    whole = evaluation_of(0.6)
    wanted = whole.truth.images[10:30]

    part = whole.only(wanted)

    assert part.truth.images == wanted
    assert part.truth.groups == whole.truth.groups[10:30]
    assert part.summary.n_images == 20
    with pytest.raises(NotFound, match="'nowhere'"):
        whole.only(["nowhere"])


def test_reading_what_is_not_an_evaluation_says_so(tmp_path):
    (tmp_path / "broken.json").write_text('{"images": 3}')

    with pytest.raises(BadInput, match="not a stored evaluation"):
        Evaluation.load(tmp_path / "broken.json")
    with pytest.raises(NotFound, match="run the evaluate stage"):
        Evaluation.load(tmp_path / "absent.json")


def test_nothing_to_evaluate_is_an_error_not_a_score():
    with pytest.raises(BadInput, match="no image"):
        evaluate(perfect, [], ["a"])


def test_an_image_that_comes_twice_is_refused():
    with pytest.raises(BadInput, match="twice"):
        evaluate(perfect, items(2) + items(1), ["a"])


def test_a_detector_that_answers_too_little_is_refused():
    with pytest.raises(BadInput, match="1 answers for 2 images"):
        evaluate(lambda images, **_: perfect(images)[1:], items(2), ["a"])


@pytest.mark.parametrize("broken", ["format", "truth", "protocol", "predictions"])
def test_a_stored_evaluation_that_was_changed_or_is_of_another_kind_is_refused(
    tmp_path, evaluation_of, broken
):
    path = tmp_path / "evaluation.json"
    evaluation_of(0.7).save(path)
    document = json.loads(path.read_bytes())
    if broken == "format":
        document["format"] = 1
    elif broken == "truth":
        document["truth"]["label"][0] += 1
    elif broken == "protocol":
        document["protocol"]["max_counted"] = 300
    else:
        del document["predictions"]
    path.write_text(json.dumps(document))

    with pytest.raises(BadInput, match="is not a stored evaluation") as caught:
        Evaluation.load(path)
    if broken == "protocol":
        assert "scored with other max_counted than now" in str(caught.value)


def test_the_detector_is_asked_as_the_protocol_says():
    asked = []

    def predict(images, **how):
        asked.append(how)
        return perfect(images)

    protocol = EvaluationProtocol(confidence=0.05, nms_iou=0.6, max_detections=50)
    result = evaluate(predict, items(1), ["a"], protocol=protocol)

    assert asked == [{"confidence": 0.05, "iou": 0.6, "max_detections": 50}]
    assert result.protocol == protocol
    with pytest.raises(BadInput, match="nms_iou must be in"):
        EvaluationProtocol(nms_iou=1.5)
    with pytest.raises(BadInput, match="max_detections must be at least 1"):
        EvaluationProtocol(max_detections=0)


def test_images_are_told_apart_by_their_brightness_too():
    named = replace(items(1)[0], image_id="known", attributes={"brightness": "dusk", "camera": "a"})

    result = evaluate(perfect, [*items(3)[1:], named], ["a"])

    assert result.truth.images == ("image-1", "image-2", "known")
    assert [each["brightness"] for each in result.truth.attributes] == [1.0, 2.0, "dusk"]
    assert result.truth.attributes[2]["camera"] == "a"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("image", 10_000, "image 10000"),
        ("image", -1, "image -1"),
        ("label", 99, "class 99"),
        ("scores", float("nan"), "score nan"),
        ("scores", 9.0, r"score 9\.0"),
        ("boxes", [float("nan")] * 4, "box"),
        ("boxes", [50, 50, 0, 0], "box"),
        ("image", 10**30, "too large"),
    ],
)
def test_a_stored_detection_that_cannot_be_is_refused(tmp_path, evaluation_of, column, value, said):
    path = tmp_path / "evaluation.json"
    evaluation_of(0.7).save(path)
    document = json.loads(path.read_bytes())
    document["predictions"][column][0] = value
    path.write_text(json.dumps(document))

    with pytest.raises(BadInput, match=f"is not a stored evaluation .*{said}"):
        Evaluation.load(path)


def test_stored_detections_that_were_cut_or_put_in_another_order_are_refused(tmp_path, evaluation_of):
    path = tmp_path / "evaluation.json"
    evaluation_of(0.7).save(path)
    stored = json.loads(path.read_bytes())
    found = stored["predictions"]
    for changed in (
        {**found, "scores": found["scores"][:-1]},
        {name: column[::-1] for name, column in found.items()},
    ):
        path.write_text(json.dumps({**stored, "predictions": changed}))
        with pytest.raises(BadInput, match=r"unequal length|another order"):
            Evaluation.load(path)


@pytest.mark.parametrize("confidence", [7, float("nan"), "0.25"])
def test_a_stored_confidence_that_cannot_be_is_refused(tmp_path, evaluation_of, confidence):
    path = tmp_path / "evaluation.json"
    evaluation_of(0.7).save(path)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "confidence": confidence}))

    with pytest.raises(BadInput, match="is not a stored evaluation"):
        Evaluation.load(path)


def test_a_result_for_machines_is_told_from_a_stored_evaluation(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"model": "m", "metrics": {"map50": 0.5}}))

    with pytest.raises(BadInput, match=r"wrote by --save, not by --json\.$"):
        Evaluation.load(tmp_path / "result.json")


def test_a_folder_or_endless_brackets_are_no_evaluation(tmp_path):
    (tmp_path / "deep.json").write_bytes(b"[" * 100_000)

    with pytest.raises(BadInput, match="is not a stored evaluation"):
        Evaluation.load(tmp_path / "deep.json")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize(
    "wrong", [([[0, 0, 9, 9]], [1.5]), ([[0, 0, 9, 9]], [-0.5]), ([[9, 9, 0, 0]], [0.5])]
)
def test_a_score_or_box_that_cannot_be_is_refused(wrong):
    boxes, scores = (np.array(values, dtype=float) for values in wrong)
    found = Detections(boxes, np.zeros(1, dtype=np.int64), scores)

    with pytest.raises(BadInput, match="outside \\[0, 1\\] or a box turned inside out"):
        evaluate(lambda images, **_: [found] * len(images), items(2), ["a"])


def test_what_coco_leaves_out_as_too_large_is_refused_instead_of_counted_here_and_not_there():
    huge = [[0, 0, 2e5, 2e5]]
    labelled = [replace(item, truth=Annotations.of(huge, [0])) for item in items(1)]
    found = [Detections.of(huge, [0], [0.9])]

    with pytest.raises(
        BadInput, match=r"has an object of 4e\+10 square pixels; COCO counts none above 1e\+10"
    ):
        evaluate(lambda *_, **__: [Detections.empty()], labelled, ["a"])
    with pytest.raises(BadInput, match=r"A detection has a box of 4e\+10 square pixels"):
        evaluate(lambda *_, **__: found, items(1), ["a"])
    with pytest.raises(BadInput, match="an object of -3 square pixels"):
        evaluate(perfect, [replace(item, areas=[-3.0] * len(item.truth)) for item in items(1)], ["a"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float32(0.5), 0.5),
        ({"a": 0.5, "van": 0.1}, 0.5),
        ({"a": np.float32(0.5), "b": 1}, {"a": 0.5, "b": 1.0}),
    ],
)
def test_the_served_confidence_is_kept_as_plain_numbers_of_the_classes_there_are(tmp_path, given, kept):
    classes = list(kept) if isinstance(kept, dict) else ["a"]

    evaluate(perfect, items(2), classes, confidence=given).save(tmp_path / "one.json")

    assert Evaluation.load(tmp_path / "one.json").confidence == kept
