"""Whether torchrun, SLURM's srun or Kubernetes started this process as one of several, and as which of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning.fabric.plugins.environments import SLURMEnvironment

from retrain.errors import ConfigError
from retrain.training.place import Place

# Names of SLURM jobs in which people start things by hand; Lightning has the same rule.
_BY_HAND = {"bash", "interactive"}
_POD = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


@dataclass(frozen=True)
class Launched:
    """One of several processes that a launcher started.

    Attributes:
        by: the launcher.
        place: of this process.
        address: of the machine with the leading process, which listens there on `port`.
    """

    by: str
    place: Place
    address: str
    port: int


def launched_place(environ: Mapping[str, str]) -> Launched | None:
    """Read what the launcher says; `None` if nobody started this process together with others.

    Raises:
        ConfigError: what it says is incomplete or contradicts itself.
    """
    # It may itself be started by one of the others.
    if "TORCHELASTIC_RUN_ID" in environ:
        found = _torchrun(environ)
    # Only srun sets it. What a batch script or a shell has counts tasks that could be started, not ones that were.
    elif "SLURM_STEP_NUM_TASKS" in environ and environ.get("SLURM_JOB_NAME") not in _BY_HAND:
        found = _slurm(environ)
    elif environ.keys() >= _POD and "LOCAL_RANK" not in environ:
        found = _pod(environ)
    else:
        return None
    return found if found.place.processes > 1 else None


def _torchrun(environ: Mapping[str, str]) -> Launched:
    said = _Said("torchrun", environ)
    here = said.number("LOCAL_WORLD_SIZE")
    return said.launched("RANK", "WORLD_SIZE", "LOCAL_RANK", here, said.text("MASTER_ADDR"))


def _slurm(environ: Mapping[str, str]) -> Launched:
    said = _Said("srun", environ)
    tasks, nodes = said.number("SLURM_STEP_NUM_TASKS"), said.number("SLURM_STEP_NUM_NODES")
    each = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if nodes < 1 or tasks % nodes or "," in each:
        raise ConfigError(
            f"srun started {tasks} tasks on {nodes} machines{f' ({each})' if each else ''}; each needs the "
            "same number: set --ntasks-per-node."
        )
    first = SLURMEnvironment.resolve_root_node_address(said.text("SLURM_STEP_NODELIST"))
    return said.launched(
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        tasks // nodes,
        environ.get("MASTER_ADDR", first),
        # As Lightning chooses it: all know it without asking, jobs that share a machine seldom meet.
        15000 + said.number("SLURM_JOB_ID") % 10000,
    )


def _pod(environ: Mapping[str, str]) -> Launched:
    """Of a PyTorchJob of Kubeflow: one process in each."""
    said = _Said("Kubernetes", environ)
    pods = environ.get("PET_NNODES", environ["WORLD_SIZE"])
    if pods != environ["WORLD_SIZE"]:
        raise ConfigError(
            f"Kubernetes started {pods} pods for WORLD_SIZE {environ['WORLD_SIZE']}, so each has to start several "
            "processes; let the command of the pod be torchrun."
        )
    return said.launched("RANK", "WORLD_SIZE", None, 1, said.text("MASTER_ADDR"))


@dataclass(frozen=True)
class _Said:
    by: str
    environ: Mapping[str, str]

    def text(self, name: str) -> str:
        if not (value := self.environ.get(name)):
            raise ConfigError(f"{self.by} started this process as one of several, but {name} is not set.")
        return value

    def number(self, name: str) -> int:
        value = self.text(name)
        if not value.isdecimal():
            raise ConfigError(f"{name} must be a whole number of at least 0, got {value!r} from {self.by}.")
        return int(value)

    def launched(
        self, rank: str, processes: str, local: str | None, here: int, address: str, port: int | None = None
    ) -> Launched:
        """From the names of variables, the number of processes on this machine and where the leading one is."""
        count, number = self.number(processes), self.number(rank)
        local_number = 0 if local is None else self.number(local)
        if number >= count or here < 1 or local_number >= here or count % here:
            raise ConfigError(
                f"{self.by} says that this is process {number} of {count} and process {local_number} of the {here} on "
                "this machine, which cannot be; every machine needs the same number of processes."
            )
        if port is None or "MASTER_PORT" in self.environ:
            port = self.number("MASTER_PORT")
        return Launched(self.by, Place(number, count, local_number, count // here), address, port)
