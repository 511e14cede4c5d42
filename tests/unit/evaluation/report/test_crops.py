import base64
import io

import numpy as np
from PIL import Image

from retrain.evaluation.report.crops import FOUND, TRUE, cut_out


def picture(crop):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(crop.partition(",")[2]))))


def near(colour, pixel):
    return np.abs(np.asarray(colour, dtype=int) - pixel.astype(int)).max() < 70


def test_a_crop_shows_the_boxes_where_they_are():
    image = np.zeros((200, 200, 3), dtype=np.uint8)
    image[50:100, 50:100] = 255

    found = picture(
        cut_out(image, (50, 50, 100, 100), [((50, 50, 100, 100), TRUE), ((60, 60, 90, 90), FOUND)])
    )

    assert found.shape == (220, 220, 3)
    # 110 pixels of the image are shown in 220: 20 and 110 left and right of the object's edges.
    assert near((255, 255, 255), found[70, 70])
    assert near(TRUE, found[110, 59])
    assert near(FOUND, found[110, 79])
    assert near((0, 0, 0), found[20, 20])


def test_a_crop_at_the_edge_of_an_image_keeps_its_box_in_the_middle():
    image = np.full((100, 100, 3), 255, dtype=np.uint8)

    found = picture(cut_out(image, (-10, 80, 20, 110), [((-10, 80, 20, 110), FOUND)]))

    assert near((120, 120, 120), found[110, 10])
    assert near((120, 120, 120), found[210, 110])
    assert near((255, 255, 255), found[90, 130])
