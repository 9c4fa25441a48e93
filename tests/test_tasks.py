"The registry of published tasks: nothing missing, the tables come back cell by cell, and what the paper says of them can be counted."
from pathlib import Path

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from olmoearth.modalities import SENSORS
from olmoearth.samples import InputError
from olmoearth.settings import find_data
from olmoearth.tasks import COLUMNS, family, measured, overview, published, rank_table, size_gain, table_of, task, tasks, wins

FILES = {2: "table2_knn_lp.csv", 3: "table3_finetune.csv"}


def figures(*rows):
    return measured(pd.DataFrame(rows, columns=["model", "task", "value"]))


def reference(table):
    data = find_data()
    for home in (*([data.parent] if data else []), Path(__file__).resolve().parents[2] / "shared"):
        if (home / "reference" / FILES[table]).exists(): return pd.read_csv(home / "reference" / FILES[table], index_col="model")
    pytest.skip("reference tables not found: they lie beside the test data")


@pytest.mark.parametrize("table", (2, 3))
def test_the_published_table_comes_back_cell_by_cell(table):
    ref, ours = reference(table), table_of(table)
    assert list(ours.columns) == list(ref.columns) and list(ours.index) == list(ref.index)
    assert np.array_equal(ours.to_numpy(float), ref.to_numpy(float), equal_nan=True)
    assert len(published(table)) == ref.notna().sum().sum()


def test_there_are_24_and_29_tasks_and_7_of_each_are_of_geobench():
    assert [len(tasks(table=t)) for t in (2, 3)] == [24, 29] and len({t.name for t in tasks()}) == 53
    assert [sum(t.benchmark == "GEO-Bench" for t in tasks(table=t)) for t in (2, 3)] == [7, 7]
    assert {t.kind for t in tasks()} == {"classification", "multilabel", "segmentation", "regression", "detection"}
    assert len(tasks("detection")) == 5 and all(t.table == 3 for t in tasks("detection"))
    assert [t.name for t in tasks(table=2, sensor="landsat")] == ["m-forestnet", "AWF-L8", "Nandi-L8"]


@pytest.mark.parametrize("t", tasks(), ids=lambda t: t.name)
def test_a_task_is_complete_and_agrees_with_itself(t):
    assert set(t.sensors) <= set(SENSORS) and t.sensors and t.facts and t.figures.endswith(f"Table {t.table}")
    assert (t.classes is None) == (t.kind == "regression") and (not t.names or len(t.names) == t.classes)
    assert t.higher_is_better == (t.metric != "L1") == ("(L1)" not in t.column)
    assert t.dates is None or t.dates >= 1
    assert t.head in ({"knn", "linear"} if t.table == 2 else {"pooled linear", "linear per patch", "Faster R-CNN"})
    assert t.table == 3 or (t.head == "knn") <= (t.kind in ("classification", "multilabel"))
    assert task(t.name) is t and task(t.name.upper()) is t


def test_best_on_15_of_24_and_19_of_29_without_a_tie():
    for table, won, of in ((2, 15, 24), (3, 19, 29)):
        w = wins(table)
        assert (int(w.won.sum()), int(w.tied.sum()), len(w)) == (won, 0, of)


def test_wins_follow_the_direction_of_the_metric_and_show_ties():
    both = (("LFMC-S2-ft", 18.0, 19.0), ("AWF-S2-ft", 80.0, 80.0), ("m-eurosat-ft", 90.0, 91.0))
    rows = figures(*(row for n, a, b in both for row in (("OE_Base", n, a), ("CROMA_B", n, b))))
    w = wins(3, figures=rows)
    assert w.won.to_dict() == {"m-eurosat-ft": False, "AWF-S2-ft": False, "LFMC-S2-ft": True} and w.tied.to_dict()["AWF-S2-ft"]
    assert w.loc["LFMC-S2-ft", "lead"] == 1.0 and w.loc["LFMC-S2-ft", "ours"] == 18.0
    assert not wins(3, "CROMA", rows).won["LFMC-S2-ft"]


def test_a_column_without_a_rival_is_no_win():
    rows = figures(("OE_Base", "m-eurosat-ft", 1.), ("OE_Base", "AWF-S2-ft", 1.), ("CROMA_B", "AWF-S2-ft", 2.))
    assert list(wins(3, figures=rows).index) == ["AWF-S2-ft"]


def test_the_untrained_network_is_no_olmoearth():
    assert (family("OE_Rand"), family("OE_Nano"), family("OlmoEarth_Nano"), family("DINOv3Sat_7B")) == ("random", "OlmoEarth", "OlmoEarth", "DINOv3Sat")
    assert "OE_Rand" not in set(wins(3)["best"])


def test_ranks_by_hand():
    rows = figures(("a", "m-eurosat-ft", 3.), ("b", "m-eurosat-ft", 2.), ("c", "m-eurosat-ft", 1.), ("a", "LFMC-S2-ft", 3.), ("b", "LFMC-S2-ft", 1.),
                   ("c", "AWF-S2-ft", 5.), ("a", "AWF-S2-ft", 5.))
    r = rank_table(3, rows)
    assert r["rank"].to_dict() == pytest.approx({"a": (1 + 2 + 1.5) / 3, "b": (2 + 1) / 2, "c": (3 + 1.5) / 2})
    assert r["beaten"].to_dict() == pytest.approx({"a": (1 + 0 + .5) / 3, "b": (.5 + 1) / 2, "c": (0 + .5) / 2})
    both = rank_table(3, rows, models=["a", "b"], common=True)
    assert both["tasks"].tolist() == [2, 2]


def test_intervals_hold_the_mean_and_repeat():
    a, b = rank_table(2, seed=1), rank_table(2, seed=1)
    assert a.equals(b) and ((a.low <= a["rank"]) & (a["rank"] <= a.high))[a.tasks >= 3].all()
    assert rank_table(2, seed=2).low.ne(a.low).any()


def test_large_minus_base_is_turned_the_right_way():
    wide, g = table_of(3), size_gain(3)
    assert g.loc["regression", "gain"] == pytest.approx(-((19.9 - 18.5) + (18.5 - 17.9)) / 2)
    diff = (wide.loc["OE_Large"] - wide.loc["OE_Base"]).dropna()
    assert g.loc["all", "gain"] == pytest.approx(diff[[c for c in diff.index if "L1" not in c]].mean()) and g.loc["all", "tasks"] == 17
    assert size_gain(2).loc["all", "tasks"] == 24


def test_measured_rows_stand_beside_published_ones():
    ours = measured(pd.DataFrame([{"model": "x", "task": "M-EUROSAT", "value": 1.0}]), source="run 7")
    assert tuple(ours.columns) == COLUMNS and ours.iloc[0].to_dict() == {"model": "x", "task": "m-eurosat", "value": 1.0, "metric": "accuracy", "higher_is_better": True,
                                                                       "source": "run 7", "origin": "measured"}
    both = pd.concat([published(2), ours], ignore_index=True)
    assert rank_table(2, both).loc["x", "origin"] == "measured" and table_of(2, both).shape == (27, 24)


def test_what_is_not_known_says_so():
    o = overview()
    assert o.loc["Solar-S2-ft", "metric"] == "not published" and o.loc["AWF-S2", "dates"] == 12
    assert not o.isna().any().any()


@pytest.mark.parametrize("call,says", [(lambda: task("m-eurosatt"), "near: m-eurosat"), (lambda: published(1), "2 holds"), (lambda: wins(2, "Nobody"), "families: Anysat"),
                                       (lambda: measured(pd.DataFrame([{"model": "x"}])), "lack task, value"),
                                       (lambda: measured(pd.DataFrame([{"model": "x", "task": "?", "value": 1.}])), "no published task"),
                                       (lambda: size_gain(3, "Huge"), "no OlmoEarth of size Huge"), (lambda: rank_table(3, models=["OE_Base"]), "no task of table 3 is left")])
def test_mistakes_are_named(call, says):
    with pytest.raises(InputError, match=says): call()
