"""What every augmentation step is: strictly checked parameters and a change to a scene.

Parameters are declared once, as fields; their docstrings and bounds are the documentation and the check alike.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from retrain.dataset.augmentation.scene import Draws, RgbImage, Scene


@dataclass(frozen=True)
class Within:
    """Bounds of a number, or of both ends of a span, themselves included."""

    low: float
    high: float

    def check(self, value: Any) -> Any:
        if not all(
            self.low <= number <= self.high for number in (value if isinstance(value, tuple) else (value,))
        ):
            raise ValueError(f"must be within {self.low:g} and {self.high:g}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def _no_switch(value: Any) -> Any:
    # Python counts True as 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects no TypeError
    return value


def _ascending(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError("must be [low, high] with low <= high")
    return span


Number = Annotated[float, BeforeValidator(_no_switch)]
Whole = Annotated[int, Field(strict=True)]
Span = Annotated[tuple[Number, Number], AfterValidator(_ascending)]
"""A value is drawn evenly between the two."""
WholeSpan = Annotated[tuple[Whole, Whole], AfterValidator(_ascending)]
"""A whole number is drawn evenly, both ends included."""
Fraction = Annotated[Number, Within(0, 1)]
GreyLevel = Annotated[Whole, Within(0, 255)]


class Step(BaseModel, ABC):
    """One step of a pipeline. The first line of a step's docstring is its summary in `describe`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )
    name: ClassVar[str]
    needs_partners: ClassVar[bool] = False

    probability: Fraction = 1.0
    """Chance that the step is taken."""

    @abstractmethod
    def apply(self, scene: Scene, draws: Draws) -> Scene:
        """The changed scene; the given one and its arrays stay as they are."""


class PixelStep(Step):
    """A step that moves nothing: boxes stay as they are."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        return scene.with_image(self.alter(scene.image, draws))

    @abstractmethod
    def alter(self, image: RgbImage, draws: Draws) -> RgbImage:
        """Other pixels of the same shape and type; `image` is not written to."""


class MovingStep(Step):
    """A step that moves objects, so that some may leave the picture."""

    min_visible: Fraction = 0.25
    """An object is dropped when less of it than this is left, counted from the original picture; or under 1 px."""
