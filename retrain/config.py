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
    Serving,
    Simulation,
    Storage,
    Training,
)
from retrain.config_values import Section
from retrain.environment import expanded, home
from retrain.errors import ConfigError

_DATABASES = {"storage.state_url", "mlflow.tracking_uri"}
_PATHS = {
    "dataset.versions_path",
    "evaluation.policy",
    "data_collection.storage_path",
    "storage.blobs_url",
    "mlflow.artifact_location",
}
_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(.+)")
_OF_A_CYCLE: Mapping[str, Any] = {
    "model": True,
    "annotation": True,
    "dataset": {"balance_classes", "augmentation", "augmentation_pipeline"},
    "training": True,
    "evaluation": True,
    # What the simulated reviewer answers by.
    "simulation": {
        "seed",
        "drift_from",
        "frames_per_recording",
        "annotator_miss_rate",
        "annotator_confusion_rate",
        "annotator_jitter_px",
    },
}
_PASSWORD = re.compile(r"""(://[^/@:]*:).+@|([?&]password=)[^&"']+""")
_NO_SETTINGS = ("RETRAIN_HOME", "RETRAIN_CONFIG", "RETRAIN_CI")
"""Our variables that are no settings."""


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
        """Hash of what a cycle goes by, from its samples to its verdict; it may go on when anything else changed."""
        relevant = self.model_dump(mode="json", include=_OF_A_CYCLE)
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Resolved:
    """A configuration and, for each dotted key, where its value came from."""

    config: RetrainConfig
    sources: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Key, value and source of every setting, in the order of the sections; passwords in addresses are hidden."""
        for key, value in _flatten(self.config.model_dump(mode="json")):
            yield key, _without_password(json.dumps(value)), self.sources.get(key, "default")

    def problem(self, key: str, message: str) -> str:
        """A line that says what is wrong with a setting, and where it was set."""
        return f"{_where(key, self.sources) or 'default'}: {key}: {message.rstrip('.')}."


def find_config_file() -> Path | None:
    """The file used when none is named: `RETRAIN_CONFIG`, or `config.yaml` in the home folder."""
    if named := os.environ.get("RETRAIN_CONFIG"):
        return expanded(named)
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
    environ = os.environ if environ is None else environ
    path = path or find_config_file()
    if path is not None:
        values, lines = _read_yaml(path)
        for section, inner in values.items():
            for name in inner if isinstance(inner, dict) else ():
                inner[name] = _absolute(f"{section}.{name}", inner[name], path.absolute().parent)
        sources = {key: f"{path}:{line}" for key, line in lines.items()}
    for name, key, value in _from_environment(environ):
        dotted = ".".join(key)
        _set(values, key, _absolute(dotted, value, home()))
        below = [leaf for leaf, _ in _flatten(value, f"{dotted}.")] if isinstance(value, dict) else []
        sources = {known: source for known, source in sources.items() if not known.startswith(f"{dotted}.")}
        sources.update(dict.fromkeys([dotted, *below], f"environment {name}"))
    problems = list(_misnamed(environ))
    try:
        resolved = Resolved(RetrainConfig.model_validate(values), sources)
    except ValidationError as error:
        problems += [_explain(problem, sources, path) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from error
    if problems:
        raise ConfigError("\n".join(problems))
    return resolved


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        keys = list(_key_lines(yaml.compose(text)))
    except FileNotFoundError as error:
        raise ConfigError(f"No configuration file at {path}. Check --config or RETRAIN_CONFIG.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    # A ValueError: a date that no calendar has.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold sections such as `training:`, got a {type(values).__name__}.")
    if repeated := list(_repeated(keys)):
        # YAML would take the last and drop the others without a word.
        raise ConfigError(
            "\n".join(
                f"{path}:{line}: {key} is given twice, first in line {first}. Keep one."
                for key, first, line in repeated
            )
        )
    return values or {}, dict(keys)


def _key_lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield ".".join(path), key.start_mark.line + 1
            yield from _key_lines(value, path)


def _repeated(keys: list[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Keys that come more than once, with the first line and another; what is below a repeated key is left out."""
    first: dict[str, int] = {}
    repeated: set[str] = set()
    for key, line in keys:
        if key in first:
            if key.rpartition(".")[0] not in repeated:
                yield key, first[key], line
            repeated.add(key)
        first.setdefault(key, line)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], Any]]:
    for name in sorted(environ):
        if name.startswith("RETRAIN_") and "__" in name:
            try:
                value = yaml.safe_load(environ[name])
                keys = list(_key_lines(yaml.compose(environ[name])))
            except (yaml.YAMLError, ValueError) as error:
                raise ConfigError(
                    f"{name} is not a YAML value: {_without_password(repr(environ[name]))}."
                ) from error
            if repeated := [key for key, _, _ in _repeated(keys)]:
                raise ConfigError(f"environment {name}: {', '.join(repeated)} is given twice. Keep one.")
            yield name, name.removeprefix("RETRAIN_").lower().split("__"), value


def _misnamed(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like ours and would do nothing."""
    for name in sorted(environ):
        if name.startswith("RETRAIN_") and "__" not in name and name not in _NO_SETTINGS:
            settings = [key.upper().replace(".", "__") for key, _ in _flatten(RetrainConfig().model_dump())]
            known = [*_NO_SETTINGS, *(f"RETRAIN_{setting}" for setting in settings)]
            same_key = [one for one in known if one.endswith(name.replace("RETRAIN_", "__", 1))]
            nearest = same_key or difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else "Settings are RETRAIN_<SECTION>__<KEY>."
            yield f"environment {name}: unknown variable. {hint}"


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """The value of a path or SQLite URL as seen from `folder`; every other value as it is."""
    if not isinstance(value, str) or not value:
        return value
    if key in _DATABASES and (relative := _RELATIVE_SQLITE.fullmatch(value)):
        return f"{relative[1]}{folder / expanded(relative[2])}"
    return str(folder / expanded(value)) if key in _PATHS and "://" not in value else value


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        values[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    values[path[-1]] = value


def _explain(problem: Any, sources: Mapping[str, str], path: Path | None) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    where = _where(key, sources) or (str(path) if path else "defaults")
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _names_beside(location), n=1, cutoff=0.5)
        hint = f" Did you mean {'.'.join([*location[:-1], nearest[0]])}?" if nearest else ""
        return f"{where}: unknown key {key}.{hint}"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    got = "" if problem["type"] == "value_error" else f", got {_without_password(repr(problem['input']))}"
    return f"{where}: {key}: {message}{got}."


def _where(key: str, sources: Mapping[str, str]) -> str | None:
    """What set the key: its own source and the environment's of what is below it, else that of the key above."""
    found = [source for name, source in sources.items() if f"{name}.".startswith(f"{key}.")]
    if found:
        variables = [source for source in found if source.startswith("environment ")]
        return ", ".join(dict.fromkeys([found[0], *variables]))
    above = key.rpartition(".")[0]
    return _where(above, sources) if above else None


def _without_password(text: str) -> str:
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def _names_beside(location: list[str]) -> list[str]:
    section: Any = RetrainConfig
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
