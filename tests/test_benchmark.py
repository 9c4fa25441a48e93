"Whole tasks: each of the registry runs on a tiny data set in its published layout; the command; and one clear line for what does not fit."
import json
import warnings

import numpy as np
import pytest

pytest.importorskip("h5py")
pd = pytest.importorskip("pandas")
from layouts import NAMES, breizh, cut_short, floods, geobench, harvest, mados, numbered, pastis, tif
from typer.testing import CliRunner

from olmoearth.benchmark import Split, embedder_of, on_slots, run_task, score_of, shifted, shifts_to_pretraining, simulated_eurosat, slots_of
from olmoearth.beside import beside, compare_runs, of_task, plot_examples, plot_task, read_rows, sortable
from olmoearth.checks import InputWarning
from olmoearth.commands import app, task_lines
from olmoearth.loading import normalise
from olmoearth.modalities import modality
from olmoearth.protocol import METRICS
from olmoearth.readers import read_task
from olmoearth.samples import InputError, Sample
from olmoearth.settings import rng
from olmoearth.stacks import write_geotiffs
from olmoearth.synthetic import World
from olmoearth.tasks import measured, rank_table, table_of, task, tasks

SPLITS = {"train": 10, "valid": 4, "test": 6}
QUICK = {"linear": {"rates": (1e-2,), "epochs": 2}, "finetune": {"epochs": 1, "lr": 1e-3}}
warnings.simplefilter("ignore", InputWarning)


def halves(side, low=0, high=1):
    "A label raster of two classes."
    v = np.full((side, side), low, np.int16); v[:, side // 2:] = high
    return v


def of_geobench(t, folder):
    "Two classes that differ in brightness, as one file a sample."
    home, partition = folder / t.folder, {}
    names = ["04 - Red", "03 - Green", "02 - Blue", "05 - NIR", "06 - SWIR1", "07 - SWIR2"] if "landsat" in t.sensors else NAMES
    for split, n in SPLITS.items():
        partition[split] = [f"{split}{i}" for i in range(n)]
        for i, name in enumerate(partition[split]):
            draw = rng(0, t.name, name)
            small = "landsat" in t.sensors                                             # display values
            noise = {k: np.clip(v / (20 if small else 1) + 40 * (i % 2) + draw.normal(0, 5, (8, 8)), 1, 255 if small else 9999) for k, v in numbered(names, 8).items()}
            label = {"classification": i % 2, "multilabel": (draw.random(t.classes or 1) < .5).astype(int)}.get(t.kind)
            bands = {k: v.astype(np.uint8 if small else np.int16) for k, v in noise.items()}
            geobench(home, bands, label, halves(8) if t.kind == "segmentation" else None, name=name)
    (home / "default_partition.json").write_text(json.dumps(partition))


def of_pastis(t, folder):
    home = pastis(folder / t.folder, ((10, 1), (11, 2), (12, 4), (13, 5), (14, 5)), side=64)
    for f in (home / "ANNOTATIONS").iterdir(): np.save(f, np.stack([halves(64, 1, 2)] * 3).astype(np.uint8))


def of_mados(t, folder):
    for k, split in enumerate(("train", "val", "test")):
        names = [f"Scene_{k}_{i}" for i in range(2)]
        home = mados(folder / t.folder, names, side=80, split=split)
        for n in names: tif(home / f"Scene_{k}/10/Scene_{k}_L2R_cl_{n[-1]}.tif", halves(80, 1, 2).astype(np.uint8), crs=None)


def of_floods(t, folder):
    for k, split in enumerate(("train", "valid", "test")):
        for i in range(2): floods(folder, f"Ghana_{k}{i}", side=64)
        text = "".join(f"Ghana_{k}{i}_S1Hand.tif,Ghana_{k}{i}_LabelHand.tif\n" for i in range(2))
        (folder / f"v1.1/splits/flood_handlabeled/flood_{split}_data.csv").write_text(text)


def of_breizh(t, folder):
    breizh(folder / t.folder, {r: ["ORH", "BTH"] * 3 for r in ("frh01", "frh02", "frh03", "frh04")})


def of_harvest(t, folder):
    china = {"lon": 100., "lat": 30.}
    harvest(folder / t.folder, [{"index": i, "is_crop": i % 2 == 0, **(china if i > 19 else {})} for i in range(40)], test=(1, 0, 1, 0, -1))


def of_labelled(t, folder, images):
    "GeoTIFFs of simulated ground, and labels.csv for the kind of the task."
    home, rows = folder / t.folder, []
    home.mkdir(parents=True)
    for i in range(20):
        (home / f"w{i}").symlink_to(images / f"w{i}")
        split = "train" if i < 10 else "valid" if i < 14 else "test"
        label = {"classification": i % 2, "regression": i * 1.5}.get(t.kind, "")
        rows.append(f"w{i},{split},{label}")
        if t.kind == "segmentation": tif(home / f"labels/w{i}.tif", halves(8).astype(np.uint8))
    (home / "labels.csv").write_text("\n".join(["name,split,label", *rows]) + "\n")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    "Twenty small scenes of three sensors and three dates."
    home = tmp_path_factory.mktemp("images")
    whole = World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(716160, -7936, 40, 2020, 3, ("sentinel2_l2a", "sentinel1", "landsat"))
    for i in range(20):
        s = whole.crop(8 * (i // 5), 8 * (i % 5), 8)
        s.labels.clear()
        write_geotiffs(s, home / f"w{i}")
    return home


@pytest.fixture(scope="session")
def data(tmp_path_factory, images):
    "Task -> folder with its tiny data set, written once for tasks that share it."
    held = {}
    def folder(t):
        key = t.reader, t.folder, t.kind
        if key not in held:
            held[key] = tmp_path_factory.mktemp(t.reader)
            write = {"geobench": of_geobench, "pastis": of_pastis, "mados": of_mados, "sen1floods11": of_floods, "breizhcrops": of_breizh, "cropharvest": of_harvest}.get(t.reader)
            if write: write(t, held[key])
            else: of_labelled(t, held[key], images)
        return held[key]
    return folder


def run(t, data, word, probe=None, **more):
    t = task(t) if isinstance(t, str) else t
    probe = probe or (t.head if t.table == 2 else None)
    return run_task(t, data(t), word, probe, metric=None if t.metric else "mIoU", **{**QUICK.get(probe or "finetune", {}), **more})


@pytest.mark.parametrize("t", [t for t in tasks() if t.kind != "detection"], ids=lambda t: t.name)
def test_each_task_runs_from_its_layout_to_a_row(t, data):
    "Table 2 as published, Table 3 by a probe, since the folders are the same."
    probe = {"regression": "ridge", "segmentation": "linear"}.get(t.kind, "knn") if t.table == 3 else None
    r = run(t, data, "pixels", probe, most=2 if probe == "linear" else None)
    name, factor = score_of(t, None if t.metric else "mIoU")
    assert r.value == pytest.approx(factor * METRICS[name][0](*(v[r.truth >= 0] if t.kind == "segmentation" else v for v in (r.truth, r.said))), abs=1e-9)
    assert r.metric == (t.metric or "mIoU") and r.higher_is_better == t.higher_is_better and r.probe == (probe or t.head) and min(r.train, r.valid_n, r.test) >= 1
    assert (r.low <= r.value <= r.high) and len(r.images) == r.test == len(r.truth)
    json.dumps(r.row, allow_nan=False)
    row = measured(pd.DataFrame([r.row])).iloc[0]
    assert row.origin == "measured" and row.task == t.name and row.value == r.value
    if t.reader == "geobench" and t.kind == "classification" and t.table == 2: assert r.statistics == ("data set" if t.sensors == ("landsat",) else "pretraining")


@pytest.mark.parametrize("t", tasks("detection"), ids=lambda t: t.name)
def test_objects_have_no_probe_and_say_what_to_do(t, tmp_path):
    with pytest.raises(InputError, match="chapter 17c"): run_task(t.name, tmp_path)


@pytest.mark.parametrize("name", ["m-eurosat", "m-forestnet", "CH-Togo-S1S2", "BreizhCrops", "AWF-L8", "Sen1Floods11-S1"])
def test_our_model_runs(name, data):
    r = run(name, data, "sim-nano")
    assert r.model == "sim-nano" and np.isfinite(r.value)


@pytest.mark.parametrize("name", ["m-eurosat-ft", "m-bigearthnet-ft", "m-cashew-ft", "LFMC-S1S2-ft"])
def test_fine_tuning_of_every_kind(name, data):
    r = run(name, data, "sim-nano")
    assert r.probe == "finetune" and np.isfinite(r.value) and r.said.shape == r.truth.shape and r.chosen["rate"] == 1e-3
    if name == "m-cashew-ft": assert r.value == pytest.approx(run(name, data, "sim-nano").value), "a seed repeats"


def test_a_class_with_a_single_label_does_not_stop_fine_tuning(data, tmp_path):
    t = task("AWF-S2-ft")
    home = data(t) / t.folder
    for p in home.iterdir(): (tmp_path / p.name).symlink_to(p)
    text = (home / "labels.csv").read_text().replace("w0,train,0", "w0,train,5")
    (tmp_path / "labels.csv").unlink(); (tmp_path / "labels.csv").write_text(text.replace("w15,test,1", "w15,test,5"))
    with pytest.warns(InputWarning, match=r"test has class 5 \(open water\), which cannot be learned from train"): r = run_task(t, tmp_path, "sim-nano", epochs=1, lr=1e-3)
    assert 5 in r.truth and 5 not in r.said


@pytest.mark.parametrize("word", ["pixels", "random-conv", "pca", "random-weights", "sim-nano"])
def test_words(word, data):
    a, b = (run("m-so2sat", data, word, most=4, seed=1) for _ in range(2))
    assert (a.said == b.said).all() and a.train == 4 and a.most == 4


def test_an_embedder_of_ones_own(data):
    class Mean:
        name, needs = "mean", ("sentinel2_l2a",)
        def embed(self, samples, patch_size): return np.stack([s.arrays["sentinel2_l2a"].mean((0, 1, 2))[None, None] for s in samples]).astype(np.float32)
    assert run("m-so2sat", data, Mean()).model == "mean"
    with pytest.raises(InputError, match="int is no embedder"): embedder_of(3)


def test_samples_of_different_sizes_and_dates(tmp_path):
    "A series of a single pixel beside a small image, and a field that lacks a month."
    whole = World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(716160, -7936, 40, 2020, 12, ("sentinel2_l2a",))
    whole.labels.clear()
    for i in range(20):
        s = whole.crop(i, 0, (8, 12, 4)[i % 3] if i < 14 else 8)
        write_geotiffs(s.at_times([t for t in range(12) if t != i]) if i < 6 else s, tmp_path / f"w{i}")
    (tmp_path / "labels.csv").write_text("name,split,label\n" + "".join(f"w{i},{'train' if i < 10 else 'valid' if i < 14 else 'test'},{i % 2}\n" for i in range(20)))
    for word in ("pixels", "sim-nano"): assert np.isfinite(run_task("AWF-S2", tmp_path, word, "knn").value)
    few = Split(task("AWF-S2"), tmp_path, "train").some(10)
    months = slots_of(few, 12)
    for s in few:
        there = on_slots(s, months)
        assert there.n_times == 12 and (np.diff(there.times.astype(int)) > 0).all()
        for t, m in zip(s.times, s.arrays["sentinel2_l2a"].transpose(2, 0, 1, 3)):
            at = int(np.flatnonzero(there.times == t)[0])
            assert at == int(t.astype("datetime64[M]").astype(int) % 12) and np.array_equal(there.arrays["sentinel2_l2a"][:, :, at], m)


def test_slots_of_a_series_over_new_year_and_of_one_that_does_not_fit():
    def series(*days): return Sample({"sentinel1": np.arange(len(days) * 2, dtype=np.float32).reshape(1, 1, -1, 2)}, np.array(days, "datetime64[D]"))
    full = series(*(f"{2018 + (m > 12)}-{(m - 1) % 12 + 1:02d}-01" for m in range(9, 21)))
    months = slots_of([series("2018-09-01"), full], 12)
    assert months.tolist() == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7] and on_slots(full, months) is full
    part = on_slots(series("2018-10-05", "2019-02-05"), months)
    assert np.flatnonzero(~part.mask("sentinel1").all((0, 1, 3))).tolist() == [1, 5] and (np.diff(part.times.astype(int)) > 0).all()
    twice = on_slots(series("2018-10-05", "2018-10-25"), months)
    assert np.flatnonzero(~twice.mask("sentinel1").all((0, 1, 3))).tolist() == [0, 1] and twice.n_times == 12
    assert on_slots(series(*(f"2018-09-{d:02d}" for d in range(1, 15))), months).n_times == 12


def test_statistics_of_the_data_set_reach_those_of_pretraining():
    draw, k = rng(0, "statistics"), "landsat"
    many = [Sample({k: draw.normal(100, 20, (6, 6, 1, modality(k).n_bands))}, np.array(["2020-01-01"])) for _ in range(20)]
    for s in many: s.missing[k] = np.zeros(s.arrays[k].shape, bool); s.missing[k][..., 3] = True; s.arrays[k][..., 4] = 7
    shifts = shifts_to_pretraining(many)
    x = normalise(k, np.concatenate([shifted(s, shifts).arrays[k] for s in many]))
    good = [i for i in range(modality(k).n_bands) if i not in (3, 4)]
    assert np.allclose(x[..., good].mean((0, 1, 2)), .5, atol=1e-3) and np.allclose(x[..., good].std((0, 1, 2)), .25, atol=1e-3)
    assert shifts[k][0][3] == 1 and shifts[k][0][4] == 1, "a band without values, and one without spread, stay"


def test_tiles_of_an_image_are_drawn_together(tmp_path):
    for k, split in enumerate(("train", "valid", "test")):
        for i in range(2): floods(tmp_path, f"Ghana_{k}{i}", side=128)
        for i in range(2):
            v = np.zeros((128, 128), np.int16); v[::5] = 1
            tif(tmp_path / f"v1.1/data/flood_events/HandLabeled/LabelHand/Ghana_{k}{i}_LabelHand.tif", v, crs="EPSG:4326", transform=(1e-4, 0, -1, 0, -1e-4, 8))
        text = "".join(f"Ghana_{k}{i}_S1Hand.tif,Ghana_{k}{i}_LabelHand.tif\n" for i in range(2))
        (tmp_path / f"v1.1/splits/flood_handlabeled/flood_{split}_data.csv").write_text(text)
    t = task("Sen1Floods11-S1")
    assert [i for _, i in Split(t, tmp_path, "test")] == [0] * 4 + [1] * 4
    assert sorted(i for _, i in Split(t, tmp_path, "test", 2)) == [0, 1], "few tiles come from many images"
    r = run_task(t, tmp_path, "pixels", rates=(1e-2,), epochs=1)
    assert r.test == 8 and r.images.tolist() == [0] * 4 + [1] * 4
    (tmp_path / "v1.1/splits/flood_handlabeled/flood_test_data.csv").write_text("Ghana_20_S1Hand.tif,Ghana_20_LabelHand.tif\n")
    assert np.isnan(run_task(t, tmp_path, "pixels", rates=(1e-2,), epochs=1).low), "one image gives no interval"


def test_most_is_drawn_at_random_and_the_same_for_all(data):
    t = task("m-so2sat")
    names = lambda seed: [e.sample.name for e, _ in Split(t, data(t), "train", 5, seed)]
    assert names(0) == names(0) != names(1) and len(set(names(0))) == 5
    assert [e.sample.name for e, _ in Split(t, data(t), "train")] == read_task(t, data(t), "train").names


def test_faults_are_one_line(data, tmp_path):
    t, folder = task("m-so2sat"), data(task("m-so2sat"))
    forest = data(task("m-forestnet"))
    for call, says in (
        (lambda: run_task("m-so2sta", folder), "near: m-so2sat"),
        (lambda: run_task(t, tmp_path), "holds no default_partition.json"),
        (lambda: run_task(t, folder, "no-model"), "no model 'no-model'.*Words that are understood besides: pixels"),
        (lambda: run_task(t, folder, most=1), "give 2 or more"),
        (lambda: run_task(t, folder, probe="ridge"), "probe='ridge' does not do classification"),
        (lambda: run_task(t, folder, metric="mIoU"), "published as accuracy"),
        (lambda: run_task(t, folder, statistics="mine"), "use 'pretraining' or 'data set'"),
        (lambda: run_task(t, folder, "pixels", "finetune"), "only models of this package"),
        (lambda: run_task("m-forestnet", forest, "galileo-random"), "gives landsat; .* reads sentinel2_l2a, sentinel1|there is no folder of this peer"),
        (lambda: score_of(task("Solar-S2-ft"), "best"), "metric='best'"),
    ):
        with pytest.raises(InputError, match=says): call()


def test_empty_splits_and_broken_files(tmp_path):
    home = of_geobench(task("m-so2sat"), tmp_path) or tmp_path / task("m-so2sat").folder
    page = json.loads((home / "default_partition.json").read_text())
    (home / "default_partition.json").write_text(json.dumps({**page, "valid": []}))
    with pytest.raises(InputError, match="m-so2sat: no valid samples in"): run_task("m-so2sat", tmp_path, "pixels")
    (home / "default_partition.json").write_text(json.dumps({**page, "train": [n for i, n in enumerate(page["train"]) if i % 2]}))
    with pytest.raises(InputError, match="one class only"), pytest.warns(InputWarning, match="test has class 0, which cannot be learned"): run_task("m-so2sat", tmp_path, "pixels")
    (home / "default_partition.json").write_text(json.dumps(page)); cut_short(home / "test0.hdf5")
    with pytest.raises(InputError, match="test0.hdf5 cannot be read"): run_task("m-so2sat", tmp_path, "pixels")


def test_a_model_that_reads_a_part_of_the_sensors_says_so(data):
    class OnlyS1:
        name, needs = "radar", ("sentinel1",)
        def embed(self, samples, patch_size): return np.stack([s.arrays["sentinel1"].mean((0, 1, 2))[None, None] for s in samples]).astype(np.float32)
    with pytest.warns(InputWarning, match="radar does not read sentinel2_l2a of CH-Togo-S1S2"): run("CH-Togo-S1S2", data, OnlyS1())
    with pytest.raises(InputError, match="CH-Togo-S2 gives sentinel2_l2a; radar reads sentinel1"): run("CH-Togo-S2", data, OnlyS1())


def test_rows_on_disk_and_beside_the_published(data, tmp_path):
    runs = [run("m-so2sat", data, "pixels", seed=s) for s in (0, 1)] + [run("m-so2sat", data, "pixels", "linear"), run("m-so2sat", data, "random-conv", most=6)]
    for r in runs: r.save(tmp_path / "deep/er")
    assert read_rows(tmp_path).set_index("model").loc["random conv", "value"] == runs[3].value and len(read_rows(tmp_path)) == 4
    figures = beside(read_rows(tmp_path), 2)
    mine = figures[figures.origin == "measured"].set_index("model")
    assert set(mine.index) == {"pixels", "pixels (linear)", "random conv (6 samples)"} and mine.loc["pixels", "runs"] == 2
    assert mine.loc["pixels", "value"] == pytest.approx((runs[0].value + runs[1].value) / 2)
    assert beside(read_rows(tmp_path), 3).origin.eq("published").all() and table_of(2, figures).shape[1] == 24 and "pixels" in rank_table(2, figures).index
    pd.DataFrame([{"model": "OE_Base", "task": "LFMC-S2-ft", "value": 1.}]).to_csv(tmp_path / "own.csv", index=False)
    best = of_task(beside(read_rows(tmp_path), 3), "LFMC-S2-ft").iloc[0]
    assert (best.model, best.origin) == ("OE_Base (measured)", "measured"), "an error is sorted the other way, and a published name is not taken"
    assert plot_task(figures, "m-so2sat").get_title().startswith("m-so2sat")
    page = sortable(pd.DataFrame({"a<b": [1., np.nan], "c": ["x'y", None]}, index=["r", "s"]), red=["s"])
    assert "a&lt;b" in page and "x&#x27;y" in page and page.count("data-v=''") == 2 and page.count("c03030") == 1
    (tmp_path / "bad.csv").write_text("model,score\nx,1\n")
    with pytest.raises(InputError, match="bad.csv lacks task, value"): read_rows(tmp_path)


def test_differences_are_paired(data):
    a, b = run("m-so2sat", data, "pixels"), run("m-so2sat", data, "random-conv")
    there, back = compare_runs(a, b), compare_runs(b, a)
    assert there["gain"] == pytest.approx(a.value - b.value) == pytest.approx(-back["gain"]) and there["low"] == pytest.approx(-back["high"])
    with pytest.raises(InputError, match="not the same samples"): compare_runs(a, run("m-so2sat", data, "pixels", most=4))
    worse, better = run("LFMC-S2-ft", data, "pixels", "ridge"), run("LFMC-S2-ft", data, "pixels", "knn")
    assert compare_runs(worse, better)["gain"] == pytest.approx(better.value - worse.value), "of an error, less is better"


@pytest.mark.parametrize("name", ["m-eurosat", "m-forestnet", "m-bigearthnet", "Sen1Floods11-S1", "BreizhCrops", "CH-Togo-S1", "LFMC-S2-ft"])
def test_examples_can_be_seen(name, data):
    import matplotlib.pyplot as plt
    fig = plot_examples(name, data(task(name)), 3)
    assert fig.axes and (fig.axes[0].get_images() or fig.axes[0].get_lines())
    plt.close("all")


def test_the_command_from_end_to_end(tmp_path):
    simulated_eurosat(tmp_path, (3, 1, 2))
    done = CliRunner().invoke(app, ["benchmark", "m-eurosat", "--data", str(tmp_path), "--model", "pixels", "--out", str(tmp_path / "out"), "--most", "20"])
    assert done.exit_code == 0, done.output
    assert "<- measured" in done.output and "OlmoEarth_Base" in done.output
    (row,) = read_rows(tmp_path / "out").to_dict("records")
    assert row["most"] == 20 and (tmp_path / "out/m-eurosat-seed-0.html").stat().st_size > 10_000 and (tmp_path / "out/metrics.parquet").exists()


@pytest.mark.parametrize("name", sorted({t.reader: t.name for t in tasks() if t.kind != "detection" and t.metric}.values()))
def test_the_command_looks_into_the_folder_before_it_runs_a_notebook(tmp_path, name):
    (wrong := tmp_path / "wrong").mkdir()
    (wrong / "thesis.tex").touch()
    done = CliRunner().invoke(app, ["benchmark", name, "--data", str(wrong), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and done.output.count("\n") == 1 and "stopped in cell" not in done.output and not (tmp_path / "out").exists(), done.output


def test_the_command_lists_the_tasks_and_says_what_is_wrong(tmp_path):
    for words in (["benchmark"], ["benchmark", "list"], ["benchmark", "--list"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0 and done.output.splitlines() == task_lines() and len(task_lines()) == 54
    for words, says in ((["m-eurosat"], "needs its data"), (["m-eurosad", "--data", "x"], "near: m-eurosat"), (["m-eurosat", "--data", str(tmp_path / "no")], "there is no folder"),
                        (["VesDet-S1-ft", "--data", str(tmp_path)], "chapter 17c"), (["Solar-S2-ft", "--data", str(tmp_path)], "metric='mIoU'")):
        done = CliRunner().invoke(app, ["benchmark", *words])
        assert done.exit_code == 1 and says in done.output and "Traceback" not in done.output
