"""Evaluates and compares models: opens them and the data, asks, scores, and says how."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, ConfigError
from retrain.evaluation.arguments import checked_device, checked_fraction, checked_list, checked_path
from retrain.evaluation.asked_metrics import DEFAULT_METRICS, SPEED, checked_metrics, compared_by
from retrain.evaluation.class_mapping import ClassMapping
from retrain.evaluation.comparator import compare
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.labelled_data import LabelledData, open_data
from retrain.evaluation.models import EvaluatedModel, digest_of, open_model
from retrain.evaluation.predictions_file import read_predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.result import ComparedModels, Difference, EvaluationResult, Served
from retrain.evaluation.run import evaluate
from retrain.evaluation.served_confidence import plain
from retrain.evaluation.speed import SpeedPlan, SpeedReport, measure_speed
from retrain.evaluation.truth import Truth

FILE_RUNTIME = "predictions file"
_DEFAULT_CONFIDENCE = 0.25


class ModelEvaluator:
    """Scores models on one set of labelled images.

    Args:
        model_path: a model folder or release, an Ultralytics `.pt`, an `.onnx` file, or COCO results in a `.json`.
        test_dataset: see `open_data`.
        metrics: names in `METRICS`; `speed` also measures how fast it is, on this machine and now.
        datasets: where dataset versions are.
        confidence: operating point of precision, recall and F1; by default what a release is served with, else 0.25.
        split, images: see `open_data`.
        protocol: how models are asked; `runtime` is filled in.
        device: `cpu`, `cuda` or `cuda:<index>`.
        on_progress: told the model and how many images are done.

    Raises:
        ConfigError, BadInput: an argument is none of these; nothing was opened yet.
    """

    def __init__(
        self,
        model_path: str | Path,
        test_dataset: str | Path,
        metrics: Sequence[str] = DEFAULT_METRICS,
        datasets: DatasetManager | Path | str | None = None,
        confidence: float | None = None,
        *,
        split: str | None = None,
        images: Path | None = None,
        protocol: EvaluationProtocol | None = None,
        device: str = "cpu",
        batch_size: int = 16,
        speed_plan: SpeedPlan | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        for given, what in ((model_path, "model_path"), (test_dataset, "test_dataset")):
            checked_path(given, what)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number from 1, got {batch_size!r}.")
        self._model_path, self._test_dataset, self._datasets = model_path, test_dataset, datasets
        self._metrics = checked_metrics(metrics)
        self._confidence = None if confidence is None else checked_fraction(confidence, "confidence")
        self._split, self._images = split, images
        self._protocol, self._batch_size = protocol or EvaluationProtocol(), batch_size
        self._device = checked_device(device)
        self._speed_plan, self._on_progress = speed_plan or SpeedPlan(), on_progress

    @cached_property
    def data(self) -> LabelledData:
        """What is evaluated on, opened once."""
        return open_data(self._test_dataset, self._datasets, split=self._split, images=self._images)

    def evaluate(self) -> EvaluationResult:
        """The model's scores.

        Raises:
            NotFound: there is no such model or data.
            BadInput: one of them cannot be used, or an image cannot be read.
            ConfigError: the data has a class that the model does not know.
        """
        return self._results([self._model_path])[0]

    def compare_models(self, models: Sequence[str | Path]) -> ComparedModels:
        """All on the same images; of every one but the first, the difference to the first with its interval.

        Raises:
            ConfigError: fewer than two models, or one twice.
        """
        models = checked_list(models, "models")
        if len(models) < 2 or len({str(model) for model in models}) < len(models):
            named = ", ".join(map(str, models))
            raise ConfigError(f"A comparison needs two models or more, each once, got {named or 'none'}.")
        results = self._results(models)
        first = results[0]
        differences = [
            Difference(result.model, compare(first.evaluation, result.evaluation, metric))  # type: ignore[arg-type]
            for result in results[1:]
            for metric in compared_by(self._metrics)
        ]
        return ComparedModels(tuple(results), tuple(differences))

    def _results(self, paths: Sequence[str | Path]) -> list[EvaluationResult]:
        # Opened before anything is asked: a damaged last one should not cost the time of the others.
        opened = [None if _is_predictions(path) else open_model(path, self._device) for path in paths]
        for model, path in zip(opened, paths, strict=True):
            if model is not None:
                ClassMapping.of(model.classes, self.data.classes)
            elif SPEED in self._metrics:
                raise ConfigError(
                    f"{path} is a file of predictions, which has no speed; leave out {SPEED!r}."
                )
        # Models of several runtimes are compared as what they are: the difference is one of runtimes too.
        runtimes = sorted({FILE_RUNTIME if model is None else model.runtime for model in opened})
        protocol = replace(self._protocol, runtime=" and ".join(runtimes))
        results = [
            self._of_file(Path(path), protocol) if model is None else self._of_model(model, protocol)
            for path, model in zip(paths, opened, strict=True)
        ]
        if len(runtimes) > 1:
            note = f"The models were run by {protocol.runtime}; differences contain those of the runtimes."
            results = [replace(result, notes=(*result.notes, note)) for result in results]
        if SPEED not in self._metrics:
            return results
        speed = self._speed([model for model in opened if model is not None])
        return [replace(result, speed=speed.get(result.model)) for result in results]

    def _of_model(self, model: EvaluatedModel, protocol: EvaluationProtocol) -> EvaluationResult:
        mapping = ClassMapping.of(model.classes, self.data.classes)
        served = self._served(model)
        total = len(self.data.items)
        evaluation = evaluate(
            mapping.around(model.predict),
            self.data.items,
            self.data.classes,
            protocol=protocol,
            batch_size=self._batch_size,
            confidence=served.confidence,
            on_progress=lambda done: self._told(model.name, done, total),
        )
        notes = list(self.data.notes)
        if mapping.dropped:
            shown = ", ".join(mapping.dropped[:10]) + (", …" if len(mapping.dropped) > 10 else "")
            notes.append(
                f"{len(mapping.dropped)} classes of the model are not in the data, and do not count but towards the "
                f"{protocol.max_detections} boxes an image: {shown}."
            )
        return EvaluationResult(
            model=model.name,
            digest=model.digest,
            runtime=model.runtime,
            imgsz=model.imgsz,
            data=self.data.name,
            evaluation=evaluation,
            asked=self._metrics,
            served=served,
            dropped_classes=mapping.dropped,
            notes=tuple(notes),
        )

    def _of_file(self, path: Path, protocol: EvaluationProtocol) -> EvaluationResult:
        truth = Truth.of([item.labelled for item in self.data.items], self.data.classes)
        served = self._served(None)
        evaluation = Evaluation(truth, read_predictions(path, self.data, truth), protocol, served.confidence)
        _ = evaluation.summary
        note = "Confidence, overlap and number of boxes are what the file's maker chose, not the protocol's."
        return EvaluationResult(
            model=str(path),
            digest=digest_of(path),
            runtime=FILE_RUNTIME,
            imgsz=None,
            data=self.data.name,
            evaluation=evaluation,
            asked=self._metrics,
            served=served,
            notes=(*self.data.notes, note),
        )

    def _served(self, model: EvaluatedModel | None) -> Served:
        if self._confidence is not None:
            return Served(self._confidence, "asked for")
        limits = {} if model is None else model.thresholds
        if not limits:
            return Served(_DEFAULT_CONFIDENCE, "default")
        # Those of classes that do not count here would only be taken for an operating point of these numbers.
        return Served(plain({name: limits[name] for name in self.data.classes}), "release")

    def _speed(self, models: Sequence[EvaluatedModel]) -> dict[str, SpeedReport]:
        chosen = self.data.items[: self._speed_plan.images]
        detectors = {model.name: model.detector for model in models}
        runtimes = {model.name: model.runtime for model in models}
        return measure_speed(detectors, [item.load for item in chosen], self._speed_plan, runtimes=runtimes)

    def _told(self, model: str, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(model, done, total)


def _is_predictions(path: str | Path) -> bool:
    given = Path(path)
    if given.suffix != ".json":
        return False
    if not given.is_file():
        raise BadInput(f"There is no file of predictions {str(path)!r}.")
    return True
