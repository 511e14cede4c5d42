import errno
import os

import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput, NotFound, StorageFull
from retrain.evaluation.evaluator import Evaluation, EvaluationItem, evaluate

BOX = Annotations.of([[0, 0, 10, 10]], [0])


def items(count, truth=BOX):
    return [
        EvaluationItem(
            f"image-{i}", f"recording-{i // 2}", lambda i=i: np.full((4, 4, 3), i, np.uint8), truth
        )
        for i in range(count)
    ]


def perfect(images):
    return [Detections.of(BOX.boxes, BOX.classes, [0.9]) for _ in images]


def test_every_image_is_predicted_once_in_batches_and_progress_is_told():
    seen, progress = [], []

    def predict(images):
        seen.append([int(image[0, 0, 0]) for image in images])
        return perfect(images)

    result = evaluate(predict, items(5), 1, batch_size=2, on_progress=progress.append)

    assert seen == [[0, 1], [2, 3], [4]]
    assert progress == [2, 4, 5]
    assert result.image_ids == tuple(f"image-{i}" for i in range(5))
    assert result.summary.map50 == 1.0


def test_images_are_loaded_only_when_their_batch_is_due():
    loaded = []

    def lazy():
        for item in items(4):
            yield item._replace(load=lambda item=item: loaded.append(item.image_id) or item.load())

    def predict(images):
        assert len(loaded) % 2 == 0
        assert len(images) == 2
        return perfect(images)

    evaluate(predict, lazy(), 1, batch_size=2)

    assert len(loaded) == 4


def test_a_saved_evaluation_comes_back_equal(tmp_path, evaluation_of):
    original = evaluation_of(0.7)

    original.save(tmp_path / "deep" / "evaluation.json")
    again = Evaluation.load(tmp_path / "deep" / "evaluation.json")

    assert again.summary == original.summary
    assert (again.image_ids, again.groups, again.n_classes) == (original.image_ids, original.groups, 3)
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
    wanted = whole.image_ids[10:30]

    part = whole.only(wanted)

    assert part.image_ids == wanted
    assert part.groups == whole.groups[10:30]
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
        evaluate(perfect, [], 1)


def test_an_image_that_comes_twice_is_refused():
    with pytest.raises(BadInput, match="twice"):
        evaluate(perfect, items(2) + items(1), 1)


def test_a_detector_that_answers_too_little_is_refused():
    with pytest.raises(BadInput, match="1 answers for 2 images"):
        evaluate(lambda images: perfect(images)[1:], items(2), 1)
