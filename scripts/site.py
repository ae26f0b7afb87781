"""Make a site of the notebooks: sources in build/site-src, pages in build/site; nothing is executed, nothing is fetched.

`python scripts/site.py` does all; `--sources` stops before Sphinx, `--check` looks at a site that is there.
"""
import argparse, ast, json, posixpath, re, shutil, subprocess, sys, zlib
from configparser import ConfigParser
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from api import api_page
from pages import PARTS, ROOT, read_pages

SRC, OUT = ROOT / "build" / "site-src", ROOT / "build" / "site"
ABOUT = ("CONTRIBUTING.md", "CHANGELOG.md", "data_samples/README.md", "benchmarks/README.md")
OPEN = ("0_start", "1_method") # where the code is the lesson
WIDGET = "application/vnd.jupyter.widget-view+json"

def config():
    "The project's metadata."
    found = ConfigParser(delimiters=["="], interpolation=None)
    found.read(ROOT / "settings.ini", encoding="utf-8")
    return found["DEFAULT"]

# cells

def tree(source):
    "The statements of a cell, its magics left out; none where it cannot be read."
    try: return ast.parse("\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())).body
    except SyntaxError: return []

def defined(source):
    "The names that a cell defines."
    named = [n.name for n in tree(source) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    values = [t.id for n in tree(source) if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return named or values

def fate(cell, part):
    "What becomes of a cell: `remove`, `show`, or the words on the fold that holds it."
    source = "".join(cell["source"])
    body = [n for n in tree(source) if not isinstance(n, ast.Pass)]
    if re.search(r"^#\|\s*(hide|default_exp)\b", source, re.M) or cell["cell_type"] == "raw" or not source.strip(): return "remove"
    if cell["cell_type"] != "code": return "show"
    if re.search(r"^#\|\s*hide_input\b", source, re.M): return "picture"
    if body and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body): return "imports"
    if re.match(r"#\s*checks\b", source): return "checks"
    exported = re.search(r"^#\|\s*exports?\b", source, re.M)
    folded = cell["metadata"].get("jupyter", {}).get("source_hidden")
    if folded or exported and part not in OPEN: return ", ".join(defined(source)[:4]) or "code"
    return "show"

def shown(output):
    "An output as a page without a kernel can show it."
    if WIDGET not in output.get("data", {}): return output
    data = {kind: value for kind, value in output["data"].items() if kind not in (WIDGET, "text/plain")}
    return output | dict(data=data or {"text/markdown": "*Controls stand here in JupyterLab; they need a kernel.*"})

def described(cell):
    "The words that stand for a cell's picture."
    told = [o.get("metadata", {}).get("image/png", {}).get("alt") for o in cell.get("outputs", [])]
    return next(filter(None, told), "Picture that the code above draws")

def moved(text, name):
    "Links of a page `name` that lead out of nbs/, turned to where those files stand on the site."
    def turn(found):
        link, _, anchor = found[2].partition("#")
        target = posixpath.normpath(posixpath.join("nbs", posixpath.dirname(name), link)) if link else ""
        if re.match(r"\w+:", link) or not link: return found[0]
        if target.startswith("nbs/"): return f"[{found[1]}]({target.replace('nbs', '', 1)}{'#' + anchor if anchor else ''})"
        if target in ABOUT: return f"[{found[1]}](/about/{target}{'#' + anchor if anchor else ''})"
        return f"{found[1]} (`{target}`)"
    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", turn, text)

def adapted(cell, part, name):
    "A cell as the site has it; None where it has it not."
    what = fate(cell, part)
    if what == "remove": return None
    cell = json.loads(json.dumps(cell))
    if cell["cell_type"] == "markdown": return cell | dict(source=moved("".join(cell["source"]), name))
    code = "".join(cell["source"])
    cell["source"] = "\n".join(l for l in code.splitlines() if not l.startswith("#|")).lstrip("\n")
    cell["outputs"] = [shown(output) for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    cell["metadata"] = dict(mystnb=dict(image=dict(alt=described(cell))))
    if what == "picture": cell["metadata"]["tags"] = ["remove-input"]
    elif what != "show":
        cell["metadata"]["tags"] = ["hide-input"]
        cell["metadata"]["mystnb"] |= dict(code_prompt_show=what, code_prompt_hide=what)
    return cell

# pages

def hosted(page, settings):
    "How to run a page where somebody else's GPU is; badges where the project has an address."
    home, tag = settings.get("git_url", "").rstrip("/"), f"v{settings['version']}"
    where = home or "ADDRESS-OF-YOUR-COPY"
    branch = f"--branch {tag} " if home else ""
    lines = [f"!git clone --depth 1 {branch}{where} videop2r", f"%cd videop2r/nbs/{page.part}",
             "%pip install --quiet --constraint ../../constraints.txt -e ../.."]
    badges = ""
    if home.startswith("https://github.com/"):
        place = f"{home.removeprefix('https://github.com')}/blob/{tag}/nbs/{page.name}.ipynb"
        badges = (f"[Open in Colab](https://colab.research.google.com/github{place}) · "
                  f"[Open in Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com{place})\n\n")
    told = "Put this cell first; what it installs is pinned." if home else (
        "Download this page with the button above, upload it there, and put this cell first; what it installs is pinned.")
    return f":::{{dropdown}} Run it on a hosted GPU\n{badges}{told}\n\n```\n" + "\n".join(lines) + "\n```\n:::"

def text_cell(source): return dict(cell_type="markdown", id=f"site{zlib.crc32(source.encode()):08x}", metadata={}, source=source)

def fold_of(cell): return cell["metadata"].get("mystnb", {}).get("code_prompt_show")

def joined(cells):
    "Cells, with neighbours that only import made one."
    found = []
    for cell in cells:
        if found and fold_of(cell) == fold_of(found[-1]) == "imports": found[-1]["source"] += "\n" + cell["source"]
        else: found.append(cell)
    return found

def notebook(path, part, name, extra=(), end=()):
    "A notebook for the site, `extra` after its first cell and `end` at its foot."
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = joined([c for c in (adapted(cell, part, name) for cell in book["cells"]) if c])
    book["metadata"].pop("widgets", None)
    return json.dumps(book | dict(cells=[*cells[:1], *map(text_cell, extra), *cells[1:], *map(text_cell, end)]), ensure_ascii=False)

def contents(parts):
    "The menu: a heading a part, its pages with their numbers."
    blocks = []
    for part, pages in parts.items():
        rows = "\n".join(f"{page.heading} <{page.name}>" for page in pages)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {PARTS[part]}\n\n{rows}\n```")
    modules = "\n".join(f"api/{page.module}" for pages in parts.values() for page in pages if page.module)
    about = "\n".join(f"about/{place.removesuffix('.md')}" for place in ABOUT)
    blocks.append(f"```{{toctree}}\n:hidden:\n:caption: API\n\n{modules}\n```")
    blocks.append(f"```{{toctree}}\n:hidden:\n:caption: About\n\n{about}\n```")
    return "\n\n".join(blocks)

def llms(parts, settings):
    "The pages and modules for a reader that is a program."
    lines = [f"# {settings['lib_name']}", "", f"> {settings['description']}"]
    for part, pages in parts.items():
        lines += ["", f"## {PARTS[part]}", "", *(f"- [{p.heading}]({p.name}.html): {p.subtitle}" for p in pages)]
    found = [p for pages in parts.values() for p in pages if p.module]
    lines += ["", "## API", "", *(f"- [{settings['lib_name']}.{p.module}](api/{p.module}.html): {p.subtitle}" for p in found)]
    return "\n".join(lines) + "\n"

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

def sources(src=SRC, modules=True):
    "Everything that Sphinx reads."
    shutil.rmtree(src, ignore_errors=True)
    parts, settings = read_pages(), config()
    write(src / "index.ipynb", notebook(ROOT / "nbs" / "index.ipynb", "", "index", end=[contents(parts)]))
    for part, pages in parts.items():
        for page in pages:
            write(src / f"{page.name}.ipynb", notebook(page.path, part, page.name, [hosted(page, settings)]))
            if page.module and modules: write(src / "api" / f"{page.module}.md", api_page(page, settings["lib_name"]))
    for place in ABOUT:
        write(src / "about" / place, moved((ROOT / place).read_text(encoding="utf-8"), f"../{place}"))
        for picture in (ROOT / place).parent.glob("*.svg"): shutil.copy(picture, (src / "about" / place).parent)
    shutil.copytree(ROOT / "nbs" / "images", src / "images")
    write(src / "_extra" / "llms.txt", llms(parts, settings))

# the finished site

class Links(HTMLParser):
    "What a page leads to, what it loads, and the places in it that can be led to."
    LOADS = dict(script="src", img="src", link="href", iframe="src", video="src", source="src", audio="src")

    def __init__(self, text):
        super().__init__()
        self.leads, self.loads, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"): self.leads.append(attrs["href"])
        idle = tag == "link" and attrs.get("rel") in ("canonical", "next", "prev", "search", "index", "author")
        if not idle and attrs.get(self.LOADS.get(tag)): self.loads.append(attrs[self.LOADS[tag]])

def faults(out=OUT):
    "Links that lead nowhere, and what a page would fetch from elsewhere."
    pages = {p.resolve(): Links(p.read_text(encoding="utf-8")) for p in out.rglob("*.html") if "_static" not in p.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(out.resolve())
        found += [f"{name}: fetches {link}" for link in page.loads if re.match(r"(https?:)?//", link)]
        for link in {*page.leads, *page.loads}:
            if re.match(r"(\w+:|//)", link): continue
            to = urlsplit(unescape(link))
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            if target.is_dir(): target /= "index.html"
            there = target.exists() and target.is_relative_to(out.resolve())
            if not there: found.append(f"{name}: {link} leads nowhere")
            elif to.fragment and target in pages and unquote(to.fragment) not in pages[target].places:
                found.append(f"{name}: {link} names a place that is not there")
    return sorted(found)

def main():
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("--sources", action="store_true", help="stop before Sphinx")
    told.add_argument("--check", action="store_true", help="only look at the links of build/site")
    given = told.parse_args()
    if not given.check: sources()
    if given.sources: return
    if not given.check:
        shutil.rmtree(OUT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "sphinx", "-q", "-j", "2", "-c", ROOT / "scripts", SRC, OUT], check=True)
    if lost := faults(): sys.exit("\n".join([*lost, f"{len(lost)} faults on the site"]))
    pages = list(OUT.rglob("*.html"))
    size = sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file())
    print(f"build/site/index.html: {len(pages)} pages, {size / 1e6:.0f} MB, every inner link leads somewhere")

if __name__ == "__main__": main()
