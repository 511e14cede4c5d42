import io

import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, Leakage
from retrain.storage.digests import content_digest

NO_BOXES = Annotations.empty()


def picture(seed, brightness=1.0, kind="PNG"):
    """A scene of soft blobs; the same seed is the same scene."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:128]
    scene = np.zeros((96, 128))
    for _ in range(12):
        cy, cx, size = rng.uniform(0, 96), rng.uniform(0, 128), rng.uniform(4, 24)
        scene += rng.uniform(40, 200) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * size**2))
    buffer = io.BytesIO()
    grey = np.clip(scene * brightness, 0, 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def draft(tmp_path):
    manager = DatasetManager(tmp_path / "datasets")
    return manager, manager.create_version("v1.0.0", classes=["cell"], splits={"train": 0.5, "test": 0.5})


def add(manager, draft, images, **options):
    return manager.add_images(draft, images, [NO_BOXES] * len(images), **options)


def test_a_near_duplicate_across_an_official_split_stops_the_commit_until_it_is_waived_on_record(draft):
    manager, v1 = draft
    copies = [picture(0), picture(0, 1.04)]
    add(
        manager,
        v1,
        [*copies, picture(1)],
        splits=["train", "test", "test"],
        metadata=[{"file": n} for n in "abc"],
    )

    with pytest.raises(Leakage, match=r"1 pairs .* a \(train\) and b \(test\)|b \(test\) and a \(train\)"):
        manager.commit(v1)
    assert manager.versions() == []
    with pytest.raises(Leakage):
        manager.commit(v1, waive="  ")

    version = manager.commit(v1, waive="the official split, kept to compare with published results")

    (waiver,) = DatasetManager(manager.repository.folder).get_version("v1.0.0").waivers
    assert waiver == version.waivers[0]
    assert set(waiver.images) == {content_digest(copy) for copy in copies}
    assert waiver.reason.startswith("the official split")
    # It holds for these two alone, in every later version.
    v2 = manager.create_version("v1.1.0", parent="v1.0.0")
    add(manager, v2, [picture(2)])
    assert manager.commit(v2).waivers == version.waivers
    v3 = manager.create_version("v1.2.0", parent="v1.1.0")
    add(manager, v3, [picture(1, 0.96)], splits=["train"])
    with pytest.raises(Leakage, match=r"^1 pairs"):
        manager.commit(v3)


def test_without_an_official_split_near_duplicates_go_together_whatever_their_groups(draft):
    manager, v1 = draft
    scenes = [picture(seed, light) for seed in range(8) for light in (1.0, 1.05)]
    add(manager, v1, scenes, groups=[f"camera-{n}" for n in range(len(scenes))])
    first = manager.commit(v1)
    v2 = manager.create_version("v1.1.0", parent="v1.0.0")
    late = [picture(seed, 0.95, "BMP") for seed in range(8)]
    add(manager, v2, late, groups=[f"late-{n}" for n in range(len(late))])

    second = manager.commit(v2)

    assert {item.split for item in first.items} == {"train", "test"}
    for seed in range(8):
        splits = {
            second.by_image[content_digest(data)].split
            for data in (*scenes[2 * seed : 2 * seed + 2], late[seed])
        }
        assert len(splits) == 1


def test_a_group_in_two_official_splits_is_a_leak(draft):
    manager, v1 = draft
    add(manager, v1, [picture(0), picture(1)], groups=["north"] * 2, splits=["train", "test"])

    with pytest.raises(Leakage, match="share a group"):
        manager.commit(v1)
    version = manager.commit(v1, waive="two days of one camera")

    assert [waiver.kind for waiver in version.waivers] == ["group"]


def test_a_loop_that_nobody_watches_leaves_out_what_leaks_and_keeps_the_rest(draft):
    manager, v1 = draft
    add(manager, v1, [picture(0), picture(1)], groups=["a", "b"], splits=["train", "test"])
    manager.commit(v1)
    v2 = manager.create_version("v1.1.0", parent="v1.0.0")
    # Of camera a, hence in train, but it shows what is in test.
    add(manager, v2, [picture(1, 1.05), picture(2)], groups=["a", "a"])

    left_out = manager.leave_out_leaks(v2)

    assert left_out.keys() == {content_digest(picture(1, 1.05))}
    version = manager.commit(v2)
    assert content_digest(picture(2)) in version.by_image
    assert len(version.items) == 3
    assert version.waivers == ()


def test_an_inherited_image_that_is_left_out_can_come_back(draft):
    manager, v1 = draft
    add(manager, v1, [picture(0), picture(1)])
    manager.commit(v1)
    gone = content_digest(picture(0))
    v2 = manager.create_version("v1.1.0", parent="v1.0.0")
    assert manager.leave_out(v2, [gone, "0" * 64]) == (gone,)
    assert gone not in manager.commit(v2).by_image

    v3 = manager.create_version("v1.2.0", parent="v1.1.0")
    add(manager, v3, [picture(0)])

    assert gone in manager.commit(v3).by_image
    assert len(manager.verify("v1.2.0").items) == 2


def test_labels_of_the_gold_test_are_frozen_until_a_new_one_is_declared(draft):
    manager, v1 = draft
    add(manager, v1, [picture(n) for n in range(6)], splits=["train", "test"] * 3)
    first = manager.commit(v1)
    frozen = first.in_split("test")
    boxes = Annotations.of([[1, 1, 9, 9]], [0])
    tested = [n for n in range(6) if content_digest(picture(n)) in {item.image for item in frozen}]

    v2 = manager.create_version("v1.1.0", parent="v1.0.0")
    with pytest.raises(BadInput, match=r"frozen gold test of v1\.0\.0"):
        manager.add_images(v2, [picture(tested[0])], [boxes], relabel=True)
    add(manager, v2, [picture(20)], splits=["test"], metadata=[{"captured_at": 1000.0}])
    manager.commit(v2)
    v3 = manager.create_version("v1.2.0", parent="v1.1.0", gold="v1.2.0")
    manager.add_images(v3, [picture(tested[0])], [boxes], relabel=True)
    manager.commit(v3)

    assert {item.image for item in manager.gold_test("v1.1.0")} == {item.image for item in frozen}
    assert [item.image for item in manager.rolling_test("v1.1.0", since=999.0)] == [
        content_digest(picture(20))
    ]
    assert manager.rolling_test("v1.1.0", since=1001.0) == ()
    assert {item.image for item in manager.gold_test("v1.2.0")} == {
        item.image for item in manager.get_version("v1.2.0").in_split("test")
    }
