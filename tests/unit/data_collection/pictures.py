"""Pictures that look like nothing else, and copies of them, for tests of near-duplicates."""

import io

import numpy as np
from PIL import Image

SIDE = 128


def picture(number: int) -> Image.Image:
    """Soft coloured patches; those of another number are far from it for every rule."""
    patches = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """Encoded bytes; another quality gives other bytes of the same picture."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def changed(image: Image.Image, levels: int = 24) -> Image.Image:
    """The picture with one small spot so many grey levels darker: another scene to a close look, not to the hashes."""
    pixels = np.asarray(image).astype(int)
    pixels[60:68, 60:68] = np.clip(pixels[60:68, 60:68] - levels, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))
