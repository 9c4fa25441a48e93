"""Each experiment at its smallest: the notebook runs, leaves numbers with titles, and differs between arms where it should."""
import json

import pandas as pd
import pytest

from olmoearth.arms import Arm, start
from olmoearth.experiments import read_parameters
from olmoearth.grids import experiments_home, find_experiment, plan, run_grid

EXPERIMENTS = [p.stem for p in sorted(experiments_home().glob("*.ipynb")) if "smoke" in read_parameters(p)]
ARMS = {"pretrain": {"target": "momentum", "depth": -1, "masking": "whole_sensors", "alone": True},
        "projection": {"target": "pca"}, "shift": {"trained": "north"}, "linear_probe": {"steps": 0}, "sim_nano": {"contrast": 0.05}, "climate": {"weather": "daily"}}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("smoke")


def test_all_experiments_have_an_arm_here():
    assert set(EXPERIMENTS) == set(ARMS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_at_its_smallest(name, home, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(home / "cache"))
    assert run_grid(plan(find_experiment(name), home / name, {"smoke": True}, arms=[ARMS[name]])) == {}
    (run,) = (home / name).glob("*/seed-0")
    numbers, about = pd.read_parquet(run / "metrics.parquet"), json.loads((run / "about.json").read_text())
    assert numbers.notna().all().all() and set(about["titles"]) <= set(numbers.columns) and "simulated Earth" in about["data"]


def test_arms_of_one_seed_differ_in_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path))
    a, b = (start(Arm(seed=3, steps=2, tiles=4, maps="none", **more)) for more in ({}, {"scope": "sample"}))
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True): assert x.equal(y)
    for i in range(2):
        x, y = a.loader.batch(i), b.loader.batch(i)
        assert all(x.values[k].equal(y.values[k]) for k in x.values)
    assert a.fit().rows[0]["loss"] != b.fit().rows[0]["loss"]
    assert a.target.digest() == b.target.digest()
