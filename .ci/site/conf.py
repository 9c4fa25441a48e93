"""How Sphinx builds the site: nothing is run, nothing comes from the network."""
project, author, html_title = "olmoearth", "the olmoearth authors", "olmoearth"
extensions = ["myst_nb"]
root_doc = "nbs/index"
html_theme = "furo"
html_copy_source = html_show_sphinx = False
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}                    # a stored page has no kernel to talk to
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["html_image", "colon_fence"]
suppress_warnings = ["misc.highlighting_failure", "mystnb.unknown_mime_type", "myst.header"]
exclude_patterns = ["**/.ipynb_checkpoints"]
html_theme_options = {"navigation_with_keys": True, "footer_icons": []}
