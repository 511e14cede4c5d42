import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

from retrain.boxes import Annotations
from retrain.dataset.augmentation.pipeline import read_pipeline
from retrain.dataset.augmentation.scene import Draws, Scene

CLASSES = (4, 1, 2)
"""Class of the object painted in red, green and blue."""


def paint(width, height, boxes):
    """Filled rectangles on black, one per channel at most: they may overlap and can still be told apart."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, channel] = 255
    return image, Annotations.of([list(map(float, box)) for box in boxes], CLASSES[: len(boxes)])


@st.composite
def painted_scenes(draw, smallest=1, largest=90, side=4):
    width, height = draw(st.integers(smallest, largest)), draw(st.integers(smallest, largest))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        if width >= side and height >= side:
            x1, y1 = draw(st.integers(0, width - side)), draw(st.integers(0, height - side))
            boxes.append((x1, y1, draw(st.integers(x1 + side, width)), draw(st.integers(y1 + side, height))))
    return paint(width, height, boxes)


def run(settings, image, annotations, seed=0, partners=()):
    """One step with these settings, always taken."""
    (step,) = read_pipeline([settings])
    return step.apply(Scene.of(image, annotations, "test"), Draws(np.random.default_rng(seed), partners))


def textured(width, height, seed=0):
    """A colourful picture with objects of many sizes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))[:height, :width]
    low = rng.uniform(0, [width * 0.7, height * 0.7], (8, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, [width * 0.3, height * 0.3], (8, 2))], axis=1)
    return np.ascontiguousarray(image), Annotations.of(boxes, rng.integers(0, 5, 8))


def channel_of(class_index):
    return CLASSES.index(class_index)


def check_boxes_follow_pixels(scene, slack=1.5, level=128):
    """Every box is full of its object's colour, and outside all boxes there is none of it."""
    for channel, class_index in enumerate(CLASSES):
        here = scene.image[..., channel] >= level
        allowed = np.zeros_like(here)
        for x1, y1, x2, y2 in scene.boxes[scene.classes == class_index]:
            inner = here[
                max(int(np.ceil(y1 + slack)), 0) : max(int(np.floor(y2 - slack)), 0),
                max(int(np.ceil(x1 + slack)), 0) : max(int(np.floor(x2 - slack)), 0),
            ]
            assert inner.all()
            # A pixel of the object has its centre at most `slack` outside.
            rows, columns = np.ogrid[: here.shape[0], : here.shape[1]]
            inside_x = (columns + 0.5 >= x1 - slack) & (columns + 0.5 <= x2 + slack)
            allowed |= inside_x & (rows + 0.5 >= y1 - slack) & (rows + 0.5 <= y2 + slack)
        # An object of which less than a pixel is left has no box; its light can spread over two.
        stray = cv2.erode((here & ~allowed).astype(np.uint8), np.ones((3, 3)), borderType=0, borderValue=0)
        assert not stray.any()


@pytest.fixture(scope="session")
def scenes():
    return painted_scenes


@pytest.fixture(scope="session")
def painted():
    return paint


@pytest.fixture(scope="session")
def apply():
    return run


@pytest.fixture(scope="session")
def texture():
    return textured


@pytest.fixture(scope="session")
def channel():
    return channel_of


@pytest.fixture(scope="session")
def boxes_follow_pixels():
    return check_boxes_follow_pixels
