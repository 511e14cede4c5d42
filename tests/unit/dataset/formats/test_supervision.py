"""Roboflow's supervision as an independent reader of our exports."""

import numpy as np
import pytest
import supervision

from retrain.dataset.formats import coco, voc, yolo
from retrain.dataset.version import LabelledObject

# It keeps boxes as 32-bit floats.
ROUNDING_PX = 1e-5


@pytest.fixture
def world(build):
    rng = np.random.default_rng(0)
    images, items = [build.image(shade=shade) for shade in range(4)], []
    for count, data in enumerate(images):
        corners = np.sort(rng.uniform(0, 30, (count, 2, 2)), axis=1).reshape(count, 4).tolist()
        objects = [
            LabelledObject(f"o-{n}", int(rng.integers(2)), tuple(box)) for n, box in enumerate(corners)
        ]
        items.append(build.item(data, *objects))
    return build.version(items), build.store(images)


def check_equal(dataset, version, shift=(0.0, 0.0, 0.0, 0.0)):
    assert len(dataset) == len(version.items)
    for path, _, found in dataset:
        item = version.by_image[path.rpartition("/")[2].partition(".")[0]]
        boxes = np.array([o.box for o in item.objects]).reshape(-1, 4) + np.array(shift)
        assert np.allclose(found.xyxy.reshape(-1, 4), boxes, rtol=0, atol=ROUNDING_PX)
        assert [dataset.classes[c] for c in found.class_id] == [
            version.classes[o.class_index] for o in item.objects
        ]


def test_supervision_reads_our_coco(world, tmp_path):
    folder = coco.write(*world, tmp_path / "out")
    files = (folder / "images", folder / "annotations" / "instances_train.json")

    check_equal(supervision.DetectionDataset.from_coco(*map(str, files)), world[0])


def test_supervision_reads_our_yolo(world, tmp_path):
    folder = yolo.write(*world, tmp_path / "out")
    files = (folder / "images" / "train", folder / "labels" / "train", folder / "data.yaml")

    check_equal(supervision.DetectionDataset.from_yolo(*map(str, files)), world[0])


@pytest.mark.parametrize(("one_based", "shift"), [(True, 0.0), (False, -1.0)])
def test_supervision_reads_our_voc_in_the_devkits_convention(world, tmp_path, one_based, shift):
    folder = voc.write(*world, tmp_path / "out", one_based=one_based)
    files = (folder / "JPEGImages", folder / "Annotations")

    dataset = supervision.DetectionDataset.from_pascal_voc(*map(str, files))

    check_equal(dataset, world[0], (shift, shift, 0.0, 0.0))
