"""How Sphinx builds the site: nothing is run, nothing comes from the network."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # a grammar of addresses that jsonschema would build at each start, for seconds, and that no notebook needs

project, author, html_title = "olmoearth", "the olmoearth authors", "olmoearth"
extensions = ["myst_nb", "quick"]
root_doc = "nbs/index"
html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = html_show_sphinx = smartquotes = False
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}                    # a stored page has no kernel to talk to
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["html_image", "colon_fence"]
suppress_warnings = ["misc.highlighting_failure", "mystnb.unknown_mime_type", "myst.header"]
exclude_patterns = ["**/.ipynb_checkpoints"]
html_theme_options = {"navigation_with_keys": True, "footer_icons": []}
add_module_names = False                       # the page says which module it is
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"
modindex_common_prefix = ["olmoearth."]
