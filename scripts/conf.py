"""How Sphinx makes the site; `scripts/site.py` gives it its sources."""
import re
from configparser import ConfigParser
from pathlib import Path

_settings = ConfigParser(delimiters=["="], interpolation=None)
_settings.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")
project, author = _settings["DEFAULT"]["lib_name"], _settings["DEFAULT"]["author"]
release, project_copyright = _settings["DEFAULT"]["version"], _settings["DEFAULT"]["author"]

extensions = ["myst_nb", "sphinx_design"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode, nb_ipywidgets_js, nb_merge_streams = "off", {}, True
nb_render_markdown_format = "myst"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]

html_theme, html_title = "sphinx_book_theme", "videop2r"
html_theme_options = dict(home_page_in_toc=True, use_download_button=True, use_fullscreen_button=False, show_toc_level=2)
html_extra_path, html_static_path = ["../build/site-src/_extra"], ["site_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_math_renderer = "mathml"

def mathml(display):
    "A visitor that writes an equation as MathML, which a browser sets without a script."
    def visit(self, node):
        from docutils import nodes
        from latex2mathml.converter import convert
        text = re.sub(r"\\tag\{(.*?)\}", r"\\qquad (\1)", node.astext().replace("{aligned}", "{align*}"))
        made = convert(text, display=display)
        self.body.append(made if display == "inline" else f'<div class="equation">{made}</div>')
        raise nodes.SkipNode
    return visit

def setup(app):
    app.add_html_math_renderer("mathml", (mathml("inline"), None), (mathml("block"), None))
