import numpy as np
import pytest

from retrain.dataset.dataset import Dataset
from retrain.errors import BadInput
from retrain.storage.digests import content_digest


@pytest.fixture
def source(images_in_memory):
    return images_in_memory(range(12))


@pytest.fixture
def dataset(make_item, make_version, source):
    items = [
        make_item(
            seed,
            split=("train", "val", "test")[seed % 3],
            metadata={"camera": f"{('north', 'south')[seed % 2]}-{seed}"},
        )
        for seed in range(12)
    ]
    return Dataset(make_version(items), source)


def test_it_is_a_sequence_in_the_order_of_digests(dataset):
    digests = [item.image for item in dataset]

    assert len(dataset) == 12
    assert digests == sorted(digests)
    assert dataset[-1] == dataset.items[11]
    assert list(dataset[2:4]) == list(dataset.items[2:4])
    assert dataset[3] in dataset
    assert list(reversed(dataset)) == list(dataset.items)[::-1]
    with pytest.raises(IndexError):
        dataset[12]


def test_narrowing_reads_no_image_and_keeps_the_version(dataset, source):
    part = dataset.split("train").where("camera=north*")[:1]

    assert source.given == 0
    assert part.version is dataset.version
    assert part.classes == ("zero", "one", "two")
    assert [item.split for item in part] == ["train"]
    assert part[0].metadata["camera"].startswith("north")


def test_the_splits_make_up_the_whole_and_where_does_too(dataset):
    parts = [dataset.split(name) for name in ("train", "val", "test")]

    assert sorted(i.image for part in parts for i in part) == [i.image for i in dataset]
    assert len(dataset.where("camera=north*")) + len(dataset.where("camera=south*")) == 12
    assert len(dataset.where("camera=nowhere")) == 0


def test_only_its_own_images_are_read(dataset, source):
    part = dataset.split("test")

    found = list(part.images())

    assert [item.image for item, _ in found] == [item.image for item in part]
    assert all(content_digest(data) == item.image for item, data in found)
    assert source.given == len(part)


def test_an_unknown_split_or_condition_is_an_error(dataset):
    with pytest.raises(BadInput, match="Unknown split 'training'; splits are train, val, test"):
        dataset.split("training")
    with pytest.raises(BadInput):
        dataset.where("camera")
    with pytest.raises(BadInput, match="at least one condition"):
        dataset.where()


def test_weights_fit_the_images_and_average_to_one(dataset):
    for part in (dataset, dataset.split("val")):
        weights = part.weights()
        assert weights.shape == (len(part),)
        assert np.all(weights > 0)
        assert weights.mean() == pytest.approx(1.0)


def test_an_empty_selection_has_no_images_and_nothing_to_balance(dataset, source):
    nothing = dataset.where("camera=nowhere")

    assert list(nothing.images()) == []
    with pytest.raises(BadInput, match="no images to balance"):
        nothing.weights()
