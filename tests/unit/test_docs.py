"""The documentation names only what exists: files, commands, make targets, settings, and a library used as it is."""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from flows.cli import app
from flows.collect_app import RunByDefault
from retrain.config import RetrainConfig

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
MADE_LATER = {".retrain", ".venv", "data"}
"""Top-level folders that a command makes; what is in them is not in the repository."""
SOURCES = (
    ".css",
    ".html",
    ".ipynb",
    ".j2",
    ".json",
    ".lock",
    ".md",
    ".png",
    ".py",
    ".svg",
    ".toml",
    ".yaml",
    ".yml",
)
TOP = {path.name for path in CHECKOUT.iterdir()} - MADE_LATER
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")


def named(document: Path) -> str:
    return str(document.relative_to(CHECKOUT))


every_document = pytest.mark.parametrize("document", DOCS, ids=named)


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def fenced(document: Path, *languages: str) -> list[str]:
    return [
        code
        for language, code in FENCE.findall(document.read_text(encoding="utf-8"))
        if language in languages
    ]


def spans(document: Path) -> list[str]:
    return [" ".join(span.split()) for span in CODE_SPAN.findall(prose(document))]


def shell_lines(document: Path) -> Iterator[str]:
    """What a reader would type: code spans and lines of shell blocks, without prompt, comment and assignments."""
    blocks = fenced(document, "", "sh", "bash", "shell", "console")
    for line in [*spans(document), *(line for block in blocks for line in block.splitlines())]:
        typed = re.sub(r"^\s*\$ ", "", line).partition("  #")[0].strip()
        yield re.sub(r"^(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?", "", typed)


def looks_like_a_path(span: str) -> bool:
    first = span.partition("/")[0]
    if not PATH.fullmatch(span) or first in MADE_LATER:
        return False
    return (first in TOP) if "/" in span and not span.endswith(SOURCES) else "/" in span


def anchors(document: Path) -> set[str]:
    """GitHub's names of the headings."""
    titles = HEADING.findall(prose(document))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_document
def test_every_path_in_backticks_exists(document):
    missing = [
        span
        for span in spans(document)
        if looks_like_a_path(span)
        and not (CHECKOUT / span).exists()
        and not (document.parent / span).exists()
    ]
    assert missing == []


@every_document
def test_every_link_inside_the_repository_leads_somewhere(document):
    broken = []
    for target in (one or other for one, other in LINK.findall(prose(document))):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (document.parent / place).resolve() if place else document
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@every_document
def test_every_retrain_command_exists_with_its_options(document):
    commands = (line for line in shell_lines(document) if re.match(r"retrain( |$)", line))
    problems = [problem for line in commands if (problem := command_problem(line))]
    assert problems == []


@every_document
def test_every_make_target_exists(document):
    targets = set(
        re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    used = {match[1] for line in shell_lines(document) if (match := re.match(r"make ([a-z]+)", line))}
    assert used - targets == set()


@every_document
def test_every_setting_exists(document):
    keys = (re.match(r"([a-z_]+)\.([a-z_.]+)(?:: .+)?$", span) for span in spans(document))
    dotted = [f"{key[1]}.{key[2]}" for key in keys if key and key[1] in RetrainConfig.model_fields]
    variables = re.findall(r"RETRAIN_([A-Z_]+?__[A-Z_]+)", document.read_text(encoding="utf-8"))
    dotted += [variable.lower().replace("__", ".") for variable in variables]
    assert [key for key in dotted if not key.endswith(SOURCES) and not is_setting(key)] == []


@every_document
def test_every_python_example_uses_the_library_as_it_is(document):
    problems = []
    for number, code in enumerate(fenced(document, "python"), start=1):
        problems += [f"example {number}: {problem}" for problem in example_problems(code)]
    assert problems == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("from retrain.boxes import Boxes", "retrain.boxes has no Boxes"),
        ("from retrain.boxs import Annotations", "No module named 'retrain.boxs'"),
        (
            "from retrain.boxes import Annotations\nAnnotations.of([])",
            "missing a required argument: 'classes'",
        ),
        ("from retrain.boxes import Annotations\nAnnotations.load('x')", "Annotations has no load"),
        (
            "from retrain.dataset.manager import DatasetManager\nm = DatasetManager('x')\nm.commit()",
            "missing a required argument: 'version_id'",
        ),
    ],
)
def test_a_wrong_example_is_noticed(code, problem):
    assert problem in " ".join(example_problems(code))


@pytest.mark.parametrize("line", ["retrain dmo", "retrain cycle stop x", "retrain demo --fast"])
def test_a_wrong_command_is_noticed(line):
    assert command_problem(line)


@pytest.mark.parametrize("span", ["retrain/no_such.py", "no_such/file.yaml", "tests/gone/"])
def test_a_path_is_told_from_other_names(span):
    assert looks_like_a_path(span)
    assert not looks_like_a_path("continuous-retraining/retrain")
    assert not looks_like_a_path("config.yaml")


def command_problem(line: str) -> str | None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    for word in words:
        if isinstance(command, RunByDefault) and word not in {*command.commands, "--help"}:
            command = command.commands["status" if "--watch" in words else "run"]
        if word.startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            if word.partition("=")[0] not in known:
                return f"{line!r}: no option {word}"
        elif hasattr(command, "commands") and word[0] not in "<…":
            if word not in command.commands:
                return f"{line!r}: no command {word}"
            command = command.commands[word]
    return None


def is_setting(key: str) -> bool:
    section: Any = RetrainConfig
    for part in key.split("."):
        fields = getattr(section, "model_fields", {})
        if part not in fields:
            return False
        section = fields[part].annotation
    return True


def example_problems(code: str) -> Iterator[str]:
    """Imports that fail, and calls of what was imported that its signature would refuse; nothing is run."""
    known: dict[str, Any] = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from import_problems(node, known)
        elif isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                learn(target, node.value, known)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            learn(node.optional_vars, node.context_expr, known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from call_problems(node, known)


def import_problems(node: ast.ImportFrom, known: dict[str, Any]) -> Iterator[str]:
    try:
        module = importlib.import_module(node.module or "")
    except ImportError as error:
        yield str(error)
        return
    for alias in node.names:
        if hasattr(module, alias.name):
            known[alias.asname or alias.name] = getattr(module, alias.name)
        else:
            yield f"{node.module} has no {alias.name}"


class Instance:
    """A variable that holds an object of a class known from the imports."""

    def __init__(self, of: type) -> None:
        self.of = of


def learn(target: ast.expr, value: ast.expr, known: dict[str, Any]) -> None:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its in zip(target.elts, value.elts, strict=True):
            learn(one, its, known)
    elif isinstance(target, ast.Name) and isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        made = known.get(value.func.id)
        if inspect.isclass(made):
            known[target.id] = Instance(made)


def call_problems(call: ast.Call, known: dict[str, Any]) -> Iterator[str]:
    function, name = called(call.func, known)
    if function is None:
        return
    if isinstance(function, str):
        yield function
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(
        k.arg is None for k in call.keywords
    ):
        return
    try:
        signature.bind(*call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords})
    except TypeError as error:
        yield f"{name}: {error}"


def called(function: ast.expr, known: dict[str, Any]) -> tuple[Any, str]:
    """What a call would call (or, as text, why it cannot), as far as imports and assignments tell."""
    if isinstance(function, ast.Name):
        found = known.get(function.id)
        return (found if callable(found) and is_ours(found) else None), function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owner = known.get(function.value.id)
        kind = owner.of if isinstance(owner, Instance) else owner
        if not inspect.isclass(kind) or not is_ours(kind):
            return None, ""
        name = f"{kind.__name__}.{function.attr}"
        if not hasattr(kind, function.attr):
            return f"{kind.__name__} has no {function.attr}", name
        method = getattr(kind, function.attr)
        if isinstance(owner, Instance) and inspect.isfunction(method):
            return method.__get__(object()), name
        return (method if callable(method) else None), name
    return None, ""


def is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in {
        "retrain",
        "tasks",
        "flows",
        "deployments",
    }
