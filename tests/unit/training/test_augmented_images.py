"""What the dataset's pipeline does to training images, seen where Ultralytics' transforms begin and end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from retrain.boxes import Annotations, yolo_to_xyxy
from retrain.dataset.augmenter import DatasetAugmenter
from retrain.training.augmented_images import AugmentedImages
from retrain.training.data import DetectionData
from retrain.training.drawn_images import DrawnImages
from retrain.training.draws import Draw
from retrain.training.job import TrainingJob
from retrain.training.labelled_images import LabelledImages
from retrain.training.reproducible import reproducible
from retrain.training.request import AUGMENTATIONS, TrainingRequest
from retrain.training.ultralytics_parts import get_cfg

SIDE = 64
FLIP = [{"step": "flip"}]
MIXING = [
    {"step": "hsv", "probability": 0.5},
    {"step": "mixup", "probability": 0.5},
    {"step": "quarter_turn", "probability": 0.5},
    {"step": "copy_paste", "probability": 0.5},
]
NOTHING = dict.fromkeys(AUGMENTATIONS, 0.0)
Transform = Callable[[Any], Any]
Rows = Callable[[list[float]], list[float]]


def write_folder(root: Path, turn: Transform = lambda pixels: pixels, box: Rows = lambda row: row) -> Path:
    """Six pictures whose long side is the training size, with two boxes each, changed before they are written."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        height, width = ((48, SIDE), (SIDE, 40), (SIDE, SIDE))[number % 3]
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(np.ascontiguousarray(turn(pixels))).save(root / "images" / f"{number}.png")
        rows = [[0.25 + 0.05 * number, 0.375, 0.25, 0.5], [0.75, 0.625, 0.125, 0.25]]
        text = [f"{label} {' '.join(map(str, box(row)))}\n" for label, row in enumerate(rows)]
        (root / "labels" / f"{number}.txt").write_text("".join(text))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder")


def images(*places: Path, pipeline: Sequence[Mapping[str, Any]] = (), **changes: Any) -> LabelledImages:
    """A training set at its first epoch; Ultralytics' own augmentation is off unless `hyp` says otherwise."""
    settings = {
        "img_path": [str(place if place.is_file() else place / "images") for place in places],
        "data": {"names": {0: "a", 1: "b"}, "channels": 3},
        "imgsz": SIDE,
        "batch_size": 2,
        "augment": True,
        "hyp": get_cfg(overrides=NOTHING),
        "cache": "ram",
        **changes,
    }
    return AugmentedImages(pipeline, 3, **settings) if pipeline else LabelledImages(**settings)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    boxes = torch.allclose(one["bboxes"], other["bboxes"], atol=1e-5)
    return torch.equal(one["img"], other["img"]) and torch.equal(one["cls"], other["cls"]) and boxes


def drawn(dataset: LabelledImages, arguments: Any) -> list[Mapping[str, Any]]:
    loaded = DrawnImages(dataset, arguments, closing=1)
    return [loaded[Draw(0, index, index)] for index in range(len(loaded))]


def mirrored(row: list[float]) -> list[float]:
    return [1 - row[0], *row[1:]]


def turned(row: list[float]) -> list[float]:
    """As the corner at the top right comes to the top left."""
    return [row[1], 1 - row[0], row[3], row[2]]


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("cache", ["ram", False])
@pytest.mark.parametrize(
    ("step", "turn", "box"),
    [
        ({"step": "flip"}, lambda pixels: pixels[:, ::-1], mirrored),
        ({"step": "quarter_turn", "turns": [1]}, np.rot90, turned),
    ],
)
def test_ultralytics_sees_what_files_changed_beforehand_would_show_it_in_every_part_of_a_mosaic(
    step, turn, box, cache, mosaic, folder, tmp_path
):
    arguments = get_cfg(overrides={**NOTHING, "mosaic": mosaic})
    settings = {"cache": cache, "hyp": arguments}
    augmented = images(folder, pipeline=[step], **settings)
    beforehand = images(write_folder(tmp_path / "changed", turn, box), **settings)

    with reproducible(0, threads=1):
        assert all(map(same, drawn(augmented, arguments), drawn(beforehand, arguments)))


def test_the_pipeline_gets_red_first_and_gives_what_it_says_for_the_image_by_its_name(folder):
    dataset = images(folder, pipeline=[{"step": "hsv"}, {"step": "affine"}])
    augmenter = DatasetAugmenter([{"step": "hsv"}, {"step": "affine"}], seed=3)
    dataset.epoch = 4

    for index, path in enumerate(map(Path, dataset.im_files)):
        pixels = np.asarray(Image.open(path))
        rows = np.loadtxt(folder / "labels" / f"{path.stem}.txt", dtype=np.float32).astype(np.float64)
        boxes = yolo_to_xyxy(rows[:, 1:], pixels.shape[1], pixels.shape[0])
        known = Annotations.of(boxes, rows[:, 0].astype(int))
        expected, seen = augmenter.augment(pixels, known, path.stem, 4)
        label = dataset.get_image_and_label(index)
        label["instances"].convert_bbox("xyxy")
        label["instances"].denormalize(*pixels.shape[1::-1])
        assert np.array_equal(label["img"], expected[..., ::-1])
        assert label["instances"].bboxes == pytest.approx(seen.boxes, abs=1e-4)
        assert label["cls"].tolist() == seen.classes[:, None].tolist()


def test_labels_keep_the_form_that_ultralytics_gave_them(folder):
    augmented, plain = images(folder, pipeline=FLIP), images(folder)

    ours, theirs = augmented.get_image_and_label(0), plain.get_image_and_label(0)

    assert ours.keys() == theirs.keys()
    for one, other in ((ours["cls"], theirs["cls"]), (ours["instances"].bboxes, theirs["instances"].bboxes)):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert ours["img"].flags["C_CONTIGUOUS"]
    assert ours["instances"].normalized
    assert ours["resized_shape"] == theirs["resized_shape"]


def test_cached_images_stay_the_original(folder):
    dataset, plain = images(folder, pipeline=[{"step": "greyscale"}, *FLIP]), images(folder)

    for epoch in range(3):
        dataset.epoch = epoch
        assert not any(torch.equal(dataset[index]["img"], plain[index]["img"]) for index in range(6))

    assert all(np.array_equal(dataset.ims[index], plain.ims[index]) for index in range(6))


def test_an_image_of_an_epoch_is_the_same_in_any_order_and_another_in_the_next_epoch(folder):
    forwards, backwards = images(folder, pipeline=MIXING), images(folder, pipeline=MIXING)

    first = [forwards[index] for index in range(6)]
    again = [backwards[index] for index in reversed(range(6))][::-1]
    forwards.epoch = 1
    second = [forwards[index] for index in range(6)]

    assert all(map(same, first, again))
    assert not all(map(torch.equal, (item["img"] for item in first), (item["img"] for item in second)))


def test_partners_are_unchanged_images_of_the_training_set(folder):
    partners: list[np.ndarray] = []
    dataset, plain = images(folder, pipeline=[{"step": "mixup"}, {"step": "greyscale"}]), images(folder)
    augment = dataset._augmenter.augment

    def look(*given: Any) -> Any:
        partners.extend(given[-1][position][0] for position in range(len(given[-1])))
        return augment(*given)

    dataset._augmenter.augment = look
    dataset.get_image_and_label(0)

    assert len(partners) == 6
    assert all(np.array_equal(one, plain.ims[n][..., ::-1]) for n, one in enumerate(partners))


def test_folders_and_packs_are_augmented_alike(as_both, some_images, tmp_path):
    folder, selection = as_both(tmp_path, some_images)

    from_folder, from_packs = images(folder, pipeline=MIXING), images(selection, pipeline=MIXING)

    assert len(from_packs) > 10
    assert all(same(from_folder[index], from_packs[index]) for index in range(len(from_packs)))


def test_boxes_that_float32_puts_past_the_edge_are_no_error_and_those_without_area_are_left_out(tmp_path):
    edges = [number / 97 for number in range(2, 97)]
    assert any(float(np.float32(1 - edge / 2)) + float(np.float32(edge)) / 2 > 1 for edge in edges)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.full((SIDE, SIDE, 3), 9, np.uint8))
    rows = [f"1 {1 - edge / 2} 0.5 {edge} 0.5\n" for edge in edges]
    (tmp_path / "labels" / "0.txt").write_text("".join([*rows, "0 0.5 0.5 0.0 0.2\n"]))

    label = images(tmp_path, pipeline=FLIP).get_image_and_label(0)

    assert label["cls"].tolist() == [[1.0]] * 95


def test_an_image_without_objects_is_augmented_too(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "labels" / "0.txt").unlink()

    label = images(tmp_path, pipeline=FLIP).get_image_and_label(0)

    assert label["cls"].shape == (0, 1)
    assert label["instances"].bboxes.shape == (0, 4)
    assert np.array_equal(label["img"], images(tmp_path).ims[0][:, ::-1])


def data(folder: Path, jobs: Path, device: str = "cpu", **changes: Any) -> DetectionData:
    given = {"train_data": folder, "val_data": folder, "classes": ["a", "b"], "image_size": SIDE}
    request = TrainingRequest.of({**given, "batch_size": 2, "epochs": 5, "augment": NOTHING, **changes})
    return DetectionData(TrainingJob.of(request, jobs, 1, mixed_precision=False), device)


def batches(loaded: DetectionData, epoch: int) -> list[Mapping[str, Any]]:
    loaded.train.follow(lambda: (epoch, 0))
    return list(loaded.train)


def test_loader_processes_augment_for_the_epoch_that_is_told(folder, tmp_path):
    alone = data(folder, tmp_path, augmentation_pipeline=MIXING)
    shared = data(folder, tmp_path, augmentation_pipeline=MIXING, workers=2)
    assert shared.train.loader.num_workers == 2

    seen = []
    for epoch in (0, 3, 1):
        expected, loaded = batches(alone, epoch), batches(shared, epoch)
        assert [batch["im_file"] for batch in loaded] == [batch["im_file"] for batch in expected]
        assert all(map(same, loaded, expected))
        seen.append(
            {
                name: pixels
                for batch in loaded
                for name, pixels in zip(batch["im_file"], batch["img"], strict=True)
            }
        )
    first, *others = seen
    assert all(any(not torch.equal(first[name], one[name]) for name in first) for one in others)


def test_validation_images_are_never_augmented(folder, tmp_path):
    plain, augmented = data(folder, tmp_path), data(folder, tmp_path, augmentation_pipeline=FLIP)

    assert all(map(same, plain.val, augmented.val))
    assert not all(map(same, batches(plain, 0), batches(augmented, 0)))


def test_without_pipeline_and_strengths_training_images_are_as_stored(folder, tmp_path):
    loaded = data(folder, tmp_path)
    drawn = loaded.train.loader.dataset

    for index, path in enumerate(loaded.training_images.im_files):
        pixels = np.asarray(Image.open(path))
        top, left = ((SIDE - side) // 2 for side in pixels.shape[:2])
        shown = drawn[Draw(0, 0, index)]["img"].numpy()[
            :, top : top + pixels.shape[0], left : left + pixels.shape[1]
        ]
        assert np.array_equal(shown, pixels.transpose(2, 0, 1))


def test_another_seed_augments_differently(folder, tmp_path):
    one, other = (data(folder, tmp_path, augmentation_pipeline=MIXING, seed=seed) for seed in (0, 1))

    pixels = [
        [loaded.train.loader.dataset[Draw(0, index, index)]["img"] for index in range(6)]
        for loaded in (one, other)
    ]

    assert not all(map(torch.equal, *pixels))
