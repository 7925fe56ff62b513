"""The files that tools and the hosting platform read are well formed and agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML_FILES = sorted(
    [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / ".clang-format", ROOT / "CITATION.cff"]
)


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_parse(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_citation_has_the_required_fields_and_cites_the_papers() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])
    titles = " ".join(f"{reference['title']} {reference.get('notes', '')}" for reference in citation["references"])
    for name in ("Auto-Spikformer", "Spikformer:", "Spike-driven Transformer", "Meta-SpikeFormer", "QKFormer"):
        assert name in titles
    for reference in citation["references"]:
        (identifier,) = reference["identifiers"]
        assert reference["url"].endswith(identifier["value"].removeprefix("arXiv:"))


def test_pre_commit_uses_the_pinned_ruff() -> None:
    (pinned,) = re.findall(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    hooks = [hook for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    required = [package for hook in hooks for package in hook["additional_dependencies"] if package.startswith("ruff")]
    assert required == [pinned, pinned]


def test_hosted_ci_covers_the_oldest_python_and_a_machine_without_a_compiler() -> None:
    workflow = read(".github/workflows/ci.yml")
    rows = workflow["jobs"]["test"]["strategy"]["matrix"]["include"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    versions = [tuple(int(part) for part in row["python"].split(".")) for row in rows]
    assert min(versions) == tuple(int(part) for part in oldest.split("."))
    assert max(versions) > min(versions)
    assert {row["kernels"] for row in rows} == {"native", "off"}


@pytest.mark.parametrize("form", ["bug_report", "feature_request"])
def test_issue_forms_have_unique_labelled_fields(form: str) -> None:
    template = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= template.keys()
    identifiers = [field["id"] for field in template["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["attributes"]["label"] for field in template["body"])


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_text_files_follow_the_editor_settings() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = [ROOT / name for name in listed.split("\0") if name and not name.endswith((".png", ".csv"))]
    for path in texts:
        if path.exists() and (content := path.read_bytes()):
            assert content.endswith(b"\n"), f"{path}: no newline at the end"
            assert not re.search(rb"[ \t]+$", content, flags=re.MULTILINE), f"{path}: trailing whitespace"
            assert b"\r" not in content, f"{path}: carriage return"
