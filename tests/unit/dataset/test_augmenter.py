import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from retrain.boxes import Annotations
from retrain.dataset.augmentation.pipeline import STEPS
from retrain.dataset.augmenter import DatasetAugmenter
from retrain.errors import ConfigError
from retrain.storage.digests import content_digest

EVERYTHING = [{"step": name, "probability": 0.5} for name in STEPS]

IN_ANOTHER_PROCESS = """
import pickle, sys
from retrain.storage.digests import content_digest
augmenter, calls = pickle.load(sys.stdin.buffer)
for call in calls:
    image, annotations = augmenter.augment(*call)
    print(content_digest(image.tobytes() + annotations.boxes.tobytes() + annotations.classes.tobytes()))
"""


def labelled(seed, width=48, height=36):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [width / 2, height / 2], (4, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, [width / 2, height / 2], (4, 2))], axis=1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, Annotations.of(boxes, rng.integers(0, 3, 4))


PARTNERS = [labelled(seed, 40 + seed, 30) for seed in range(100, 105)]
CALLS = [(*labelled(n % 5), f"image-{n % 5}", n, PARTNERS) for n in range(15)]


def digest(outcome):
    image, annotations = outcome
    return content_digest(image.tobytes() + annotations.boxes.tobytes() + annotations.classes.tobytes())


def digests(augmenter, calls):
    return [digest(augmenter.augment(*call)) for call in calls]


def test_the_order_of_calls_changes_nothing():
    forward = digests(DatasetAugmenter(EVERYTHING, seed=1), CALLS)
    backward = digests(DatasetAugmenter(EVERYTHING, seed=1), CALLS[::-1])

    assert forward == backward[::-1]
    assert len(set(forward)) == len(CALLS)


def test_threads_change_nothing():
    augmenter = DatasetAugmenter(EVERYTHING, seed=1)

    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda call: digest(augmenter.augment(*call)), CALLS))

    assert threaded == digests(augmenter, CALLS)


def test_another_process_with_another_hash_seed_gives_the_same_bytes():
    augmenter = DatasetAugmenter(EVERYTHING, seed=1)

    child = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=pickle.dumps((augmenter, CALLS)),
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        check=True,
    )

    assert child.stdout.decode().split() == digests(augmenter, CALLS)


def test_global_random_state_is_neither_read_nor_written():
    augmenter = DatasetAugmenter(EVERYTHING, seed=1)
    before = digests(augmenter, CALLS)
    random.seed(5)
    np.random.seed(5)
    cv2.setRNGSeed(5)
    expected = random.random(), np.random.random(), cv2.randu(np.zeros((1, 4)), 0, 1).tolist()
    random.seed(5)
    np.random.seed(5)
    cv2.setRNGSeed(5)

    after = digests(augmenter, CALLS)

    assert (random.random(), np.random.random(), cv2.randu(np.zeros((1, 4)), 0, 1).tolist()) == expected
    assert after == before


def test_seed_image_and_epoch_each_change_the_outcome():
    image, annotations = labelled(0)
    moves = [{"step": "affine"}]

    seen = {
        digest(DatasetAugmenter(moves, seed).augment(image, annotations, name, epoch))
        for seed, name, epoch in [
            (0, "a1", 1),
            (1, "a1", 1),
            (0, "a2", 1),
            (0, "a1", 2),
            (0, "a", 11),
            (0, "a11", 1),
        ]
    }

    assert len(seen) == 6


def test_an_empty_pipeline_is_the_identity_bit_for_bit():
    image, annotations = labelled(0)

    out, boxes = DatasetAugmenter([]).augment(image, annotations, "a", 0)

    assert np.array_equal(out, image)
    assert np.array_equal(boxes.boxes, annotations.boxes)
    assert np.array_equal(boxes.classes, annotations.classes)


def test_the_parameters_of_one_step_leave_the_draws_of_the_others_alone():
    image, annotations = labelled(0)

    def boxes(first):
        return (
            DatasetAugmenter([first, {"step": "affine"}])
            .augment(image, annotations, "a", 3)[1]
            .boxes.tolist()
        )

    assert boxes({"step": "rain", "density": [5, 5]}) == boxes({"step": "rain", "probability": 0})


def test_two_equal_steps_draw_apart():
    shift = {"step": "affine", "rotate_deg": [0, 0], "scale": [1, 1], "min_visible": 0, "shift": [-0.1, 0.1]}
    middle = np.zeros((100, 100, 3), np.uint8), Annotations.of([[40, 40, 60, 60]], [0])

    once = DatasetAugmenter([shift]).augment(*middle, "a", 0)[1].boxes
    twice = DatasetAugmenter([shift, shift]).augment(*middle, "a", 0)[1].boxes

    assert np.abs((twice - once) - (once - middle[1].boxes)).max() > 0.5


def test_a_step_is_taken_as_often_as_its_probability_says_and_named():
    augmenter = DatasetAugmenter([{"step": "flip", "probability": 0.3}, {"step": "gamma"}])
    image = np.array([[[20] * 3, [220] * 3]], np.uint8)

    drawn = [augmenter.steps_drawn(f"image-{n}", 0) for n in range(1000)]
    pictures = [augmenter.augment(image, Annotations.empty(), f"image-{n}", 0)[0] for n in range(1000)]

    # Four standard deviations of a binomial are 0.058.
    assert np.mean(["flip" in names for names in drawn]) == pytest.approx(0.3, abs=0.058)
    assert all(names[-1] == "gamma" for names in drawn)
    assert all(("flip" in n) == (p[0, 0, 0] > p[0, 1, 0]) for n, p in zip(drawn, pictures, strict=True))


def test_draws_do_not_repeat_from_epoch_to_epoch_or_image_to_image():
    augmenter = DatasetAugmenter([{"step": "flip", "probability": 0.5}])
    taken = np.array([[len(augmenter.steps_drawn(f"{n}", epoch)) for n in range(50)] for epoch in range(50)])

    # Four and a half standard deviations of a mean of 50 coins, and of a correlation over 50.
    assert np.abs(taken.mean(axis=0) - 0.5).max() < 0.32
    assert np.abs(taken.mean(axis=1) - 0.5).max() < 0.32
    assert np.abs(np.corrcoef(taken)[np.triu_indices(50, 1)]).max() < 0.64


def test_mixing_asks_for_partners_by_position_inside_the_source():
    class Source:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return 7

        def __getitem__(self, position):
            self.asked.append(position)
            return PARTNERS[position % len(PARTNERS)]

    source = Source()
    for epoch in range(60):
        DatasetAugmenter([{"step": "mosaic"}]).augment(*labelled(0), "a", epoch, source)

    assert set(source.asked) == set(range(7))
    assert len(source.asked) == 180


def test_a_wrong_pipeline_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"there is no parameter 'probabilty'\. Did you mean 'probability'"):
        DatasetAugmenter([{"step": "flip", "probabilty": 0.5}])
