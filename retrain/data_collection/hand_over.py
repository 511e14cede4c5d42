"""The last step on the hot path: a taken frame goes through the privacy hook and into the queue."""

import os
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from retrain.data_collection.frame_reader import FrameReader
from retrain.data_collection.queue import DataCollectionQueue
from retrain.data_collection.redaction import Redact, redacted
from retrain.data_collection.spool.offer import (
    ChannelOrder,
    Offer,
    decode_offer,
    encode_offer,
    image_bytes,
    marked,
)
from retrain.errors import BadInput

Image = bytes | NDArray[np.uint8]
_ORDERS = get_args(ChannelOrder)


class HandOver:
    """Puts taken frames into the queue; when `put` returns, they survive a kill."""

    def __init__(
        self, queue: DataCollectionQueue, reader: FrameReader, redact: Redact | None, *, checks: bool
    ) -> None:
        """Set up.

        Args:
            redact: sees every frame before anything of it is written.
            checks: find now, for milliseconds a frame, what is otherwise found when the record is read.
        """
        self._queue, self._reader, self._redact, self._checks = queue, reader, redact, checks

    def put(
        self, offer: Offer, path: str | os.PathLike[str] | None, image: Image | None, order: ChannelOrder
    ) -> None:
        """Write the frame with its image, which is a file or given in memory.

        Raises:
            BadInput: both or neither image, or one that cannot be used.
            Withheld: by the privacy hook.
            SpoolFull, Unavailable: the queue does not take it.
        """
        if (path is None) == (image is None):
            raise BadInput("Give either image_path or image.")
        if self._redact is not None:
            source = path if path is not None else image
            assert source is not None
            _check_order(order)
            image = redacted(self._redact, source, order, offer.prediction)
            path, order = None, "RGB"
        if self._checks:
            self._reader.check(decode_offer(encode_offer(offer)), path, image)
        if path is not None:
            offer.image = marked(path)
            self._queue.append(encode_offer(offer), file=path, file_bytes=offer.image.bytes)
        else:
            assert image is not None
            if type(image) is not bytes or not image:
                _check_order(order)
                image, offer.pixels = image_bytes(image, order)
            self._queue.append(encode_offer(offer), image)


def _check_order(order: str) -> None:
    if order not in _ORDERS:
        raise BadInput(f"The order of an image's channels is {' or '.join(_ORDERS)}, got {order!r}.")
