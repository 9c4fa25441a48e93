"""Write README.md from nbs/index.ipynb: links and pictures are found from the top folder, cells tagged `hide` are left out."""
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

TOP = Path(__file__).resolve().parent.parent


def readme() -> str:
    "The text of README.md."
    nb = nbformat.read(TOP / "nbs/index.ipynb", as_version=4)
    nb.metadata.language_info = {"name": "python"}
    text, _ = MarkdownExporter(config=Config({"TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": ["hide"]}})).from_notebook_node(nb)
    text = re.sub(r"\]\((images/|experiments/|\d\d[a-z]*_)", r"](nbs/\1", text).replace("](../", "](")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__": (TOP / "README.md").write_text(readme(), encoding="utf-8")
