"""Each experiment at its smallest: the notebook runs, leaves numbers with titles, and differs between arms where it should."""
import json

import pandas as pd
import pytest

from olmoearth.arms import Arm, start
from olmoearth.experiments import read_parameters
from olmoearth.grids import experiments_home, find_experiment, plan, run_grid
from olmoearth.samples import InputError
from olmoearth.settings import rng

EXPERIMENTS = [p.stem for p in sorted(experiments_home().glob("*.ipynb")) if "smoke" in read_parameters(p)]
ARMS = {"pretrain": {"target": "momentum", "depth": -1, "masking": "whole_sensors", "alone": True},
        "projection": {"target": "pca"}, "shift": {"trained": "north"}, "linear_probe": {"steps": 0}, "sim_nano": {"contrast": 0.05},
        "scaling": {"size": "half_tiny"}, "beyond_earth": {"target": "momentum"}, "climate": {"weather": "daily"},
        "photos": {"photos": "all"}}
DATA = {"beyond_earth": "digits, 1000 pictures"}   # what an experiment learns from, where that is not the simulated Earth


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
    assert numbers.notna().all().all() and set(about["titles"]) <= set(numbers.columns) and DATA.get(name, "simulated Earth") in about["data"]


def test_arms_of_one_seed_differ_in_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path))
    a, b = (start(Arm(seed=3, steps=2, tiles=4, maps="none", **more)) for more in ({}, {"scope": "sample"}))
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True): assert x.equal(y)
    for i in range(2):
        x, y = a.loader.batch(i), b.loader.batch(i)
        assert all(x.values[k].equal(y.values[k]) for k in x.values)
    assert a.fit().rows[0]["loss"] != b.fit().rows[0]["loss"]
    assert a.target.digest() == b.target.digest()


def run(name, home, monkeypatch, **arm):
    "Numbers and history of one small run; one that was made before is not repeated."
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(home / "cache"))
    [one] = plan(find_experiment(name), home / name, {"smoke": True}, arms=[arm])
    assert run_grid([one]) == {}
    return pd.read_parquet(one.folder / "metrics.parquet").iloc[0], pd.read_parquet(one.folder / "history.parquet")


def test_a_larger_size_takes_fewer_steps_for_the_same_work(home, monkeypatch):
    wide, _ = run("scaling", home, monkeypatch, size="half_tiny")
    narrow, history = run("scaling", home, monkeypatch, size="half_nano")
    assert narrow["steps"] == 6 > wide["steps"] >= 1 and len(history) == 6
    assert wide["gigaflop"] <= narrow["gigaflop"] < wide["gigaflop"] * (1 + 1 / wide["steps"]) and wide["weights"] > 5 * narrow["weights"]


@pytest.mark.parametrize("name, arm, says", [("scaling", {"size": "giant"}, "use one of half_nano"), ("scaling", {"rates": "fast"}, "write numbers with commas between"),
                                             ("beyond_earth", {"target": "vq"}, "use one of frozen, momentum, pixels"), ("beyond_earth", {"data": "no/where"}, "is not a folder"),
                                             ("photos", {"photos": "many"}, "use one of none, some, all, other"),
                                             ("photos", {"model": "large"}, "use trained, untrained or pixels")])
def test_a_bad_choice_gets_one_line_before_anything_is_trained(name, arm, says):
    here: dict = {}
    with pytest.raises(InputError, match=says) as caught:
        for i, cell in enumerate(c for c in json.loads(find_experiment(name).read_text())["cells"] if c["cell_type"] == "code"):
            exec("".join(cell["source"]), here)
            if i == 0: here.update(arm)
            assert "trainer" not in here
    assert "\n" not in str(caught.value)


def test_pictures_of_ones_own_go_through_the_experiment(home, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    for i in range(40):
        path = home / "own" / ("dark", "light")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng(0, "own", i).integers(100 * (i % 2), 100 + 100 * (i % 2), (32, 40, 3)).astype("uint8")).save(path)
    numbers, _ = run("beyond_earth", home, monkeypatch, data=str(home / "own"), target="pixels")
    assert numbers["linear_pixels"] == 100 and numbers["linear"] > 90


def test_photos_change_what_reads_them_and_a_rerun_gives_the_same(home, monkeypatch, tmp_path):
    numbers, history = run("photos", home, monkeypatch, photos="all")
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(home / "cache"))
    [again] = plan(find_experiment("photos"), tmp_path, {"smoke": True}, arms=[{"photos": "all"}])
    assert run_grid([again]) == {}
    pd.testing.assert_series_equal(pd.read_parquet(again.folder / "metrics.parquet").iloc[0], numbers)
    assert pd.read_parquet(again.folder / "history.parquet")["loss"].equals(history["loss"])
    (none, _), (other, differs) = (run("photos", home, monkeypatch, photos=k) for k in ("none", "other"))
    assert not differs["loss"].equals(history["loss"]) and set(numbers.index) - set(other.index) == {"linear_alone", "knn_alone"}
    assert none["linear"] == none["linear_told"] == none["linear_hand"] and none["linear_tokens"] == none["linear"] and "linear_alone" not in none
