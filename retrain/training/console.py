"""Keeps the libraries off the console."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from retrain.training.ultralytics_parts import LOGGER


@contextmanager
def quiet() -> Iterator[None]:
    """Neither library talks on the console while a job runs; errors are raised, not logged."""
    loggers = [LOGGER, logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
