"The site's own parts, without Sphinx: what becomes of a cell, the menu, the API pages, and the search for lost links."
import importlib.util, json, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]

def script(name):
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

site, pages, api = (script(name) for name in ("site", "pages", "api"))

def code(source, outputs=(), **metadata):
    return dict(cell_type="code", id="a", metadata=metadata, source=source, outputs=list(outputs))

@pytest.mark.parametrize("source,part,what", [
    ("#| default_exp x", "engine", "remove"), ("#| hide\nf()", "tools", "remove"), ("", "tools", "remove"),
    ("#| export\nimport os\nfrom a import b", "1_method", "imports"), ("# checks\nassert f()", "1_method", "checks"),
    ("#| export\ndef f(): pass\nclass C: pass", "engine", "f, C"), ("#| export\ndef f(): pass", "1_method", "show"),
    ("#| export\nSIZES = dict(a=1)", "3_training", "SIZES"), ("f(3)", "tools", "show"), ("#| hide_input\nf()", "", "picture"),
    ("%timeit f()", "tools", "show")])
def test_what_becomes_of_a_cell(source, part, what):
    assert site.fate(code(source), part) == what

def test_a_cell_that_its_notebook_folds_is_folded_with_its_output_in_view():
    found = site.adapted(code("draw()", [dict(output_type="stream", name="stdout", text="x")], jupyter=dict(source_hidden=True)), "1_method", "1_method/x")
    assert found["metadata"]["tags"] == ["hide-input"] and found["outputs"] and found["metadata"]["mystnb"]["code_prompt_show"] == "code"

def test_a_widget_is_replaced_and_html_is_kept():
    both = dict(output_type="display_data", data={site.WIDGET: {}, "text/plain": "VBox()", "text/html": "<b>x</b>"})
    assert site.shown(both)["data"] == {"text/html": "<b>x</b>"}
    alone = dict(output_type="display_data", data={site.WIDGET: {}, "text/plain": "VBox()"})
    assert "kernel" in site.shown(alone)["data"]["text/markdown"]

def test_links_out_of_the_notebooks_are_turned():
    text = "[a](../../benchmarks/README.md#x) [b](2_cot.ipynb) [c](https://example.org) [d](../../Makefile) ![p](../images/a.png)"
    assert site.moved(text, "1_method/1_data") == ("[a](/about/benchmarks/README.md#x) [b](/1_method/2_cot.ipynb) "
                                                  "[c](https://example.org) d (`Makefile`) ![p](../images/a.png)")

def test_menu_and_list_for_programs_name_every_page_with_its_number():
    parts = pages.read_pages()
    books = {p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in ROOT.glob("nbs/*/*.ipynb")}
    menu, told = site.contents(parts), site.llms(parts, site.config())
    assert all(f"<{name}>" in menu and f"({name}.html)" in told for name in books)
    assert "1.5 Advantages <1_method/5_advantages>" in menu and "api/engine.files" in menu

def test_tenth_lesson_comes_after_the_ninth(tmp_path):
    book = json.dumps(dict(cells=[dict(cell_type="markdown", source="# T\n\n> s")]))
    for name in ("10_z", "9_y", "1_a"):
        (tmp_path / "0_start").mkdir(exist_ok=True)
        (tmp_path / "0_start" / f"{name}.ipynb").write_text(book)
    assert [p.number for p in pages.read_pages(tmp_path)["0_start"]] == ["0.1", "0.9", "0.10"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.ipynb").write_text(book)
    with pytest.raises(ValueError, match="move it to one of"): pages.read_pages(tmp_path)

def test_a_page_without_a_title_is_named(tmp_path):
    (tmp_path / "0_start").mkdir()
    (tmp_path / "0_start" / "1_a.ipynb").write_text(json.dumps(dict(cells=[dict(cell_type="code", source="1")])))
    with pytest.raises(ValueError, match="1_a.ipynb: give it a first cell"): pages.read_pages(tmp_path)

def test_a_hosted_page_is_pinned_and_has_badges_where_there_is_an_address():
    page = pages.read_pages()["1_method"][0]
    bare = site.hosted(page, dict(version="1.2"))
    assert "constraints.txt" in bare and "colab" not in bare and "ADDRESS-OF-YOUR-COPY" in bare
    told = site.hosted(page, dict(version="1.2", git_url="https://github.com/someone/videop2r"))
    assert "colab.research.google.com/github/someone/videop2r/blob/v1.2/nbs/1_method/1_data.ipynb" in told and "--branch v1.2" in told

def test_an_api_page_has_each_parameter_with_its_words():
    page = next(p for p in pages.read_pages()["1_method"] if p.module == "advantages")
    text = api.api_page(page, "videop2r")
    assert "| `eps` `float` = `0.0001` | added to the standard deviation |" in text
    from videop2r import advantages
    assert all(f"## `{name}`" in text for name in advantages.__all__)

def test_lost_links_and_what_a_page_would_fetch_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top">x</h1><a href="sub/b.html#here">b</a><a href="#top">t</a><a href="https://example.org">out</a>')
    (tmp_path / "sub" / "b.html").write_text('<p id="here"></p><a href="../index.html">a</a>')
    assert site.faults(tmp_path) == []
    (tmp_path / "sub" / "b.html").write_text('<a href="gone.html">a</a><script src="https://cdn.example.org/x.js"></script>'
                                            '<link rel="stylesheet" href="//fonts.example.org/a.css"><a href="../../etc">o</a>')
    assert site.faults(tmp_path) == ["index.html: sub/b.html#here names a place that is not there", "sub/b.html: ../../etc leads nowhere",
                                     "sub/b.html: fetches //fonts.example.org/a.css", "sub/b.html: fetches https://cdn.example.org/x.js",
                                     "sub/b.html: gone.html leads nowhere"]
