"""Images and labels for training, read strictly and without writing anything beside them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from retrain.errors import BadInput, ConfigError, NotFound
from retrain.training.job import TrainingJob
from retrain.training.reproducible import epoch_seed, seed_everything
from retrain.training.ultralytics_parts import (
    IMG_FORMATS,
    IterableSimpleNamespace,
    YOLODataset,
    build_dataloader,
    exif_size,
    get_cfg,
)

_READERS = 4


class LabelledImages(YOLODataset):
    """Ultralytics' dataset over `<folder>/images`, with labels in `<folder>/labels`.

    Its own reader drops damaged files with a log line, repairs JPEGs in place and leaves a cache file beside the
    labels. This one writes nothing and raises for what it cannot use. An image without a label file has no objects.
    """

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """Image paths, folder by folder, ordered by name only, so that the place of the data does not matter."""
        found: list[Path] = []
        for folder in map(Path, img_path):
            if not folder.is_dir():
                raise NotFound(f"{folder} does not exist; a data folder holds images/ and labels/.")
            images = [path for path in folder.iterdir() if path.suffix[1:].lower() in IMG_FORMATS]
            found += sorted(images, key=lambda path: path.name)
        if not found:
            raise BadInput(f"There is no image in {', '.join(img_path)}.")
        return [str(path) for path in found]

    def get_labels(self) -> list[dict[str, Any]]:
        return [self._entry(Path(path)) for path in self.im_files]

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().load_image(i, *args, **kwargs)
        except FileNotFoundError as error:
            raise BadInput(f"{self.im_files[i]} is missing or cut short; fetch it again.") from error

    def cache_images(self) -> None:
        """Decode all images now, without the progress bar that cannot be switched off."""
        with ThreadPoolExecutor(_READERS) as readers:
            loaded = list(readers.map(self.load_image, range(self.ni)))
        self.im_hw0, self.im_hw = [item[1] for item in loaded], [item[2] for item in loaded]
        self.ims = self._ImageCache([item[0] for item in loaded])

    def _entry(self, path: Path) -> dict[str, Any]:
        rows = read_labels(path.parents[1] / "labels" / f"{path.stem}.txt", len(self.data["names"]))
        try:
            with Image.open(path) as image:
                width, height = exif_size(image)
        # Ultralytics replaces Image.open by one that looks for a HEIF plugin when nothing else can read the file.
        except (UnidentifiedImageError, ImportError, OSError) as error:
            raise BadInput(f"{path} cannot be read as an image ({error}).") from error
        return {
            "im_file": str(path),
            "shape": (height, width),
            "cls": rows[:, :1],
            "bboxes": rows[:, 1:],
            "segments": [],
            "keypoints": None,
            "normalized": True,
            "bbox_format": "xywh",
        }


def read_labels(path: Path, classes: int) -> NDArray[np.float32]:
    """Rows of class, centre x, centre y, width, height (fractions of the image), repeated rows dropped.

    Raises:
        BadInput: a row does not have five numbers, a class is not known or a box is outside the image.
    """
    if not path.is_file():
        return np.zeros((0, 5), dtype=np.float32)
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        return np.zeros((0, 5), dtype=np.float32)  # a background image: nothing to find is a label too
    try:
        rows = np.array(lines, dtype=np.float32).reshape(len(lines), -1)
    except ValueError as error:
        raise BadInput(f"{path} must hold rows of five numbers ({error}).") from error
    if rows.shape[1] != 5 or not np.isfinite(rows).all():
        raise BadInput(f"{path} must hold rows of five finite numbers.")
    unknown = (rows[:, 0] % 1 != 0) | (rows[:, 0] < 0) | (rows[:, 0] >= classes)
    if unknown.any():
        raise BadInput(f"{path} has class {rows[unknown][0, 0]:g}; known are 0 to {classes - 1}.")
    outside = (rows[:, 1:] < 0) | (rows[:, 1:] > 1)
    if outside.any():
        raise BadInput(f"{path} has a box outside the image: {rows[outside.any(axis=1)][0, 1:].tolist()}.")
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


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
    """

    def __init__(self, job: TrainingJob, device: str, rank: int = 0) -> None:
        request = job.request
        self.arguments = trainer_arguments(job)
        self.description = {
            "names": dict(enumerate(request.classes)),
            "nc": len(request.classes),
            "channels": 3,
            "val": str(request.val_dir),
        }
        self._request, self._device, self._rank = request, device, rank
        train = self._dataset([folder / "images" for folder in request.train_dirs], augment=True)
        val = self._dataset([request.val_dir / "images"], augment=False)
        self.images = len(train)
        self.train = EpochLoader(self._loader(train, request.batch_size, shuffle=True))
        self.val = EpochLoader(self._loader(val, min(request.batch_size * 2, len(val)), shuffle=False))
        self._check()

    def start_epoch(self, epoch: int) -> None:
        """Make the next pass over `train` that of `epoch` (from 0), whatever happened before it."""
        loader, dataset = self.train.loader, self.train.loader.dataset
        seed = epoch_seed(self._request.seed, epoch, self._rank)
        seed_everything(seed)
        loader.generator.manual_seed(seed)
        if self._request.close_mosaic and epoch >= self._request.epochs - self._request.close_mosaic:
            dataset.mosaic = False
            dataset.close_mosaic(hyp=copy(self.arguments))
        if dataset.cache != "ram":
            # Without the image cache, mosaic draws from the images seen last: a state no checkpoint holds.
            dataset.buffer.clear()
            dataset.ims = [None] * dataset.ni
        # The loader keeps its iterator, and with it the old order and the workers' old settings.
        loader.reset()

    def _dataset(self, folders: list[Path], *, augment: bool) -> LabelledImages:
        return LabelledImages(
            img_path=[str(folder) for folder in folders],
            imgsz=self._request.image_size,
            batch_size=self._request.batch_size if augment else self._request.batch_size * 2,
            augment=augment,
            hyp=self.arguments,
            rect=not augment,
            cache="ram",
            stride=32,
            pad=0.0 if augment else 0.5,
            task="detect",
            data=self.description,
        )

    def _loader(self, dataset: LabelledImages, batch: int, *, shuffle: bool) -> Any:
        workers = 0 if self._device == "cpu" else self._request.workers
        return build_dataloader(
            dataset, batch=batch, workers=workers, shuffle=shuffle, rank=-1, device=self._device
        )

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
