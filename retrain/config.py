"""Strict configuration: unknown keys are errors, every value knows where it came from; sections in `config_sections`.

Values come, later ones winning, from the defaults, one YAML file, and environment variables such as
`RETRAIN_TRAINING__EPOCHS=5`. All errors are collected and raised at once. Relative paths are made absolute
here, because processes with other working directories (Prefect's worker) read the same configuration.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from retrain.config_sections import (
    Annotation,
    DataCollection,
    Dataset,
    Evaluation,
    Mlflow,
    Model,
    Orchestration,
    Section,
    Serving,
    Simulation,
    Storage,
    Training,
)
from retrain.environment import home
from retrain.errors import ConfigError

_DATABASES = {"storage.state_url", "mlflow.tracking_uri"}
_FOLDERS = {
    "dataset.versions_path",
    "data_collection.storage_path",
    "storage.blobs_url",
    "mlflow.artifact_location",
}
_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(.+)")
_PASSWORD = re.compile(r"(://[^/@:]*:)[^@]+@")


class RetrainConfig(Section):
    model: Model = Field(default_factory=Model)
    storage: Storage = Field(default_factory=Storage)
    data_collection: DataCollection = Field(default_factory=DataCollection)
    annotation: Annotation = Field(default_factory=Annotation)
    dataset: Dataset = Field(default_factory=Dataset)
    training: Training = Field(default_factory=Training)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    serving: Serving = Field(default_factory=Serving)
    mlflow: Mlflow = Field(default_factory=Mlflow)
    orchestration: Orchestration = Field(default_factory=Orchestration)
    simulation: Simulation = Field(default_factory=Simulation)

    @property
    def digest(self) -> str:
        """Hash of everything that can change a cycle's result; ports, waiting times and addresses cannot."""
        collection = {"trigger", "flush_s", "spool", "redis_url", "retention"}
        relevant = self.model_dump(
            mode="json",
            exclude={
                "orchestration": True,
                "serving": True,
                "mlflow": True,
                "storage": True,
                "data_collection": collection,
            },
        )
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Resolved:
    """A configuration and, for each dotted key, where its value came from."""

    config: RetrainConfig
    sources: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Key, value and source of every setting, in the order of the sections; passwords in addresses are hidden."""
        for key, value in _flatten(self.config.model_dump(mode="json")):
            yield key, _PASSWORD.sub(r"\1***@", json.dumps(value)), self.sources.get(key, "default")


def find_config_file() -> Path | None:
    """The file used when none is named: `RETRAIN_CONFIG`, or `config.yaml` in the home folder."""
    if named := os.environ.get("RETRAIN_CONFIG"):
        return Path(named)
    default = home() / "config.yaml"
    return default if default.exists() else None


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Resolve the configuration; relative paths of the file are taken from its folder, those of the environment
    from the home folder.

    Raises:
        ConfigError: the file cannot be read, or any key is unknown or any value unusable; all are named.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = path or find_config_file()
    if path is not None:
        values, lines = _read_yaml(path)
        for section, inner in values.items():
            for name in inner if isinstance(inner, dict) else ():
                inner[name] = _absolute(f"{section}.{name}", inner[name], path.absolute().parent)
        sources = {key: f"{path}:{line}" for key, line in lines.items()}
    for name, key, value in _from_environment(os.environ if environ is None else environ):
        _set(values, key, _absolute(".".join(key), value, home()))
        sources[".".join(key)] = f"environment {name}"
    try:
        return Resolved(RetrainConfig.model_validate(values), sources)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigError("\n".join(_explain(problem, sources, path) for problem in found)) from error


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        lines = dict(_key_lines(yaml.compose(text)))
    except FileNotFoundError as error:
        raise ConfigError(f"No configuration file at {path}. Check --config or RETRAIN_CONFIG.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold sections such as `training:`, got a {type(values).__name__}.")
    return values or {}, lines


def _key_lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield ".".join(path), key.start_mark.line + 1
            yield from _key_lines(value, path)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], Any]]:
    for name in sorted(environ):
        if name.startswith("RETRAIN_") and "__" in name:
            try:
                value = yaml.safe_load(environ[name])
            except yaml.YAMLError as error:
                raise ConfigError(f"{name} is not a YAML value: {environ[name]!r}.") from error
            yield name, name.removeprefix("RETRAIN_").lower().split("__"), value


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """The value of a path or SQLite URL as seen from `folder`; every other value as it is."""
    if not isinstance(value, str) or not value:
        return value
    if key in _DATABASES and (relative := _RELATIVE_SQLITE.fullmatch(value)):
        return f"{relative[1]}{folder / relative[2]}"
    return str(folder / value) if key in _FOLDERS and "://" not in value else value


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        values[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    values[path[-1]] = value


def _explain(problem: Any, sources: Mapping[str, str], path: Path | None) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    where = sources.get(key) or (str(path) if path else "defaults")
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _names_beside(location), n=1, cutoff=0.5)
        hint = f" Did you mean {'.'.join([*location[:-1], nearest[0]])}?" if nearest else ""
        return f"{where}: unknown key {key}.{hint}"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
    return f"{where}: {key}: {message}{got}."


def _names_beside(location: list[str]) -> list[str]:
    section: Any = RetrainConfig
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
