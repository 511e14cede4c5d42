"""The best models of a training so far, as safetensors: the k best by score, whatever kills the process."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from retrain.errors import BadInput
from retrain.storage import files

_LIST = "best.json"
_NAME = re.compile(r"epoch-\d{5}\.safetensors")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestModel:
    """One kept model: its score and the sha256 of its file, hex."""

    epoch: int
    score: float
    sha256: str

    @property
    def file_name(self) -> str:
        return f"epoch-{self.epoch:05d}.safetensors"


class BestModels:
    """Keeps the models of the best epochs in a folder that is its alone; of equal scores the latest is the best.

    All it knows is in the folder, so a new object goes on where a killed one stopped. Only one process may change it;
    `models` and `best` change nothing.

    Args:
        folder: created by the first offer.
        keep: how many.
        rewindable: how many epochs `rewind` may go back and still find all that were the best by then, so at least
            `keep` of the checkpoints. It costs up to as many more files.
    """

    def __init__(self, folder: Path, keep: int, rewindable: int = 2) -> None:
        if keep < 1 or rewindable < 0:
            raise BadInput(f"keep must be at least 1 and rewindable 0, got {keep} and {rewindable}.")
        self._folder = folder
        self._keep = keep
        self._rewindable = rewindable

    def models(self) -> list[BestModel]:
        """The best ones, best first; what is in their files is not checked."""
        return _best(self._listed(), self._keep)

    def best(self) -> tuple[BestModel, dict[str, torch.Tensor]] | None:
        """The best model whose file is as it was written; damaged ones are skipped with a warning."""
        for model in sorted(self._listed(), key=_rank, reverse=True):
            path = self._folder / model.file_name
            with files.disk_errors(self._folder):
                data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == model.sha256:
                return model, load_tensors(data)
            logger.warning("%s does not have the sha256 that %s states; using the next best.", path, _LIST)
        return None

    def offer(self, epoch: int, score: float, weights: Mapping[str, torch.Tensor]) -> bool:
        """Keep the weights if they are among the best so far. Offering an epoch again replaces it.

        Returns:
            Whether they are.

        Raises:
            StorageFull: no space; the best so far are untouched.
        """
        if not 0 <= epoch < 10**5 or not math.isfinite(score):
            raise BadInput(f"An epoch is 0 to 99999 and a score finite, got {epoch} and {score}.")
        listed = self._listed()
        others = [model for model in listed if model.epoch != epoch]
        better = [model for model in others if _rank(model) > (score, epoch)]
        if len(better) >= self._keep:
            self._keep_only(others, epoch)
            return False
        data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
        offered = BestModel(epoch, float(score), hashlib.sha256(data).hexdigest())
        if offered not in listed:
            if len(others) < len(listed):
                # A listed file is never overwritten: killed in between, the list would be wrong about it.
                self._keep_only(others, epoch)
            files.write_whole(self._folder / offered.file_name, data)
        self._keep_only([*others, offered], epoch)
        return True

    def rewind(self, epoch: int) -> None:
        """Forget the epochs after this one: training goes on from its end."""
        self._keep_only([model for model in self._listed() if model.epoch <= epoch], epoch)

    def resume(self, scores: Sequence[float], best: Mapping[str, torch.Tensor]) -> None:
        """Go on after as many epochs as there are scores, one each.

        Models that should be there and are not, as on another machine, are a warning; the best is kept again.

        Args:
            best: weights of the best of these epochs.
        """
        self.rewind(len(scores))
        ranked = sorted(
            ((score, epoch) for epoch, score in enumerate(scores, 1) if math.isfinite(score)), reverse=True
        )[: self._keep]
        there = {model.epoch for model in self.models()}
        gone = [epoch for _, epoch in ranked if epoch not in there]
        if ranked and ranked[0][1] in gone:
            gone.remove(ranked[0][1])
            self.offer(ranked[0][1], ranked[0][0], best)
        if gone:
            logger.warning(
                "Of the %d best models so far those of epochs %s are not in %s; they are left out.",
                len(ranked),
                ", ".join(map(str, gone)),
                self._folder,
            )

    def _listed(self) -> list[BestModel]:
        path = self._folder / _LIST
        if not path.is_file():
            return []
        try:
            listed = [BestModel(**entry) for entry in json.loads(path.read_bytes())]
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"{path} is damaged ({error}). Remove {self._folder} to go on without the best models so far."
            ) from error
        there = [model for model in listed if (self._folder / model.file_name).is_file()]
        for model in listed:
            if model not in there:
                logger.warning("%s is gone, though %s lists it; it is dropped.", model.file_name, path)
        return there

    def _keep_only(self, models: list[BestModel], last: int) -> None:
        """List those that are needed after epoch `last`, then remove every other file."""
        if not self._folder.is_dir():
            return
        needed = _needed(models, self._keep, range(last - self._rewindable, last + 1))
        content = json.dumps([asdict(model) for model in needed], indent=1).encode()
        path = self._folder / _LIST
        if not path.is_file() or path.read_bytes() != content:
            files.write_whole(path, content)
        files.remove_leftovers(self._folder)
        names = {model.file_name for model in needed}
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in names:
                path.unlink(missing_ok=True)


def _rank(model: BestModel) -> tuple[float, int]:
    return model.score, model.epoch


def _best(models: Iterable[BestModel], keep: int) -> list[BestModel]:
    return sorted(models, key=_rank, reverse=True)[:keep]


def _needed(models: Sequence[BestModel], keep: int, ends: Iterable[int]) -> list[BestModel]:
    """The best now, and the best at the end of each of these epochs; best first."""
    by_then = [model for end in ends for model in _best((m for m in models if m.epoch <= end), keep)]
    return sorted({*by_then, *_best(models, keep)}, key=_rank, reverse=True)
