"""Privacy: a hook that blurs, or withholds, a frame before anything of it is written anywhere."""

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from retrain.data_collection.spool.offer import ChannelOrder
from retrain.errors import BadInput

Pixels = NDArray[np.uint8]
Redact = Callable[[Pixels, Any], Pixels | None]
"""Gets RGB pixels of shape (height, width, 3) and the prediction; returns what may be kept, or None: keep nothing."""


class Withheld(BadInput):
    """The hook did not let the frame pass."""


def redacted(
    hook: Redact, image: str | os.PathLike[str] | bytes | Pixels, order: ChannelOrder, prediction: Any
) -> Pixels:
    """What the hook lets pass. If it fails, nothing is kept: its error is the caller's to see.

    Raises:
        Withheld: it returned None.
        BadInput: the image cannot be decoded, or the hook returned something else than pixels of the same size.
    """
    pixels = _pixels(image, order)
    kept = hook(pixels.copy(), prediction)
    if kept is None:
        raise Withheld("withheld by the privacy hook")
    if not isinstance(kept, np.ndarray) or kept.dtype != np.uint8 or kept.shape != pixels.shape:
        raise BadInput(
            f"The privacy hook must return uint8 pixels of shape {pixels.shape} or None, got "
            f"{getattr(kept, 'dtype', type(kept).__name__)} {getattr(kept, 'shape', '')}; nothing was kept."
        )
    return kept


def _pixels(image: str | os.PathLike[str] | bytes | Pixels, order: ChannelOrder) -> Pixels:
    if isinstance(image, np.ndarray):
        return image[:, :, ::-1] if order == "BGR" else image
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    try:
        with Image.open(source) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except Exception as error:
        raise BadInput(f"The image cannot be decoded for the privacy hook: {error}.") from error
