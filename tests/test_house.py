"""The house rules: what a notebook may hold, what may import what, and what loads torch."""
import ast, json, re, subprocess, sys, zipfile
from graphlib import TopologicalSorter
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LONG = {}  # functions over 35 lines that stay so, with the reason

def cells(path, kind="code"):
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]

def lines(src): return [l for l in src.splitlines() if l.strip() and not l.strip().startswith("#|")]

def tree(src): return ast.parse("\n".join("pass" if re.match(r"\s*[%!]", l) else l for l in src.splitlines()))

def exported():
    "Module name to notebook."
    found = {p: re.search(r"#\|\s*default_exp\s+(\S+)", "\n".join(cells(p))) for p in BOOKS}
    return {m[1]: p for p, m in found.items() if m}

def wing(module): return module.split(".")[0] if "." in module else "lessons"

def imports(src):
    "Modules of ours that a piece of code imports, inside functions too."
    found = [n for n in ast.walk(tree(src)) if isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] == "videop2r"]
    return {".".join([n.module, a.name][:2 if n.module in ("videop2r", "videop2r.engine", "videop2r.tools") else 1]).removeprefix("videop2r.") for n in found for a in n.names}

def is_exported(src): return re.search(r"^#\|\s*exports?\b", src, re.M)

def arrows():
    "Which exported module imports which."
    home = exported()
    return {m: {i for c in cells(p) if is_exported(c) for i in imports(c) if i in home} for m, p in home.items()}

@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.name)
def test_title_and_subtitle(book):
    first = cells(book, "markdown")[0]
    assert re.match(r"# \S.*\n\n> \S", first), first[:80]

@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.name)
def test_cells_are_short(book):
    sizes = sorted(len(lines(c)) for c in cells(book) if c.strip())
    assert max(sizes, default=0) <= 35
    assert len(sizes) < 10 or sizes[int(.9 * (len(sizes) - 1))] <= (25 if book.parent.name in ("engine", "tools") else 20)

@pytest.mark.parametrize("path", [*BOOKS, *ROOT.glob("tests/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")], ids=lambda p: p.name)
def test_functions_are_short(path):
    sources = cells(path) if path.suffix == ".ipynb" else [path.read_text()]
    found = [(n.name, n.end_lineno - n.lineno + 1) for s in sources for n in ast.walk(tree(s)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [f for f in found if f[1] > 35 and f[0] not in LONG]

def test_exported_imports_point_downwards():
    "A lesson imports lessons before it and the engine; the engine imports lessons; only tools import tools."
    home = exported()
    place = {m: str(p.relative_to(ROOT / "nbs")) for m, p in home.items()}
    back = [(m, i) for m, found in arrows().items() for i in found if wing(i) == "tools" != wing(m) or wing(m) == wing(i) == "lessons" and place[i] >= place[m]]
    assert not back

def test_no_circle_of_imports():
    list(TopologicalSorter(arrows()).static_order())

def test_a_module_stands_where_its_notebook_does():
    for m, p in exported().items():
        folder, name = p.parent.name, re.sub(r"^\d+_", "", p.stem)
        assert m == (f"{folder}.{name}" if folder in ("engine", "tools") else name), (m, p)
        assert folder in ("engine", "tools") or re.match(r"\d_\w+/\d_\w+$", f"{folder}/{p.stem}"), p

@pytest.mark.parametrize("book", [p for p in BOOKS if p.parent.name in ("0_start", "1_method")], ids=lambda p: p.name)
def test_first_lessons_use_no_tools(book):
    "But for the page of tasks, which no lesson builds on and which is marked by a tool."
    allowed = {"tools.exercises"} if book.stem == "9_exercises" else set()
    assert not [i for c in cells(book) for i in imports(c) if wing(i) == "tools" and i not in allowed]

def test_links_lead_somewhere():
    lost = [(p.name, link) for p in BOOKS for c in cells(p, "markdown") for link in re.findall(r"\]\(([^)#\s]+)", c)
            if not re.match(r"https?:|mailto:|data:", link) and not (p.parent / link).exists()]
    assert not lost

@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.name)
def test_stored_outputs_are_small_and_whole(book):
    assert book.stat().st_size < 1_000_000
    nb = json.loads(book.read_text())
    outputs = [o for c in nb["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error" or "this no longer holds: " in "".join(o.get("text", ""))]

@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.name)
def test_a_cell_shows_or_checks(book):
    "A reader who edits a number sees what it does instead of an assertion."
    found = [c for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code" and c.get("outputs")]
    both = [c["id"] for c in found if re.search(r"^\s*(assert |test_\w+\(|with expect_fail)", "".join(c["source"]), re.M) and not is_exported("".join(c["source"]))]
    assert not both

def test_lines_are_for_a_reader():
    "Few lines of code are wider than 100 columns, hardly any wider than 120."
    wide = [len(l) for p in BOOKS for c in cells(p) for l in lines(c) if not l.strip().startswith("#")]
    assert sum(n > 100 for n in wide) < .05 * len(wide) and sum(n > 120 for n in wide) < .01 * len(wide)

def test_stored_pictures_are_seen_untrusted():
    "JupyterLab drops style and svg from the stored outputs of a notebook that it does not trust."
    lost = [(p.name, c["id"]) for p in BOOKS for c in json.loads(p.read_text())["cells"] for o in c.get("outputs", [])
            if re.search("<style|<svg", "".join(o.get("data", {}).get("text/html", ""))) or "image/svg+xml" in o.get("data", {})]
    assert not lost

def test_a_figure_is_seen_and_not_named():
    "A figure that was made without pyplot has no picture in a notebook: it goes through `picture_html`."
    named = [(p.name, c["id"]) for p in BOOKS for c in json.loads(p.read_text())["cells"] for o in c.get("outputs", [])
             if "".join(o.get("data", {}).get("text/plain", "")).startswith("<Figure") and "image/png" not in o["data"]]
    assert not named

def test_expected_failures_are_run():
    assert not [b.name for b in BOOKS for c in cells(b) if re.search(r"^(?!.*with ).*expect_fail\(", c, re.M) and "import expect_fail" not in c]

def test_no_paths_of_a_machine():
    pattern = re.compile("|".join(["/" + "work/", "/" + "tmp/src", "/" + "tmp/wt", "/" + "root/", "/" + "home/[a-z]"]))
    files = [p for ext in ("ipynb", "py", "md", "ini", "toml", "txt") for p in ROOT.glob(f"**/*.{ext}") if not {".venv", "runs", "build"} & set(p.relative_to(ROOT).parts)]
    assert not [(p.name, m[0]) for p in files if (m := pattern.search(p.read_text()))]

def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout

def test_the_package_alone_loads_next_to_nothing():
    loaded = python("import os, sys; before = set(sys.modules); import videop2r; print(*set(sys.modules) - before)")
    assert loaded.split() == ["videop2r"]

@pytest.mark.parametrize("code", ["import videop2r.data", "import videop2r.families", "import videop2r.cot", "import videop2r.scoring",
                                  "from videop2r.tools.cli import main; main(['plan'])", "from videop2r.tools.cli import main; main(['data', 'stats', 'data_samples/train.jsonl'])"])
def test_no_torch(code):
    assert python(code + "; import sys; print('torch' in sys.modules)").strip().endswith("False")

def test_wheel_holds_every_module_and_the_command(tmp_path):
    pytest.importorskip("setuptools")
    subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as z: names, entry = z.namelist(), [z.read(n).decode() for n in z.namelist() if n.endswith("entry_points.txt")]
    assert {str(p.relative_to(ROOT)) for p in ROOT.glob("videop2r/**/*.py")} <= set(names)
    assert "videop2r = videop2r.tools.cli:main" in entry[0].replace("videop2r=", "videop2r = ").replace("  ", " ")

@pytest.mark.parametrize("command", ["demo", "plan", "data", "generate", "sft", "rl", "ask", "report", "compare", "analyse"])
def test_every_command_has_help(command, capsys):
    from videop2r.tools.cli import main
    with pytest.raises(SystemExit) as e: main([command, "--help"])
    assert e.value.code == 0 and "usage: videop2r" in capsys.readouterr().out

def test_the_map_names_every_page():
    cell = next(c for c in cells(ROOT / "nbs" / "index.ipynb", "markdown") if c.startswith("## The map"))
    linked = set(re.findall(r"\]\(([^)]+[.]ipynb)\)", cell))
    there = {str(p.relative_to(ROOT / "nbs")) for p in BOOKS} - {"index.ipynb"}
    assert not there - linked, f"not on the map: {sorted(there - linked)}; run make readme"
    assert not linked - there, f"on the map and gone: {sorted(linked - there)}; run make readme"

def test_readme_is_made_from_the_index():
    assert subprocess.run([sys.executable, "scripts/readme.py", "--check"], cwd=ROOT).returncode == 0

def defined(body):
    "Functions and classes that a module or a class defines, those that replace one another on purpose aside."
    again = re.compile(r"setter|overload|patch")
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not any(again.search(ast.unparse(each)) for each in node.decorator_list)]

def test_nothing_is_defined_twice_in_a_module():
    for path in (ROOT / "videop2r").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for body in (tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))):
            names = defined(body)
            assert len(names) == len(set(names)), (path.name, [name for name in names if names.count(name) > 1])

def named(module):
    "Names at the top of a module of ours, and the modules below it."
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {p.stem for p in path.glob("*")} if path.is_dir() else set()
    for node in ast.parse(file.read_text()).body:
        found |= set(defined([node]))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    return found

PROGRAMS = sorted(p for folder in ("benchmarks", "scripts", "tests") for p in (ROOT / folder).glob("*.py"))

@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_a_program_beside_the_library_imports_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "videop2r": continue
        assert not {a.name for a in node.names} - named(node.module) - {"*"}, node.lineno
