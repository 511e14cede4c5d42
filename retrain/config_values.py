"""The kinds of values that sections of the configuration are made of, and what every section has in common."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from retrain.errors import NotFound


def _no_switch(value: Any) -> Any:
    # Python counts True as 1. A strict float would refuse more: to YAML 1e-3, without a point, is a text.
    if isinstance(value, bool):
        raise ValueError(f"Input should be a number, got {value}")  # noqa: TRY004 - pydantic collects no TypeError
    return value


def _not_empty(value: Any) -> Any:
    # Path("") is the working directory, another one in each process.
    if value == "":
        raise ValueError("The path is empty; leave the key out for the default")
    return value


def _usable_pipeline(value: Any) -> Any:
    if not value:
        return value
    # Reading it takes OpenCV, which most commands do without.
    from retrain.dataset.augmentation.pipeline import read_pipeline

    # A ConfigError is a ValueError, and so one of pydantic's.
    read_pipeline(value)
    return value


def _usable_policy(path: Path) -> Path:
    from retrain.evaluation.policy import GatePolicy

    try:
        GatePolicy.read(path)
    except NotFound as error:
        raise ValueError(f"{error} Leave the key out for the two rules with evaluation.margin") from error
    return path


def _usable_batch_size(value: Any) -> Any:
    # One sentence for both kinds, which a union would make one problem each of.
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"Input should be a whole number of at least 1, or auto, got {value!r}")
    return value


Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_no_switch)]
Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Folder = Annotated[Path, BeforeValidator(_not_empty)]
Pipeline = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_usable_pipeline)]
PolicyFile = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_usable_policy)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Integer, Field(ge=1)]
Port = Annotated[Integer, Field(ge=1024, le=65535)]
BatchSize = Annotated[int | Literal["auto"], PlainValidator(_usable_batch_size)]
Seconds = Annotated[Number, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )
