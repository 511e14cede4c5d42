import io

import numpy as np
from PIL import Image

from tasks.annotation import decode


def test_a_picture_turned_by_exif_is_upright_for_the_models_that_label_it():
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned by 90 degrees
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, quality=95)

    upright = decode(buffer.getvalue())

    assert upright.shape == (40, 20, 3)
    assert upright[:15].mean() < 20
    assert upright[25:].mean() > 235
