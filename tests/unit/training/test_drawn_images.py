from typing import Any

import pytest
import torch

from retrain.training.data import DetectionData
from retrain.training.draws import Draw
from retrain.training.job import TrainingJob
from retrain.training.reproducible import reproducible
from retrain.training.request import AUGMENTATIONS, TrainingRequest


@pytest.fixture
def build(as_both, some_images, tmp_path):
    folder, _ = as_both(tmp_path, some_images)

    def built(**changes: Any) -> DetectionData:
        given = {"train_data": folder, "val_data": folder, "classes": ["a", "b"], "batch_size": 4}
        request = TrainingRequest.of({**given, "image_size": 64, "epochs": 5, "close_mosaic": 2, **changes})
        return DetectionData(TrainingJob.of(request, tmp_path, 1, mixed_precision=False), "cpu")

    return built


def pixels(data: DetectionData, *draws: Draw) -> list[torch.Tensor]:
    with reproducible(0, threads=1):
        return [data.train.loader.dataset[draw]["img"] for draw in draws]


def test_a_draw_gives_the_same_picture_whatever_was_loaded_before(build):
    draws = [Draw(1, position, position % 3) for position in range(8)]

    forwards = pixels(build(), *draws)
    backwards = pixels(build(), *draws[::-1])[::-1]

    assert all(map(torch.equal, forwards, backwards))


def test_an_image_drawn_twice_in_an_epoch_or_in_another_one_looks_different(build):
    seen = pixels(build(), Draw(0, 0, 1), Draw(0, 1, 1), Draw(1, 0, 1))

    assert not any(torch.equal(seen[one], seen[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


def test_images_that_are_not_cached_are_drawn_the_same_and_not_kept(build):
    cached, plain = build(), build()
    plain.training_images.cache = None
    plain.training_images.ims = [None] * plain.images
    draws = [Draw(0, position, position % 3) for position in range(6)]

    assert all(map(torch.equal, pixels(cached, *draws), pixels(plain, *draws)))
    assert plain.training_images.ims == [None] * plain.images


def test_mosaic_is_off_in_the_last_epochs_only(build):
    nothing = dict.fromkeys(AUGMENTATIONS, 0.0)
    data, without = build(augment={**nothing, "mosaic": 1.0}), build(augment=nothing)

    open_one, closed = pixels(data, Draw(2, 0, 1), Draw(3, 0, 1))
    plain = pixels(without, Draw(2, 0, 1))[0]

    assert torch.equal(closed, plain)
    assert not torch.equal(open_one, plain)


def test_names_are_those_of_the_batch(build):
    data = build()
    data.train.follow(lambda: (3, 0))

    loaded = [batch["im_file"] for batch in data.train]

    assert [data.names(3, number) for number in range(len(loaded))] == [list(names) for names in loaded]
