"""What stands between the scene and the file: weather, darkness, the sensor, movement and compression.

Nothing moves, so boxes stay as they are. Lengths are shares of the image height where the effect belongs to the scene,
and pixels where it belongs to the camera.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from retrain.boxes import FloatArray
from retrain.dataset.augmentation.scene import Draws, RgbImage
from retrain.dataset.augmentation.step import Fraction, PixelStep, Span, WholeSpan, Within

_SUBPIXEL_BITS = 8
_BAND_VALUES = 2**16
_GAMMA = 2.2
_LEVELS = np.arange(256) / 255

GreyImage = NDArray[np.uint8]
FloatImage = NDArray[np.float32]


class Fog(PixelStep):
    """Fades the scene into light grey (Koschmieder's law at one distance), thicker in some places."""

    name: ClassVar = "fog"

    density: Annotated[Span, Within(0, 1)] = (0.2, 0.6)
    """Share of light that is the fog's."""
    level: Annotated[Span, Within(0, 255)] = (200.0, 235.0)
    """Grey level of the fog."""
    patchiness: Fraction = 0.4
    """0 is even; 1 leaves the clearest places free of fog."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        density, level = draws.uniform(self.density), draws.uniform(self.level)
        share = density * (1 - self.patchiness * _clouds(draws, *image.shape[:2]))
        return _blended(image, share, level)


class Rain(PixelStep):
    """Draws the streaks of falling drops."""

    name: ClassVar = "rain"

    density: Annotated[Span, Within(0, 20)] = (0.5, 1.5)
    """Streaks per 1000 pixels."""
    length: Annotated[Span, Within(0, 1)] = (0.02, 0.06)
    """Share of the image height, drawn for each streak."""
    angle_deg: Annotated[Span, Within(-80, 80)] = (-15.0, 15.0)
    """Degrees from the vertical, one for all streaks."""
    opacity: Annotated[Span, Within(0, 1)] = (0.2, 0.5)
    """Share of a streak's light that hides what is behind."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        height, width = image.shape[:2]
        count = draws.rng.poisson(draws.uniform(self.density) * height * width / 1000)
        angle, opacity = math.radians(draws.uniform(self.angle_deg)), draws.uniform(self.opacity)
        lengths = draws.rng.uniform(*self.length, size=count) * height
        # From above the picture: a streak may begin there.
        start = draws.rng.uniform([0, -self.length[1] * height], [width, height], size=(count, 2))
        end = start + lengths[:, None] * [math.sin(angle), math.cos(angle)]
        mask = np.zeros((height, width), dtype=np.uint8)
        lines = _fixed_point(np.stack([start, end], axis=1))
        cv2.polylines(mask, list(lines), False, 255, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return _blended(image, _share_of(mask) * opacity, 220.0)


class Snow(PixelStep):
    """Draws falling flakes."""

    name: ClassVar = "snow"

    density: Annotated[Span, Within(0, 10)] = (0.3, 1.0)
    """Flakes per 1000 pixels."""
    radius: Annotated[Span, Within(0, 0.1)] = (0.001, 0.006)
    """Share of the image height, drawn for each flake; small ones are more frequent."""
    opacity: Annotated[Span, Within(0, 1)] = (0.6, 0.95)
    """Share of a flake's light that hides what is behind."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        height, width = image.shape[:2]
        count = draws.rng.poisson(draws.uniform(self.density) * height * width / 1000)
        opacity, (low, high) = draws.uniform(self.opacity), self.radius
        radii = (low + (high - low) * draws.rng.random(count) ** 3) * height
        mask = np.zeros((height, width), dtype=np.uint8)
        centres = _fixed_point(draws.rng.uniform(0, [width, height], size=(count, 2)))
        for centre, radius in zip(centres.tolist(), _fixed_point(radii).tolist(), strict=True):
            cv2.circle(mask, centre, radius, 255, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
        # Flakes are out of focus, the larger (nearer) the more; one blur of their middle size stands for all.
        soft = cv2.GaussianBlur(mask, (0, 0), max(height * (low + high) / 4, 0.3))
        return _blended(image, _share_of(soft) * opacity, 250.0)


class LowLight(PixelStep):
    """Takes light away as a short exposure does: in linear light, and noisy from counting few photons.

    Gaussian of variance proportional to the light, as Poisson counts have (Foi et al., 2008).
    """

    name: ClassVar = "low_light"

    exposure: Annotated[Span, Within(0.001, 1)] = (0.1, 0.4)
    """Factor of the light."""
    photons: Annotated[Span, Within(1, 1_000_000)] = (1000.0, 4000.0)
    """Photons that white was before; fewer is noisier."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        light = _LEVELS**_GAMMA * draws.uniform(self.exposure)
        deviation = np.sqrt(light / draws.uniform(self.photons))

        def darkened(band: RgbImage) -> RgbImage:
            seen = np.maximum(_looked_up(band, light) + _noise(band, deviation, draws), 0.0)
            return np.asarray(cv2.convertScaleAbs(cv2.pow(seen, 1 / _GAMMA), alpha=255))

        return _in_bands(image, darkened)


class SensorNoise(PixelStep):
    """Adds the noise of a camera: of its electronics, the same everywhere, and of photons, more where it is bright.

    Gaussian of variance a x + b at brightness x (Foi et al., 2008), independent in each pixel and channel.
    """

    name: ClassVar = "sensor_noise"

    read_levels: Annotated[Span, Within(0, 100)] = (1.0, 4.0)
    """Standard deviation in black, in grey levels of 255."""
    shot_levels: Annotated[Span, Within(0, 100)] = (1.0, 6.0)
    """Standard deviation that photons add in white, in grey levels of 255."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        read, shot = draws.uniform(self.read_levels), draws.uniform(self.shot_levels)
        deviation = np.sqrt(read**2 + shot**2 * _LEVELS)
        return _in_bands(image, lambda band: cv2.add(band, _noise(band, deviation, draws), dtype=cv2.CV_8U))


class MotionBlur(PixelStep):
    """Smears along a straight line through each pixel, as a camera or scene that moves while the shutter is open."""

    name: ClassVar = "motion_blur"

    length_px: Annotated[Span, Within(0, 200)] = (2.0, 9.0)
    """How far things move meanwhile, in pixels."""
    angle_deg: Annotated[Span, Within(-180, 180)] = (-180.0, 180.0)
    """Degrees from the horizontal, positive is clockwise."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        length, angle = draws.uniform(self.length_px), math.radians(draws.uniform(self.angle_deg))
        smeared: RgbImage = cv2.filter2D(
            image, -1, _line_kernel(length, angle), borderType=cv2.BORDER_REPLICATE
        )
        return smeared


class Jpeg(PixelStep):
    """Leaves the marks of strong JPEG compression."""

    name: ClassVar = "jpeg"

    quality: Annotated[WholeSpan, Within(1, 100)] = (30, 80)
    """As libjpeg counts it; lower is worse."""

    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        options = [cv2.IMWRITE_JPEG_QUALITY, draws.whole(self.quality)]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        decoded: RgbImage = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return decoded


@cache
def _normal_quantiles() -> FloatImage:
    quantiles: FloatImage = ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
    return quantiles


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatImage:
    """Standard normal draws in 65536 steps: looked up, as numpy's own take 3.5 times as long."""
    # Little-endian by name: the same draws on every machine.
    uniform = np.frombuffer(rng.bytes(2 * math.prod(shape)), dtype="<u2")
    return _normal_quantiles().take(uniform).reshape(shape)


def _in_bands(image: RgbImage, change: Callable[[RgbImage], RgbImage]) -> RgbImage:
    """Changed some rows at a time: intermediate results stay in the cache, which halves the time."""
    changed, rows = np.empty_like(image), max(_BAND_VALUES // (3 * image.shape[1]), 1)
    for top in range(0, len(image), rows):
        band = image[top : top + rows]
        changed[top : top + rows] = change(band).reshape(band.shape)
    return changed


def _looked_up(image: RgbImage, values: FloatArray) -> FloatImage:
    """`values[level]` of every pixel and channel."""
    found: FloatImage = cv2.LUT(image, values.astype(np.float32)).reshape(image.shape)
    return found


def _noise(image: RgbImage, deviation: FloatArray, draws: Draws) -> FloatImage:
    """A normal draw for each pixel and channel, with the standard deviation of its level."""
    noise = _looked_up(image, deviation)
    noise *= _normal(draws.rng, image.shape)
    return noise


def _clouds(draws: Draws, height: int, width: int) -> FloatImage:
    """Slow changes over the picture, from 0 to 1, shape (height, width)."""
    coarse = draws.rng.random((4, 6), dtype=np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    clouds: FloatImage = np.clip(fine, 0.0, 1.0).reshape(height, width)
    return clouds


def _share_of(mask: GreyImage) -> FloatImage:
    return mask.astype(np.float32) / np.float32(255)


def _blended(image: RgbImage, share: FloatImage, level: float) -> RgbImage:
    """`share` of an even grey `level` over the image, shape (height, width)."""
    kept = (1 - share).astype(np.float32)[..., None]
    return _rounded(image * kept + level * (1 - kept))


def _rounded(values: FloatImage) -> RgbImage:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _fixed_point(pixels: FloatArray) -> NDArray[np.int32]:
    """As OpenCV's drawing functions take fractions of a pixel."""
    return np.asarray(np.round(pixels * 2**_SUBPIXEL_BITS), dtype=np.int32)


def _line_kernel(length_px: float, angle: float) -> FloatImage:
    """Bilinear weights of the places along a line through the middle of an odd square; sums to 1."""
    # OpenCV's own lines are wider than a pixel and not symmetrical: the picture would drift off its boxes.
    count, reach = 4 * math.ceil(length_px) + 1, math.ceil(length_px / 2)
    along = ((np.arange(count) + 0.5) / count - 0.5) * length_px
    cells = np.arange(-reach, reach + 1)[:, None]
    columns = np.maximum(1 - np.abs(cells - along * math.cos(angle)), 0.0)
    rows = np.maximum(1 - np.abs(cells - along * math.sin(angle)), 0.0)
    weights = rows @ columns.T
    kernel: FloatImage = (weights / weights.sum()).astype(np.float32)
    return kernel
