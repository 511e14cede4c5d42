"""Batches of images and labels for training and validation, the same for the same job and epoch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from retrain.boxes import FloatArray
from retrain.errors import BadInput, ConfigError
from retrain.training.augmented_images import AugmentedImages
from retrain.training.drawn_images import DrawnImages
from retrain.training.draws import EpochBatches, check_shared
from retrain.training.job import TrainingJob
from retrain.training.labelled_images import LabelledImages
from retrain.training.memory import free_bytes
from retrain.training.ultralytics_parts import IterableSimpleNamespace, get_cfg


class EpochLoader:
    """Batches of one epoch per iteration; those trained on before a resume come as empty mappings, unread.

    Lightning validates after a certain number of batches, so that they have to be counted.
    """

    def __init__(self, loader: DataLoader[Any], batches: EpochBatches) -> None:
        self.loader, self._batches = loader, batches
        self._position: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def follow(self, position: Callable[[], tuple[int, int]]) -> None:
        """Ask for epoch and first batch (both from 0) whenever an epoch begins."""
        self._position = position

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, first = self._position()
        self._batches.start(epoch, first)
        yield from ({} for _ in range(first))
        yield from self.loader


class DetectionData:
    """Train and validation loaders of one job.

    Args:
        job: whose data.
        device: where batches go, `cpu` or `cuda`.
        rank: of this process, given and not read from the environment, where Lightning and Ultralytics disagree.
        processes: that train together; each is given its part of every batch.
        on_progress: called for each image that is read.
        cache: keep images in memory as the request says; without, each is decoded when it is drawn.
    """

    def __init__(
        self,
        job: TrainingJob,
        device: str,
        rank: int = 0,
        processes: int = 1,
        on_progress: Callable[[], None] = lambda: None,
        *,
        cache: bool = True,
    ) -> None:
        request = job.request
        self._cache = "ram" if cache and request.cache != "none" else False
        self._processes = processes
        check_shared(request.batch_size, processes)
        self.arguments = trainer_arguments(job)
        self.classes = request.classes
        self.description = {
            "names": dict(enumerate(request.classes)),
            "nc": len(request.classes),
            "channels": 3,
            "val": str(request.val_data),
        }
        self._request, self._device, self._on_progress = request, device, on_progress
        self.validation_images = self._dataset((request.val_data,), augment=False)
        training = self._dataset(request.train_data, augment=True)
        self.training_images, self.images = training, len(training)
        self._check()
        self.batches = EpochBatches(
            self.images, request.batch_size, request.seed, self._weights(), rank, processes
        )
        closing = request.epochs - request.close_mosaic
        closing = max(closing, 0) if request.close_mosaic else request.epochs
        self.drawn = DrawnImages(training, self.arguments, closing)
        self.train = EpochLoader(self._loader(self.drawn, self.batches, prefetch=4), self.batches)
        # As Ultralytics scales it by the images that one step sums.
        self.weight_decay = request.weight_decay * request.batch_size * job.accumulate / self.arguments.nbs
        size = min(request.batch_size * 2, len(self.validation_images))
        order = range(len(self.validation_images))
        whole = [order[start : start + size] for start in range(0, len(order), size)]
        self.validation_batches = len(whole)
        # By whole batches, because the images of one are padded to a common shape. Lightning wants at least one.
        self.val = self._loader(self.validation_images, whole[rank::processes] or whole[:1], prefetch=2)

    def names(self, epoch: int, batch: int) -> list[str]:
        """Files of the images in this process's part of a training batch."""
        return [str(self.training_images.im_files[index]) for index in self.batches.indices(epoch, batch)]

    def plain_images(self) -> LabelledImages:
        """The training images without any augmentation, in squares of the image size, uncached."""
        settings = self._settings(self._request.train_data, augment=False)
        return LabelledImages(**{**settings, "rect": False, "pad": 0.0, "cache": False})

    @property
    def cache(self) -> str:
        """`ram` if all images are kept in memory, else `none`."""
        kept = self.training_images.cache == self.validation_images.cache == "ram"
        return "ram" if kept else "none"

    def _dataset(self, places: Sequence[Path], *, augment: bool) -> LabelledImages:
        request, settings = self._request, self._settings(places, augment=augment)
        if augment and request.augmentation_pipeline:
            return AugmentedImages(request.augmentation_pipeline, request.seed, **settings)
        return LabelledImages(**settings)

    def _settings(self, places: Sequence[Path], *, augment: bool) -> dict[str, Any]:
        request = self._request
        return {
            "img_path": [str(place if place.is_file() else place / "images") for place in places],
            "imgsz": request.image_size,
            "batch_size": request.batch_size if augment else request.batch_size * 2,
            "augment": augment,
            "hyp": self.arguments,
            "rect": not augment,
            "cache": self._cache,
            "cache_limit": cache_limit(request.cache, self._processes) if self._cache else None,
            "stride": 32,
            "pad": 0.0 if augment else 0.5,
            "task": "detect",
            "data": self.description,
            "on_progress": self._on_progress,
        }

    def _loader(self, dataset: Any, batches: Any, prefetch: int) -> DataLoader[Any]:
        workers = min(self._request.workers, len(batches))
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=LabelledImages.collate_fn,
            pin_memory=self._device != "cpu",
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            # Its own, so that starting an epoch draws nothing from the process's.
            generator=torch.Generator(),
        )

    def _weights(self) -> FloatArray | None:
        if self._request.sampling != "balanced":
            return None
        weights = self.training_images.weights
        if weights is None:
            raise ConfigError(
                "sampling is 'balanced', which needs a weight for every training image: give selection files "
                "written with weights as train_data, or set it to 'uniform'."
            )
        return weights

    def _check(self) -> None:
        batch = self._request.batch_size
        if not sum(len(label["cls"]) for label in self.training_images.labels):
            raise BadInput(
                f"None of the {self.images} training images has a label; there is nothing to learn."
            )
        if self.images < batch:
            raise ConfigError(f"batch_size is {batch}, but there are only {self.images} training images.")
        if self.images % batch == 1 and self._request.image_size < 64:
            raise ConfigError(
                f"{self.images} images in batches of {batch} leave one image; change batch_size."
            )


def cache_limit(cache: str, processes: int) -> int | None:
    """Bytes that the images of one split may take in each process; None is any number.

    Half of what is free is left to whatever else runs.
    """
    return free_bytes("cpu") // 2 // processes if cache == "auto" else None


def trainer_arguments(job: TrainingJob) -> IterableSimpleNamespace:
    """Ultralytics' namespace of settings, every relevant one pinned by the request."""
    request = job.request
    return get_cfg(
        overrides={
            "task": "detect",
            "mode": "train",
            "model": f"{request.model}.yaml",
            "epochs": request.epochs,
            "batch": request.batch_size,
            "nbs": request.batch_size * job.accumulate,
            "imgsz": request.image_size,
            "optimizer": request.optimizer,
            "lr0": request.learning_rate,
            "lrf": request.final_lr_fraction,
            "momentum": request.momentum,
            "cos_lr": request.scheduler == "cosine",
            "weight_decay": request.weight_decay,
            "warmup_epochs": request.warmup_epochs,
            "warmup_bias_lr": request.warmup_bias_lr,
            "close_mosaic": request.close_mosaic,
            "seed": request.seed,
            "workers": request.workers,
            "deterministic": False,  # asked for by ourselves; here it would only log about the image cache
            "plots": False,
            "verbose": False,
            "amp": False,
            **request.augment,
        }
    )
