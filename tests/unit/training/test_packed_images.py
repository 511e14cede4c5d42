import pickle
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from retrain.errors import BadInput, NotFound
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob, data_digest
from retrain.training.labelled_images import LabelledImages
from retrain.training.packed_images import packed_images
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.ultralytics_parts import get_cfg

CLASSES = {"names": {0: "a", 1: "b"}, "channels": 3}


def dataset(place: Path, **changes: Any) -> LabelledImages:
    settings = {"imgsz": 64, "batch_size": 2, "augment": False, "hyp": get_cfg(), "cache": "ram", **changes}
    return LabelledImages(img_path=[str(place)], data=CLASSES, **settings)


def request(train: Any, val: Path, **changes: Any) -> TrainingRequest:
    return TrainingRequest.of(
        {
            "train_data": train,
            "val_data": val,
            "classes": ["a", "b"],
            "epochs": 3,
            "batch_size": 4,
            "image_size": 64,
            "close_mosaic": 1,
            "augment": {"mixup": 0.5, "degrees": 10.0, "flipud": 0.5},
            **changes,
        }
    )


def epochs(
    asked: TrainingRequest, folder: Path, which: tuple[int, ...] = (0, 1, 2)
) -> list[list[dict[str, Any]]]:
    job = TrainingJob.of(asked, folder, 1, mixed_precision=False)
    with reproducible(asked.seed, threads=1):
        data = DetectionData(job, "cpu")
        batches = []
        for epoch in which:
            data.train.follow(lambda epoch=epoch: (epoch, 0))
            batches.append(list(data.train))
        return [*batches, list(data.val)]


def assert_equal(ours: list[list[dict[str, Any]]], theirs: list[list[dict[str, Any]]]) -> None:
    for epoch, expected in zip(ours, theirs, strict=True):
        for batch, other in zip(epoch, expected, strict=True):
            assert batch.keys() == other.keys()
            assert [Path(name).name for name in batch["im_file"]] == [
                Path(name).name for name in other["im_file"]
            ]
            for key in ("img", "cls", "bboxes", "batch_idx"):
                assert torch.equal(batch[key], other[key]), key
            for key in ("ori_shape", "resized_shape"):
                assert np.array_equal(batch[key], other[key]), key


def test_epochs_from_packs_are_those_from_the_folder_bit_for_bit(as_both, some_images, tmp_path):
    folder, selection = as_both(tmp_path, some_images)

    from_packs = epochs(request(selection, selection), tmp_path / "jobs")

    assert len(from_packs[0]) == 5
    assert_equal(from_packs, epochs(request(folder, folder), tmp_path / "jobs"))


def test_folders_and_selections_are_trained_on_together(as_both, some_images, tmp_path):
    first_folder, first = as_both(tmp_path / "first", some_images[:1])
    second_folder, _ = as_both(tmp_path / "second", some_images[1:])

    mixed = epochs(request([first, second_folder], first), tmp_path / "jobs", (0,))

    assert_equal(mixed, epochs(request([first_folder, second_folder], first_folder), tmp_path / "jobs", (0,)))


def test_every_format_is_read_as_its_file_would_be(encode, as_both, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (30, 40, 3)).astype(np.uint16)
    odd = {
        "jpg-turned": (encode(1, "JPEG", turned=6), (30, 40), ""),
        "jpg-upside-down": (encode(2, "JPEG", turned=3), (40, 30), ""),
        "jpg-grey": (encode(3, "JPEG", mode="L"), (40, 30), ""),
        "png-turned": (encode(4, "PNG", turned=8), (30, 40), ""),
        "png-alpha": (encode(5, "PNG", mode="RGBA"), (40, 30), ""),
        "png-deep": (encode(6, "PNG", mode="I;16"), (40, 30), ""),
        "bmp": (encode(7, "BMP"), (40, 30), ""),
        "tif-deep": (encode(8, "TIFF", mode="I;16"), (40, 30), ""),
        "tif-alpha": (encode(9, "TIFF", mode="RGBA"), (40, 30), ""),
        "tif-deep-colour": (cv2.imencode(".tif", deep)[1].tobytes(), (40, 30), ""),
        # Said to be as they lie, as where OpenCV or Pillow does not turn these formats: the pixels decide.
        "tif-turned": (encode(10, "TIFF", turned=6), (40, 30), ""),
        "webp": (encode(11, "WEBP"), (40, 30), ""),
        "webp-turned": (encode(12, "WEBP", turned=6), (40, 30), ""),
    }
    folder, selection = as_both(tmp_path, [odd])

    ours, theirs = dataset(selection), dataset(folder / "images")

    assert len(ours) == len(odd)
    for index, label in enumerate(ours.labels):
        assert label["shape"] == theirs.labels[index]["shape"], label["im_file"]
        pixels, original, resized = ours.load_image(index)
        expected, *sizes = theirs.load_image(index)
        assert np.array_equal(pixels, expected), label["im_file"]
        assert [original, resized] == sizes


def test_labels_are_the_float32_values_of_the_label_file(as_both, encode, tmp_path):
    rng = random.Random(3)
    rows = [[rng.uniform(0, 1) for _ in range(4)] for _ in range(200)]
    text = "".join(f"1 {' '.join(f'{value:.10f}' for value in row)}\n" for row in rows + rows[:20])
    folder, selection = as_both(tmp_path, [{"png": (encode(1), (40, 30), text)}])

    ours, theirs = dataset(selection).labels[0], dataset(folder / "images").labels[0]

    assert ours["bboxes"].shape == (200, 4)
    assert np.array_equal(ours["bboxes"], theirs["bboxes"])
    assert ours["bboxes"].dtype == theirs["bboxes"].dtype == np.float32


def test_a_label_that_cannot_be_used_names_its_image(as_both, encode, tmp_path):
    _, selection = as_both(tmp_path, [{"png": (encode(1), (40, 30), "5 0.5 0.5 0.1 0.1\n")}])

    with pytest.raises(BadInput, match=r"\.zip/[0-9a-f]{64}\.png has class 5; known are 0 to 1"):
        dataset(selection)


def test_loader_processes_read_packs_without_an_image_cache(as_both, some_images, tmp_path):
    folder, selection = as_both(tmp_path, some_images)
    plain = dataset(folder / "images", cache=False)
    packed = pickle.loads(pickle.dumps(dataset(selection, cache=False)))

    loaded = DataLoader(packed, batch_size=None, num_workers=2, collate_fn=lambda item: item["img"])

    for index, pixels in enumerate(loaded):
        assert torch.equal(pixels, plain[index]["img"])


def test_missing_and_damaged_packs_are_errors(as_both, some_images, tmp_path):
    _, selection = as_both(tmp_path, some_images)
    packs = sorted((tmp_path / "packs").iterdir())
    whole = packs[0].read_bytes()
    packs[0].write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(BadInput, match=r"is damaged: image [0-9a-f]{64}\."):
        dataset(selection)

    packs[0].unlink()
    with pytest.raises(NotFound, match=r"\.zip is not on this machine"):
        dataset(selection)
    with pytest.raises(NotFound, match="does not exist"):
        packed_images(tmp_path / "none.jsonl")


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_bytes_that_are_no_image_are_an_error_naming_them(data, ending, as_both, tmp_path):
    _, selection = as_both(tmp_path, [{ending: (data, (40, 30), "")}])

    with pytest.raises(BadInput, match=rf"\.{ending} cannot be read as an image"):
        packed_images(selection)[0].decoded(cv2.IMREAD_COLOR)


def test_a_selection_and_the_folder_of_it_are_the_same_data(as_both, some_images, tmp_path):
    folder, selection = as_both(tmp_path, some_images)

    assert data_digest(request(selection, selection)) == data_digest(request(folder, folder))
    _, fewer = as_both(tmp_path / "fewer", some_images[:1])
    assert data_digest(request(fewer, selection)) != data_digest(request(selection, selection))


def test_a_balanced_job_is_named_by_its_weights_too(as_both, some_images, tmp_path):
    _, even = as_both(tmp_path / "even", some_images)
    _, uneven = as_both(tmp_path / "uneven", some_images, weights=True)

    def job(place: Path, sampling: str) -> str:
        asked = request(place, even, sampling=sampling, data_digest="d")
        return TrainingJob.of(asked, tmp_path, 1, mixed_precision=False).id

    assert job(even, "uniform") == job(uneven, "uniform")
    assert len({job(even, "uniform"), job(even, "balanced"), job(uneven, "balanced")}) == 3


def test_selections_can_be_moved_together_with_their_packs(as_both, some_images, tmp_path):
    _, selection = as_both(tmp_path / "here", some_images)
    (tmp_path / "here").rename(tmp_path / "there")

    assert len(dataset(tmp_path / "there" / "selections" / selection.name)) == 18
