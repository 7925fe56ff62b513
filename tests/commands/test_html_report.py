"""The HTML report of a tiny run, as a file, served, and in headless Chromium with real clicks."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pandas as pd
import pytest

from autospike.commands.serve import server
from autospike.config import Experiment
from autospike.energy.conventions import convention_of
from autospike.report.html.data import page_data
from autospike.report.html.page import page
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive


@pytest.fixture(scope="module")
def run(searched_run: Path) -> Path:
    return searched_run


@pytest.fixture(scope="module")
def data(run: Path) -> dict[str, Any]:
    return page_data(RunDirectory.resume(run))


def test_candidates_are_those_of_the_table(run: Path, data: dict[str, Any]) -> None:
    table = pd.read_csv(run / "report" / "candidates.csv")
    assert data["candidates"]["id"] == table["id"].tolist()
    assert data["measured"] == len(table)
    macs, acs = data["candidates"]["operations"]["exact"]
    energies = [(4.6 * m + 0.9 * a) * 1e-9 for m, a in zip(macs, acs, strict=True)]
    assert energies == pytest.approx(table["energy_mj"].tolist(), rel=1e-6)


def test_layers_of_the_front_are_in_the_page(run: Path, data: dict[str, Any]) -> None:
    front = pd.read_csv(run / "report" / "front.csv")
    assert set(front["id"]) <= set(data["layers"])


def test_searches_have_the_hypervolume_of_the_figure(data: dict[str, Any]) -> None:
    (search,) = data["searches"]
    assert search["algorithm"] == "nsga2"
    assert len(search["evaluations"]) == len(search["hypervolume"]["exact"]) == 3
    assert search["hypervolume"]["exact"] == sorted(search["hypervolume"]["exact"])


def test_a_thinned_page_has_the_front_the_largest_subnet_and_a_hypervolume(run: Path) -> None:
    resumed = RunDirectory.resume(run)
    thinned = page_data(resumed, limit=1)
    front = pd.read_csv(run / "report" / "front.csv")
    shown, largest = set(thinned["candidates"]["id"]), resumed.experiment.search_space.largest().id
    assert {*front["id"], largest} <= shown
    assert len(shown) < thinned["measured"]
    assert all(0 < share <= 1 for share in thinned["searches"][0]["hypervolume"]["exact"])


def test_the_page_has_the_importance_of_the_table(data: dict[str, Any], searched_run: Path) -> None:
    table = pd.read_csv(searched_run / "report" / "importance.csv")
    assert [row["gene"] for row in data["importance"]] == table["gene"].head(12).tolist()
    assert [row["energy"] for row in data["importance"]] == pytest.approx(table["energy"].head(12).tolist())
    assert table["energy"].max() > 0.1  # with three time steps and two widths, some gene decides the energy


def test_trainings_and_provenance(data: dict[str, Any]) -> None:
    assert {training["network"] for training in data["trainings"]} >= {"supernet", "reference network"}
    assert "embed_dim" in data["provenance"]


def test_the_file_is_small(run: Path) -> None:
    assert (run / "report" / "report.html").stat().st_size < 2_000_000


EXIT_CURVE = "margin,accuracy,images,mean_time_steps,energy_mj_estimate\n0.0,0.5,40,1.0,0.001\n1.0,0.75,40,3.0,0.004\n"


def test_the_curve_of_early_exit_is_in_the_page(run: Path, data: dict[str, Any], tmp_path: Path) -> None:
    assert data["early_exit"] is None
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = copy / "export" / "early_exit"
    folder.mkdir(parents=True)
    (folder / "curve.csv").write_text(EXIT_CURVE)
    assert page_data(RunDirectory.resume(copy))["early_exit"] is None  # not complete yet
    (folder / "early_exit.json").write_text(json.dumps({"split": "search", "convention": "exact"}))
    found = page_data(RunDirectory.resume(copy))["early_exit"]
    assert (found["margin"], found["accuracy"], found["mean_time_steps"]) == ([0.0, 1.0], [0.5, 0.75], [1.0, 3.0])
    assert (found["energy_mj"], found["images"], found["split"], found["convention"]) == ([0.001, 0.004], 40, "search", "exact")


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    with server(RunDirectory.resume(run), 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_server_answers_two_paths(run: Path, address: str) -> None:
    assert b"data-live" in urlopen(f"{address}/", timeout=60).read()
    served = json.loads(urlopen(f"{address}/data.json", timeout=60).read())
    assert served["candidates"] == page_data(RunDirectory.resume(run))["candidates"]
    for path in ("/experiment.yaml", "/../experiment.yaml", "/data"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(address + path, timeout=60)


def test_a_run_without_candidates_is_served_as_a_message(tmp_path: Path, tiny_experiment: Path) -> None:
    run = RunDirectory(folder=tmp_path, experiment=Experiment.load(tiny_experiment))
    with server(run, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(HTTPError, match="503") as error:
            urlopen(f"http://127.0.0.1:{running.server_port}/data.json", timeout=60)
        assert "run: autospike search" in error.value.read().decode()
        running.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opened(browser: Any, run: Path) -> Any:
    """The report in a browser that has no network."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.errors.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto((run / "report" / "report.html").as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    assert page.errors == []
    return page


def test_the_curve_of_early_exit_in_the_browser(browser: Any, opened: Any, data: dict[str, Any], tmp_path: Path) -> None:
    assert "Not measured" in opened.inner_text("#exits")
    curve = {"margin": [0.0, 1.0], "accuracy": [0.5, 0.75], "mean_time_steps": [1.0, 3.0], "energy_mj": [0.001, 0.004]}
    measured = {**data, "early_exit": {**curve, "images": 40, "split": "search", "convention": "exact"}}
    (tmp_path / "report.html").write_text(page(measured))
    shown = browser.new_page()
    shown.goto((tmp_path / "report.html").as_uri())
    shown.wait_for_selector("body[data-ready]", timeout=60_000)
    texts = [title.text_content() for title in shown.query_selector_all("#exits circle title")]
    assert texts == ["margin 0: 50.00 %, mean T 1.00, 1.000 µJ", "margin 1: 75.00 %, mean T 3.00, 4.000 µJ"]
    assert len(shown.query_selector_all("#exit-energy circle")) == 2
    shown.close()


def shown(energy_mj: float) -> str:
    """An energy as the page shows it: four significant digits."""
    return f"{float(f'{energy_mj * 1000:.4g}'):g}"


def test_the_front_in_the_browser(run: Path, opened: Any) -> None:
    """The script finds the same front with the same energies as the tables."""
    front = pd.read_csv(run / "report" / "front.csv")
    rows = [
        [cell.inner_text() for cell in row.query_selector_all("td")] for row in opened.query_selector_all("#front-table tbody tr")
    ]
    assert [row[0] for row in rows] == front["id"].tolist()
    assert [float(row[2].split()[0]) for row in rows] == [float(shown(value)) for value in front["energy_mj"]]


def test_a_click_shows_the_candidate_by_layer(run: Path, opened: Any) -> None:
    name = pd.read_csv(run / "report" / "front.csv")["id"].iloc[0]
    opened.click(f'[data-id="{name}"].front-dot')
    assert name in opened.inner_text("#candidate")
    archive = Archive.newest(run / "archive.sqlite")
    evaluation = archive.get_by_id(name)
    archive.close()
    assert evaluation is not None
    counted = [count.layer for count in evaluation.measurement.counts if convention_of("exact").includes(count)]
    assert [row.inner_text() for row in opened.query_selector_all("#layers tbody tr td:first-child")] == counted
    assert opened.query_selector_all("#heat rect")
    for convention in ("binary-only", "memory", "spikformer", "exact"):
        opened.select_option("#convention", convention)
        expected = evaluation.measurement.energy(convention_of(convention)).energy_mj
        text = opened.inner_text("#candidate .note").split(" under ")[0].removeprefix("Total ")
        assert float(text.split()[0]) == float(shown(expected)), convention
    assert opened.errors == []


def test_keys_and_axes(opened: Any) -> None:
    """The arrow keys go along the front, Enter chooses; any two objectives may be on the axes."""
    opened.focus('[data-front="0"]')
    opened.keyboard.press("ArrowRight")
    second = opened.evaluate("document.activeElement.dataset.id")
    opened.keyboard.press("Enter")
    assert second in opened.inner_text("#candidate")
    opened.select_option("#x", "params")
    opened.select_option("#y", "energy")
    assert "parameters and energy per image" in opened.inner_text("#front-caption")
    opened.select_option("#x", "energy")
    opened.select_option("#y", "accuracy")
    assert opened.errors == []


def test_light_and_dark(opened: Any) -> None:
    def background() -> str:
        return str(opened.evaluate("getComputedStyle(document.body).backgroundColor"))

    first = background()
    opened.click("#theme")
    assert background() != first
    opened.click("#theme")
    assert background() == first


def test_the_served_page_draws(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    assert page.query_selector_all(".front-dot")
    page.close()
