"""Commands, options, benchmarks, fields and links in the documentation exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from autospike.cli import app
from autospike.config import Experiment

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob(".github/*.md")),
    ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml",
]
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]
USER_PAGES = [page for page in PAGES if page.name != "CONTRIBUTING.md"]  # it names modules, such as search.archive
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def shell_lines(text: str) -> list[str]:
    """Return lines of shell blocks, and inline commands, that start autospike."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    inline = re.findall(r"`(autospike [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.search(r"(?:^|-- )(autospike [a-z].*)", line) for line in blocks]
    return [match.group(1) for match in found if match] + [line.replace("\n", " ") for line in inline]


FILE_ENDINGS = ("csv", "json", "md", "png", "py", "yaml")
EXAMPLES = [(page.name, line) for page in PAGES for line in shell_lines(page.read_text())]


def test_examples_are_found() -> None:
    assert len(EXAMPLES) > 25


@pytest.mark.parametrize(("page", "line"), EXAMPLES)
def test_each_command_and_option_exists(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if word != "..."]
    assert words[1] in COMMANDS, f"{page}: {line}"
    known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known, f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), EXAMPLES)
def test_each_file_of_an_example_exists(page: str, line: str) -> None:
    for name in re.findall(r"\b(?:experiments|search_spaces)/[\w/]+\.yaml", line):
        assert name.endswith(("/X.yaml", "/NAME.yaml")) or (ROOT / name).exists(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_named_file_of_the_repository_exists(page: Path) -> None:
    for name in re.findall(r"`((?:autospike|tests|experiments|search_spaces|docs|notebooks)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists() or "NAME" in name, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_benchmark_exists(page: Path) -> None:
    known = (ROOT / "experiments/benchmarks/__main__.py").read_text()
    for name in re.findall(r"make bench ONLY=(\w+)", page.read_text()):
        assert name == "name" or f'"{name}"' in known, name


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_each_field_of_an_experiment_exists(page: Path) -> None:
    sections = {name: field.annotation for name, field in Experiment.model_fields.items()}
    fields = r"(?<![\w./])(training|evaluation|execution|search|export|retrain|data)\.(\w+)[=:`]"
    for section, field in re.findall(fields, page.read_text()):
        assert field in FILE_ENDINGS or field in sections[section].model_fields, f"{section}.{field}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_examples_parse(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict)
