"""The smallest world a cycle can run in: squares on noise, a champion trained for one epoch, waiting samples."""

import io
import time

import numpy as np
from PIL import Image

from flows.first_champion import first_champion_flow
from retrain.boxes import Annotations
from retrain.data_collection.collector import DataCollectionService

SIZE = 64
WAITING = 40


def small_config(**sections):
    """Settings of the small world; sections given replace single keys."""
    config = {
        "model": {"name": "squares", "classes": ["even", "odd"]},
        "annotation": {"require_review": False},
        "dataset": {"splits": {"train": 0.4, "val": 0.3, "test": 0.3}},
        # A process of its own takes longer to start than these trainings take.
        "training": {
            "image_size": SIZE,
            "batch_size": 8,
            "epochs": 1,
            "fine_tune_epochs": 2,
            "supervised": False,
        },
        "data_collection": {"strategy": "all", "retrain_threshold": WAITING},
        "evaluation": {"resamples": 200, "thresholds": "f1"},
        "serving": {"poll_s": 0.2, "ack_timeout_s": 30},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    return config


def picture(number):
    """A frame with one bright square, and where it is."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    x, y = rng.integers(4, SIZE - 28, 2)
    pixels[y : y + 24, x : x + 24] = 220
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), Annotations.of([[x, y, x + 24, y + 24]], [number % 2])


def make_world(resources):
    """Dataset v1.0.0, the first champion, and samples that wait."""
    commit_first_version(resources)
    first_champion_flow("v1.0.0", resources.config)
    collect(resources, first=100)


def commit_first_version(resources):
    frames = [picture(number) for number in range(48)]
    draft = resources.datasets.create_version(
        "v1.0.0", splits=resources.config.dataset.splits.model_dump(), classes=["even", "odd"]
    )
    resources.datasets.add_images(
        draft,
        [data for data, _ in frames],
        [boxes for _, boxes in frames],
        groups=[f"old-{number // 2}" for number in range(48)],
        sources=["seed"] * 48,
        metadata=[{}] * 48,
    )
    resources.datasets.commit("v1.0.0")


def collect(resources, first):
    """Store as many samples as start a cycle."""
    service = DataCollectionService(
        resources.home,
        "all",
        blobs=resources.sample_blobs,
        state=resources.state,
        model="squares",
        background=False,
    )
    for number in range(first, first + WAITING):
        data, boxes = picture(number)
        prediction = {"boxes": boxes.boxes.tolist(), "classes": boxes.classes.tolist(), "scores": [0.5]}
        decision = service.collect(
            image=data,
            prediction=prediction,
            release="0" * 64,
            metadata={"camera_id": "c", "recording": f"new-{number // 2}", "captured_at": time.time()},
        )
        assert decision.taken, decision
    service.flush()
