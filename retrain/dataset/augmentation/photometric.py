"""Steps that change colour and sharpness and move nothing."""

from typing import Annotated, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from retrain.dataset.augmentation.scene import Draws, RgbImage
from retrain.dataset.augmentation.step import PixelStep, Span, Whole, Within

_LEVELS = np.arange(256, dtype=np.float64)


class Hsv(PixelStep):
    """Turns the hue, and scales saturation and brightness."""

    name: ClassVar = "hsv"

    hue_deg: Annotated[Span, Within(-180, 180)] = (-5.0, 5.0)
    """Degrees on the colour wheel."""
    saturation: Annotated[Span, Within(0, 4)] = (0.6, 1.4)
    """Factor; 0 is grey."""
    value: Annotated[Span, Within(0, 4)] = (0.7, 1.3)
    """Factor; 0 is black."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        turn, saturation, value = map(draws.uniform, (self.hue_deg, self.saturation, self.value))
        if (turn, saturation, value) == (0.0, 1.0, 1.0):
            # There and back again through 8-bit HSV loses up to two levels.
            return image
        hue = np.round(_LEVELS + turn * 256 / 360) % 256
        table = np.stack(
            [hue.astype(np.uint8), _table(_LEVELS * saturation), _table(_LEVELS * value)], axis=1
        )
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        changed: RgbImage = cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB_FULL)
        return changed


class BrightnessContrast(PixelStep):
    """Makes the image brighter or darker, and its differences larger or smaller about middle grey."""

    name: ClassVar = "brightness_contrast"

    brightness: Annotated[Span, Within(-1, 1)] = (-0.15, 0.15)
    """Added, as a share of white."""
    contrast: Annotated[Span, Within(0, 4)] = (0.8, 1.2)
    """Factor of the distance to middle grey; 0 is one even grey."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        added, factor = draws.uniform(self.brightness) * 255, draws.uniform(self.contrast)
        return _looked_up(image, (_LEVELS - 127.5) * factor + 127.5 + added)


class Gamma(PixelStep):
    """Bends the tone curve: black and white stay, what lies between gets darker or brighter."""

    name: ClassVar = "gamma"

    gamma: Annotated[Span, Within(0.1, 10)] = (0.7, 1.5)
    """Exponent; above 1 is darker."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        return _looked_up(image, 255 * (_LEVELS / 255) ** draws.uniform(self.gamma))


class WhiteBalance(PixelStep):
    """Tints the image, as a camera that misjudges the light."""

    name: ClassVar = "white_balance"

    gain: Annotated[Span, Within(0.2, 5)] = (0.85, 1.15)
    """Factor of red and, drawn separately, of blue; green stays."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        gains = np.array([draws.uniform(self.gain), 1.0, draws.uniform(self.gain)])
        return _looked_up(image, _LEVELS[:, None] * gains)


class Greyscale(PixelStep):
    """Takes colour away (ITU-R BT.601 luma), as a camera at night."""

    name: ClassVar = "greyscale"

    strength: Annotated[Span, Within(0, 1)] = (1.0, 1.0)
    """Share of the colour that is taken."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        strength = draws.uniform(self.strength)
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        mixed: RgbImage = cv2.addWeighted(image, 1 - strength, grey, strength, 0)
        return mixed


class Equalise(PixelStep):
    """Evens out brightness locally (CLAHE: Zuiderveld, 1994)."""

    name: ClassVar = "equalise"

    clip_limit: Annotated[Span, Within(1, 40)] = (1.0, 3.0)
    """How much a tile's contrast may grow."""
    tiles: Annotated[Whole, Within(1, 64)] = 8
    """Tiles along each side."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lightness = cv2.createCLAHE(draws.uniform(self.clip_limit), (self.tiles, self.tiles)).apply(
            lab[..., 0]
        )
        lab[..., 0] = lightness
        evened: RgbImage = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        return evened


class Blur(PixelStep):
    """Softens the image with a Gaussian, as a lens out of focus."""

    name: ClassVar = "blur"

    sigma_px: Annotated[Span, Within(0, 50)] = (0.3, 1.5)
    """Standard deviation in pixels."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        return blurred(image, draws.uniform(self.sigma_px))


class Sharpen(PixelStep):
    """Adds the difference to a blurred copy (unsharp masking), as a camera's own processing."""

    name: ClassVar = "sharpen"

    amount: Annotated[Span, Within(0, 5)] = (0.2, 0.8)
    """Share of the difference that is added."""
    sigma_px: Annotated[Span, Within(0.1, 50)] = (1.0, 1.0)
    """Standard deviation of the blurred copy, in pixels."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        amount, sigma = draws.uniform(self.amount), draws.uniform(self.sigma_px)
        sharper: RgbImage = cv2.addWeighted(image, 1 + amount, blurred(image, sigma), -amount, 0)
        return sharper


def blurred(image: RgbImage, sigma_px: float) -> RgbImage:
    """Gaussian of this standard deviation; 0 is no blur."""
    if sigma_px == 0:
        return image
    soft: RgbImage = cv2.GaussianBlur(image, (0, 0), sigma_px)
    return soft


def _table(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _looked_up(image: RgbImage, values: NDArray[np.float64]) -> RgbImage:
    """Every level replaced by `values[level]`, shape (256,) or one column per channel (256, 3)."""
    # A table row per level and a column per channel is a 1 x 256 picture of three channels to OpenCV.
    table = _table(values)
    replaced: RgbImage = cv2.LUT(image, table[None] if table.ndim == 2 else table)
    return replaced
