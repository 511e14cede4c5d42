"""Batches of images and labels for training and validation, the same for the same job and epoch."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from retrain.errors import BadInput, ConfigError
from retrain.training.augmented_images import AugmentedImages
from retrain.training.balanced_sampler import BalancedSampler
from retrain.training.job import TrainingJob
from retrain.training.labelled_images import LabelledImages
from retrain.training.reproducible import epoch_seed, seed_everything
from retrain.training.ultralytics_parts import IterableSimpleNamespace, build_dataloader, get_cfg


class EpochLoader:
    """Batches of one epoch per iteration."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._prepare: Callable[[], None] | None = None

    def before_epoch(self, prepare: Callable[[], None]) -> None:
        """Run `prepare` right before the first batch of each epoch."""
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._prepare is not None:
            self._prepare()
        yield from self.loader


class DetectionData:
    """Train and validation loaders of one job.

    Args:
        job: whose data.
        device: where batches go, `cpu` or `cuda`.
        rank: of this process, given and not read from the environment, where Lightning and Ultralytics disagree.
        processes: that train together; each is given its part of a balanced epoch.
    """

    def __init__(self, job: TrainingJob, device: str, rank: int = 0, processes: int = 1) -> None:
        request = job.request
        self.arguments = trainer_arguments(job)
        self.description = {
            "names": dict(enumerate(request.classes)),
            "nc": len(request.classes),
            "channels": 3,
            "val": str(request.val_data),
        }
        self._request, self._device, self._rank = request, device, rank
        train = self._dataset(request.train_data, augment=True)
        val = self._dataset((request.val_data,), augment=False)
        self.images = len(train)
        self.train = EpochLoader(self._loader(train, request.batch_size, shuffle=True))
        self.val = EpochLoader(self._loader(val, min(request.batch_size * 2, len(val)), shuffle=False))
        self._sampler = self._balanced(processes) if request.sampling == "balanced" else None
        self._check()

    def start_epoch(self, epoch: int) -> None:
        """Make the next pass over `train` that of `epoch` (from 0), whatever happened before it."""
        loader, dataset = self.train.loader, self.train.loader.dataset
        seed = epoch_seed(self._request.seed, epoch, self._rank)
        seed_everything(seed)
        loader.generator.manual_seed(seed)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        if self._request.close_mosaic and epoch >= self._request.epochs - self._request.close_mosaic:
            dataset.mosaic = False
            dataset.close_mosaic(hyp=copy(self.arguments))
        dataset.epoch = epoch
        if dataset.cache != "ram":
            # Without the image cache, mosaic draws from the images seen last: a state no checkpoint holds.
            dataset.buffer.clear()
            dataset.ims = [None] * dataset.ni
        # The loader keeps its iterator, and with it the old order and the workers' old settings.
        loader.reset()

    def _dataset(self, places: Sequence[Path], *, augment: bool) -> LabelledImages:
        request = self._request
        settings = {
            "img_path": [str(place if place.is_file() else place / "images") for place in places],
            "imgsz": request.image_size,
            "batch_size": request.batch_size if augment else request.batch_size * 2,
            "augment": augment,
            "hyp": self.arguments,
            "rect": not augment,
            "cache": "ram",
            "stride": 32,
            "pad": 0.0 if augment else 0.5,
            "task": "detect",
            "data": self.description,
        }
        if augment and request.augmentation_pipeline:
            return AugmentedImages(request.augmentation_pipeline, request.seed, **settings)
        return LabelledImages(**settings)

    def _loader(self, dataset: LabelledImages, batch: int, *, shuffle: bool) -> Any:
        workers = 0 if self._device == "cpu" else self._request.workers
        return build_dataloader(
            dataset, batch=batch, workers=workers, shuffle=shuffle, rank=-1, device=self._device
        )

    def _balanced(self, processes: int) -> BalancedSampler:
        loader, request = self.train.loader, self._request
        if loader.dataset.weights is None:
            raise ConfigError(
                "sampling is 'balanced', which needs a weight for every training image: give selection files "
                "written with weights as train_data, or set it to 'uniform'."
            )
        sampler = BalancedSampler(loader.dataset.weights, request.seed, self._rank, processes)
        # Ultralytics' loader takes no sampler; a torch loader allows no other batch sampler, but that one's source.
        loader.batch_sampler.sampler.sampler = sampler
        return sampler

    def _check(self) -> None:
        batch, labels = self._request.batch_size, self.train.loader.dataset.labels
        if not sum(len(label["cls"]) for label in labels):
            raise BadInput(
                f"None of the {self.images} training images has a label; there is nothing to learn."
            )
        if self.train.loader.batch_size != batch:
            raise ConfigError(f"batch_size is {batch}, but there are only {self.images} training images.")
        if self.images % batch == 1 and self._request.image_size < 64:
            raise ConfigError(
                f"{self.images} images in batches of {batch} leave one image; change batch_size."
            )


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
