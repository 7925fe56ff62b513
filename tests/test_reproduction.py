"""`experiments/reproduction` on one family: the digests of two runs are equal, and those of another seed are not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.mark.slow
def test_digests_of_a_run_are_reproducible(tmp_path: Path) -> None:
    digests_of = runpy.run_path(str(EXPERIMENTS / "reproduction" / "__main__.py"))["digests_of"]
    first = digests_of(EXPERIMENTS / "digits.yaml")
    assert digests_of(EXPERIMENTS / "digits.yaml") == first
    assert int(first["archive"]["rows"]) > 8  # the proposed candidates of three generations, and their by-products
    other = yaml.safe_load((EXPERIMENTS / "digits.yaml").read_text()) | {"seed": 1}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    changed = digests_of(tmp_path / "other.yaml")
    assert changed["checkpoints"]["supernet"] != first["checkpoints"]["supernet"]
    assert changed["archive"]["evaluations"] != first["archive"]["evaluations"]
