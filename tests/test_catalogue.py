"""The search spaces and experiments that come with the package are found by name, listed, and used from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders import one_line_error
from cli_runner import autospike

from autospike import catalogue
from autospike.config import Experiment
from autospike.space.search_space import SearchSpace

ROOT = Path(__file__).parents[1]
Capsys = pytest.CaptureFixture[str]


@pytest.mark.parametrize("kind", ["search_spaces", "experiments"])
def test_every_file_of_the_repository_has_a_name(kind: catalogue.Kind) -> None:
    assert list(catalogue.files_of(kind).values()) == sorted((ROOT / kind).glob("*.yaml"))


def test_a_path_is_relative_to_the_folder_and_is_not_looked_up(tmp_path: Path) -> None:
    for given in ("a/digits", "digits.yaml", "../digits"):
        assert catalogue.find("experiments", given, tmp_path) == tmp_path / given


def test_an_unknown_name_says_where_it_was_looked_for(tmp_path: Path) -> None:
    message = one_line_error(lambda: catalogue.find("search_spaces", "spikformer_33", tmp_path))
    assert message.startswith(f"spikformer_33: no file of this name in {tmp_path}, and no name that `autospike list spaces` prints")
    assert "similar names: spikformer_32" in message


def test_a_space_is_loaded_by_its_name() -> None:
    assert SearchSpace.load("spikformer_32") == SearchSpace.load(ROOT / "search_spaces" / "spikformer_32.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml")))
def test_every_experiment_is_loaded_by_its_name_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)
    assert Experiment.load(name).search_space == by_file.search_space


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("spaces", "spikformer_32 "),
        ("experiments", "digits "),
        ("models", "spikformer_8_512 "),
        ("conventions", "binary-only "),
    ],
)
def test_list(kind: str, words: str, capsys: Capsys) -> None:
    outcome = autospike(capsys, "list", kind)
    assert outcome.code == 0
    assert any(line.startswith(words) and len(line.split()) > 2 for line in outcome.out.splitlines())


def test_init_writes_an_experiment_that_is_valid_and_is_not_replaced(tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "mine" / "experiment.yaml"
    assert autospike(capsys, "init", path.parent).code == 0
    experiment = Experiment.load(path)
    assert (experiment.data.name, experiment.space["family"]) == ("glyphs", "spike_driven")
    own = path.read_text().replace("name: glyphs ", "name: folder ").replace("  # root: images", "  root: images")
    path.write_text(own)
    assert Experiment.load(path).data.root == path.parent / "images"
    outcome = autospike(capsys, "init", path.parent)
    assert (outcome.code, path.read_text()) == (2, own)
    assert f"{path}: exists already" in outcome.err


def test_the_written_experiment_says_what_the_defaults_are(tmp_path: Path, capsys: Capsys) -> None:
    """Its objectives and its selection rule are those of an experiment that leaves them out."""
    autospike(capsys, "init", tmp_path)
    written = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    default = Experiment.from_dict({name: written[name] for name in ("space", "data", "training")})
    assert tuple(written["search"]["objectives"]) == default.search.objectives
    assert written["export"]["pick"] == default.export.pick


@pytest.mark.parametrize(
    ("args", "command"),
    [(["plot", "nowhere", "--fast"], "autospike plot"), (["fly"], "autospike"), (["list", "birds"], "autospike list")],
)
def test_an_error_of_the_parser_names_the_help_of_the_subcommand(args: list[str], command: str, capsys: Capsys) -> None:
    assert autospike(capsys, *args).err.endswith(f"See: {command} --help\n")
