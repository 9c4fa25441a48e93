"""A small, fast OlmoEarth, with live maps to see what it does."""
# Written by hand, no notebook exports it: the version (nbdev keeps it here) and the names of daily use, each imported when it is first asked for.
__version__ = "0.1.0"

import importlib
import sys
from typing import Any

_HOME = {
    "Sample": "samples", "World": "synthetic", "example_scene": "datasets", "read_scene": "datasets", "check_sample": "checks",
    "Loader": "loading", "Config": "model", "OlmoEarth": "model", "TrainConfig": "trainer", "Trainer": "trainer",
    "save": "pretrained", "load": "pretrained", "describe": "pretrained",
    "embed_scene": "scenes", "open_scene": "sources", "open_embedding": "stores",
    "read_labels": "labels", "predict_scene": "predictions", "open_prediction": "predictions", "make_map": "mapping",
    "rgb": "maps", "pca_rgb": "maps", "classes_rgb": "maps", "picture": "maps", "show_map": "maps", "run_notebook": "experiments",
    "Canvas": "canvas", "MaskLab": "mask_lab", "Explorer": "explorer", "PredictionMap": "prediction_map", "Monitor": "monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME: raise AttributeError(f"module 'olmoearth' has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(importlib.import_module(f"olmoearth.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _in_ipython() -> None:
    "In a notebook, errors point to the lesson that explains them; elsewhere nothing is loaded for that."
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None: importlib.import_module("olmoearth.guide").install(shell)


_in_ipython()
