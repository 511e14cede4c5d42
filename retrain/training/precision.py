"""Which number format training calculates in, by what was asked for and what the device can do."""

import torch

from retrain.errors import ConfigError

# Lightning's names.
_LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def checked_precision(mixed_precision: bool | str, device: str) -> bool | str:
    """What was asked for, if the device can do it.

    Raises:
        ConfigError: it is none of True, False, `bf16` and `fp16`, or the CPU was asked for fp16.
    """
    if not isinstance(mixed_precision, bool) and mixed_precision not in {"bf16", "fp16"}:
        raise ConfigError(f"mixed_precision must be true, false, 'bf16' or 'fp16', got {mixed_precision!r}.")
    if mixed_precision == "fp16" and device == "cpu":
        raise ConfigError("mixed_precision 'fp16' needs a GPU; on the CPU use 'bf16' or false.")
    return mixed_precision


def precision_of(mixed_precision: bool | str, device: str) -> str:
    """`fp32`, `bf16` or `fp16`.

    True is bf16 where the device calculates in it, since that needs no loss scaling, and else fp16 with it.
    """
    if isinstance(mixed_precision, str):
        return mixed_precision
    if not mixed_precision:
        return "fp32"
    if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16"


def lightning_precision(precision: str) -> str:
    """Lightning's name of it."""
    return _LIGHTNING[precision]
