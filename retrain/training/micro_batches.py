"""A batch that does not fit into memory, trained on in parts whose gradients are summed.

The draws, the images of an optimizer step and its learning rate stay those of the whole batch. Not the same are the
statistics of normalisation layers, and that each part's loss is divided by what its own boxes amount to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from retrain.errors import OutOfMemory

Batch = dict[str, Any]
_OF_LABELS = ("batch_idx", "cls", "bboxes")


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """What training reads of a batch, in `count` parts of nearly as many images each, or of one image where fewer."""
    if count == 1:
        yield batch
        return
    first = 0
    for images in batch["img"].tensor_split(min(count, len(batch["img"]))):
        last = first + len(images)
        ours = (batch["batch_idx"] >= first) & (batch["batch_idx"] < last)
        labels = {key: batch[key][ours] for key in _OF_LABELS}
        yield {**labels, "batch_idx": labels["batch_idx"] - first, "img": images}
        first = last


def more_parts(count: int, images: int, told: str) -> int:
    """Twice as many.

    Args:
        images: that a process is given per batch.
        told: what did not fit.

    Raises:
        OutOfMemory: each part is one image already.
    """
    if count >= images:
        raise OutOfMemory(
            f"{told} Even one image at a time does not fit: lower image_size or take a smaller model."
        )
    return min(2 * count, images)


@contextmanager
def memory_errors(images: int, count: int) -> Iterator[None]:
    """Running out of memory, on a GPU or the CPU, becomes `OutOfMemory`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        # Not chained: the frames of the other would keep what they hold in memory.
        raise OutOfMemory(f"A batch of {images} images in {count} parts does not fit into memory.") from None
