"Writers of benchmarks in their published layouts, each a tiny data set: for the tests of the readers and of whole tasks."
import json
import pickle
import sys
import types
import warnings
from datetime import date

import h5py
import numpy as np
import rasterio

NAMES = ["01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - Vegetation Red Edge", "06 - Vegetation Red Edge", "07 - Vegetation Red Edge", "08 - NIR",
         "08A - Vegetation Red Edge", "09 - Water vapour", "10 - SWIR - Cirrus", "11 - SWIR", "12 - SWIR"]
CODES = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()


def tif(path, values, names=(), crs="EPSG:32636", transform=(10, 0, 500_000, 0, -10, 5_000_000), **tags):
    path.parent.mkdir(parents=True, exist_ok=True); path.unlink(missing_ok=True)
    values = values if values.ndim == 3 else values[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype, crs=crs,
                           transform=rasterio.Affine(*transform) if crs else None) as dst:
            dst.write(values)
            dst.update_tags(**tags)
            for i, n in enumerate(names, 1): dst.set_band_description(i, n)
    return path


def cut_short(path):
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 3])


def geobench(folder, bands, label=None, raster=None, day=None, crs=None, transform=None, order=None, split="train", name="a", text=False):
    "One file as the benchmark writes it, with objects of its own package in the pickle."
    own = types.ModuleType("geobench.dataset")
    own.Band = type("Band", (), {"__module__": "geobench.dataset", "__qualname__": "Band"})
    folder.mkdir(parents=True, exist_ok=True)
    facts = {} if label is None else {"label": label}
    with h5py.File(folder / f"{name}.hdf5", "w") as f:
        for k, v in {**bands, **({"label": raster} if raster is not None else {})}.items():
            stored = f"{k}_{day}" if day else k
            f[stored] = v
            info = own.Band()
            info.name, info.wavelength = k, .49
            facts[stored] = {"band_info": info, "date": date.fromisoformat(day) if day else None, "date_id": 0, "spatial_resolution": np.float64(10),
                             "meta_info": {"n": np.int64(3)}, "crs": crs, "transform": transform}
        facts["bands_order"] = order or list(f)
        if text: f.attrs["metadata_json"] = json.dumps({"label": label, "bands_order": facts["bands_order"]})
        else:
            sys.modules |= {"geobench": types.ModuleType("geobench"), "geobench.dataset": own}
            try: f.attrs["pickle"] = str(pickle.dumps(facts))
            finally:
                for m in ("geobench", "geobench.dataset"): del sys.modules[m]
    parts = {"train": [], "valid": [], "test": []}
    (folder / "default_partition.json").write_text(json.dumps({**parts, split: [name]}))
    return folder


def numbered(names=NAMES, side=4, dtype=np.int16):
    return {n: np.full((side, side), 100 * (i + 1), dtype) for i, n in enumerate(names)}


def pastis(folder, patches=((10, 1), (11, 4), (12, 5), (13, 3)), bands=10, side=8):
    days = [f"{y}{m:02d}{d}" for y, ms in ((2018, range(9, 13)), (2019, range(1, 11))) for m in ms for d in ("05", "25")]
    features = []
    for d in ("DATA_S2", "DATA_S1A", "DATA_S1D", "ANNOTATIONS"): (folder / d).mkdir(parents=True, exist_ok=True)
    for k, fold in patches:
        np.save(folder / f"DATA_S2/S2_{k}.npy", np.broadcast_to((np.arange(28)[:, None] * 100 + np.arange(bands))[:, :, None, None], (28, bands, side, side)).astype(np.int16))
        radar = np.array([-10, -17, 7.], np.float16)[None, :, None, None]
        for o, n in (("A", 14), ("D", 20)): np.save(folder / f"DATA_S1{o}/S1{o}_{k}.npy", np.broadcast_to(radar, (n, 3, side, side)))
        np.save(folder / f"ANNOTATIONS/TARGET_{k}.npy", np.stack([np.where(np.eye(side) > 0, 19, 18)] + [np.zeros((side, side))] * 2).astype(np.uint8))
        dated = {n: {str(i): int(d) for i, d in enumerate(v)} for n, v in {"dates-S2": days, "dates-S1A": days[::2], "dates-S1D": days[:20]}.items()}
        features.append({"type": "Feature", "geometry": None, "properties": {"ID_PATCH": k, "Fold": fold, **dated}})
    (folder / "metadata.geojson").write_text(json.dumps({"features": features}))
    return folder


MADOS = {442: 60, 492: 10, 559: 10, 665: 10, 704: 20, 740: 20, 780: 20, 833: 10, 864: 20, 1610: 20, 2186: 20}


def mados(folder, names=("Scene_0_1", "Scene_12_34"), leave=(), side=24, split="train"):
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    (folder / f"splits/{split}_X.txt").write_text("\n".join(names) + "\n\n")
    for n in names:
        scene, _, crop = n.rpartition("_")
        for nm, res in MADOS.items():
            if nm not in leave: tif(folder / scene / str(res) / f"{scene}_L2R_rhorc_{nm}_{crop}.tif", np.full((side * 10 // res,) * 2, nm / 1e4, np.float32), crs=None)
        tif(folder / scene / "10" / f"{scene}_L2R_cl_{crop}.tif", np.where(np.eye(side) > 0, 15, 0).astype(np.uint8), crs=None)
    return folder


def floods(folder, chip="Ghana_1", flat=False, s1=2, s2=13, side=8):
    home = folder if flat else folder / "v1.1/data/flood_events/HandLabeled"
    where = lambda k: home / ("" if flat else k) / f"{chip}_{k}.tif"
    g = {"crs": "EPSG:4326", "transform": (1e-4, 0, -1, 0, -1e-4, 8)}
    label = np.zeros((side, side), np.int16); label[:2, :2] = 1; label[-1, -1] = -1
    tif(where("S1Hand"), np.broadcast_to(np.array([-10, -17], np.float32)[:s1, None, None], (s1, side, side)).copy(), **g)
    tif(where("S2Hand"), np.broadcast_to(100 * np.arange(1, s2 + 1, dtype=np.int16)[:, None, None], (s2, side, side)).copy(), **g)
    tif(where("LabelHand"), label, **g)
    splits = folder / ("" if flat else "v1.1/splits/flood_handlabeled"); splits.mkdir(parents=True, exist_ok=True)
    (splits / "flood_valid_data.csv").write_text(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")
    return where


def breizh(folder, regions=None, bands=17, days=("2017-01-05", "2017-01-25", "2017-02-04", "2017-02-04")):
    (folder / "2017/L1C").mkdir(parents=True, exist_ok=True)
    (folder / "classmapping.csv").write_text(",code,id,classname\n0,ORH,0,barley\n1,BTH,1,wheat\n")
    for region, codes in (regions or {"frh01": ["ORH", "XXX"], "frh02": ["BTH"], "frh03": ["BTH"], "frh04": ["ORH"]}).items():
        rows = ["id,CODE_CULTU,path,meanQA60,idx,sequencelength"]
        with h5py.File(folder / f"2017/L1C/{region}.h5", "w") as f:
            for i, c in enumerate(codes):
                f[f"csv/{region}/{i}.csv"] = np.column_stack([np.arange(len(days))[:, None] * 10. + np.arange(bands - 1) * 100, np.array(days, "datetime64[ns]").astype(np.int64)])
                rows.append(f"{i},{c},csv/{region}/{i}.csv,0,{i},{len(days)}")
        (folder / f"2017/L1C/{region}.csv").write_text("\n".join([*rows, "9,ORH,none,0,9,0"]) + "\n")
    return folder


def harvest(folder, places, bands=18, test=(1, 0, -1)):
    (folder / "features/arrays").mkdir(parents=True, exist_ok=True); (folder / "test_features").mkdir(exist_ok=True)
    base = {"dataset": "togo", "lon": 1.0, "lat": 8.0, "is_test": False, "export_end_date": "2020-02-01T00:00:00"}
    rows = [{**base, **p} for p in places]
    (folder / "labels.geojson").write_text(json.dumps({"features": [{"properties": r} for r in rows]}))
    x = np.arange(bands)[None] + 100. * np.arange(12)[:, None]
    for r in rows:
        with h5py.File(folder / f"features/arrays/{r['index']}_{r['dataset']}.h5", "w") as f: f["array"] = x
    for name in ("togo-eval", "china-crop"):
        with h5py.File(folder / f"test_features/{name}.h5", "w") as f: f["x"], f["y"] = np.stack([x] * len(test)), np.array(test)
    return folder
