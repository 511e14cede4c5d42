"""The local stack: Prefect server, one process worker and MLflow's page, on loopback, started and stopped by pid.

Each service has a pid file under `<home>/run` and a log under `<home>/logs`. A service counts as up only after it
answered; `down` ends only processes this module started.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from filelock import FileLock, Timeout

from retrain.config import RetrainConfig
from retrain.environment import expanded, switches
from retrain.errors import Conflict, PostConditionFailed, Unavailable
from retrain.storage.files import write_whole
from retrain.storage.processes import start_mark

_START_TIMEOUT_S = 240.0
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ServiceStatus:
    name: str
    state: str
    """`up`, `starting` (its process lives but does not answer yet) or `down`."""
    pid: int | None
    url: str | None
    log: Path


@dataclass(frozen=True)
class _Service:
    name: str
    command: tuple[str, ...]
    port: int | None
    setting: str | None
    url: str | None
    health: str | None


class Stack:
    """Starts, inspects and stops the services of one home folder."""

    def __init__(self, home: Path, config: RetrainConfig) -> None:
        self._home, self._config = home, config
        # One pool per home: a worker that outlived another home's stack must never be given this home's runs.
        self.work_pool = (
            f"retrain-local-{hashlib.blake2b(str(home.absolute()).encode(), digest_size=4).hexdigest()}"
        )
        orchestration = config.orchestration
        self.api_url = f"http://127.0.0.1:{orchestration.prefect_port}/api"
        self.prefect_url = f"http://127.0.0.1:{orchestration.prefect_port}"
        self.mlflow_url = f"http://127.0.0.1:{orchestration.mlflow_port}"

    def up(self, names: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
        """Start what is not running, apply deployments and automations, and prove that each service answers.

        Args:
            names: services to start, by default all; MLflow is not one of them where `mlflow.tracking_uri` names
                a server.

        Raises:
            Unavailable: a port is taken, or a service ended or stayed silent; the message names the log.
            Conflict: another `retrain up` or `down` is at work in the same home.
        """
        with self._exclusive():
            for name in names or list(self._services()):
                service = self._services()[name]
                if self._process(name) is None:
                    say(f"starting {name}")
                    self._start(service)
                self._wait(service)
                if name == "prefect":
                    say("applying deployments and automations")
                    self._apply()

    def down(self, say: Callable[[str], None] = print) -> None:
        """Stop every running service, last started first.

        Raises:
            PostConditionFailed: one of them lives on, and its pid file stays.
        """
        with self._exclusive():
            for name in reversed(list(self._services())):
                process = self._process(name)
                if process is not None:
                    say(f"stopping {name}")
                    _end(process)
                    if self._process(name) is not None:
                        raise PostConditionFailed(
                            f"{name} (process {process.pid}) does not end; end it by hand."
                        )
                self._pid_file(name).unlink(missing_ok=True)

    def status(self) -> list[ServiceStatus]:
        """One row per service, asked now."""
        return [self._status(service) for service in self._services().values()]

    def environment(self) -> dict[str, str]:
        """What a process needs to be part of this stack."""
        # Relative to this process's working directory; the worker runs flows in others.
        named = os.environ.get("RETRAIN_CONFIG")
        return {
            **switches(self._home),
            **os.environ,
            **({"RETRAIN_CONFIG": str(expanded(named).absolute())} if named else {}),
            "RETRAIN_HOME": str(self._home),
            "PREFECT_HOME": str(self._home / "prefect"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_WORKER_QUERY_SECONDS": str(self._config.orchestration.worker_poll_s),
            "PYTHONUNBUFFERED": "1",
        }

    def _services(self) -> dict[str, _Service]:
        python, orchestration = sys.executable, self._config.orchestration
        server = (python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port")
        worker = (
            python,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            self.work_pool,
            "--type",
            "process",
        )
        tracking = self._config.mlflow.tracking_uri or f"sqlite:///{self._home / 'mlflow.db'}"
        mlflow = (python, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port")
        mlflow_port = orchestration.mlflow_port
        services = {
            "prefect": _Service(
                "prefect",
                (*server, str(orchestration.prefect_port)),
                orchestration.prefect_port,
                "orchestration.prefect_port",
                self.prefect_url,
                f"{self.api_url}/health",
            ),
            "worker": _Service("worker", worker, None, None, None, None),
            "mlflow": _Service(
                "mlflow",
                (*mlflow, str(mlflow_port), "--backend-store-uri", tracking),
                mlflow_port,
                "orchestration.mlflow_port",
                self.mlflow_url,
                f"{self.mlflow_url}/health",
            ),
        }
        if tracking.startswith("http"):
            del services["mlflow"]  # somebody else runs it
        return services

    def _start(self, service: _Service) -> None:
        if service.port is not None:
            _require_free_port(service.port, str(service.setting))
        for folder in ("run", "logs", "prefect"):
            (self._home / folder).mkdir(parents=True, exist_ok=True)
        environment = self.environment()
        if service.name == "prefect":
            del environment["PREFECT_API_URL"]
        # Of its own for each start: the server calls a worker that was killed online for another minute or more.
        worker = None if service.health else f"local-{int(time.time())}"
        with self._log(service.name).open("ab") as log:
            process = subprocess.Popen(
                (*service.command, "--name", worker) if worker else service.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._home,
                env=environment,
                start_new_session=True,
            )
        started = start_mark(psutil.Process(process.pid))
        record = {"pid": process.pid, "started": started, "worker": worker}
        write_whole(self._pid_file(service.name), json.dumps(record).encode())

    def _wait(self, service: _Service) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            # First, because an answer counts only if it can come from the process that was started.
            if self._process(service.name) is None:
                raise Unavailable(
                    f"{service.name} ended while starting. Last lines of {self._log(service.name)}:\n"
                    f"{self._tail(service.name)}"
                )
            if self._answers(service):
                return
            time.sleep(0.3)
        raise Unavailable(
            f"{service.name} gave no answer in {_START_TIMEOUT_S:.0f} s; see {self._log(service.name)}."
        )

    def _answers(self, service: _Service) -> bool:
        if service.health is None:
            return self._worker_online()
        try:
            return httpx.get(service.health, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def _worker_online(self) -> bool:
        """Whether the server hears from the worker of the pid file; others may have died without saying so."""
        online = {"workers": {"status": {"any_": ["ONLINE"]}}}
        try:
            worker = self._record("worker")["worker"]
            reply = httpx.post(
                f"{self.api_url}/work_pools/{self.work_pool}/workers/filter", json=online, timeout=5
            )
        except (FileNotFoundError, ValueError, KeyError, httpx.HTTPError):
            return False
        return reply.status_code == 200 and any(
            (row["name"], row["status"]) == (worker, "ONLINE") for row in reply.json()
        )

    def _apply(self) -> None:
        """Work pool, deployments (`prefect.yaml`) and automations; each is idempotent by name."""
        self._make_work_pool()
        self._prefect("deploy", "--all", "--prefect-file", str(self._deployments()))
        self._run(sys.executable, "-m", "deployments.apply")

    def _make_work_pool(self) -> None:
        # `prefect work-pool create` would have the server fetch a list of worker types from the internet. The worker
        # gives the pool its job template.
        pool = {"name": self.work_pool, "type": "process"}
        reply = httpx.post(f"{self.api_url}/work_pools/", json=pool, timeout=60)
        if reply.status_code not in {201, 409}:  # 409: it is there
            raise PostConditionFailed(f"Prefect made no work pool {self.work_pool}: {reply.text[:300]}")

    def _deployments(self) -> Path:
        """`prefect.yaml` with this home's work pool and this configuration's schedule."""
        contents = yaml.safe_load(prefect_file().read_text(encoding="utf-8"))
        for deployment in contents["deployments"]:
            deployment["work_pool"] = {**deployment["work_pool"], "name": self.work_pool}
            for schedule in deployment.get("schedules", ()):
                schedule["interval"] = self._config.orchestration.watch_interval_s
        written = self._home / "prefect" / "deployments.yaml"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
        return written

    def _prefect(self, *arguments: str) -> None:
        self._run(sys.executable, "-m", "prefect", "--no-prompt", *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self._home,
            env=self.environment(),
            timeout=180,
            check=False,
        )
        if done.returncode != 0:
            output = (done.stdout + done.stderr).strip()[-2000:]
            raise PostConditionFailed(
                f"`{' '.join(command[1:])}` failed with exit code {done.returncode}:\n{output}"
            )

    def _status(self, service: _Service) -> ServiceStatus:
        process = self._process(service.name)
        state = "down" if process is None else "up" if self._answers(service) else "starting"
        pid = None if process is None else process.pid
        return ServiceStatus(service.name, state, pid, service.url, self._log(service.name))

    def _process(self, name: str) -> psutil.Process | None:
        """The process of the pid file, if it still is that process: pids are reused."""
        try:
            record = self._record(name)
            process = psutil.Process(record["pid"])
            same = start_mark(process) == record["started"]
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def _record(self, name: str) -> dict[str, Any]:
        """What the pid file says."""
        return dict(json.loads(self._pid_file(name).read_text(encoding="utf-8")))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        (self._home / "run").mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._home / "run" / "stack.lock", timeout=1):
                yield
        except Timeout as error:
            raise Conflict(
                f"Another `retrain up` or `down` is at work in {self._home}; wait for it."
            ) from error

    def _pid_file(self, name: str) -> Path:
        return self._home / "run" / f"{name}.pid"

    def _log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    def _tail(self, name: str, lines: int = 8) -> str:
        return "\n".join(self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def prefect_file() -> Path:
    """`prefect.yaml` of the checkout, or the copy that is packaged with an installed Retrain."""
    here = Path(__file__).resolve()
    packaged = here.with_name("prefect.yaml")
    return packaged if packaged.exists() else here.parents[1] / "prefect.yaml"


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _require_free_port(port: int, setting: str) -> None:
    if not is_free(port):
        variable = "RETRAIN_" + setting.upper().replace(".", "__")
        raise Unavailable(
            f"Port {port} is taken. Stop what uses it, or set {setting} (or {variable}) to a free port."
        )


def _end(process: psutil.Process) -> None:
    """Terminate the process and its children; kill what does not go. Each service leads its own process group."""
    family = [process, *process.children(recursive=True)]
    _signal_group(process.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
