"""The notebooks as pages: part, number, title and subtitle of each, read from the notebook itself."""
import json, re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "0_start": "0 Start", "1_method": "1 The method", "2_seeing": "2 Something to see", "3_training": "3 Teach, then train",
    "4_evidence": "4 Does it help?", "5_yours": "5 Your own", "engine": "Engine", "tools": "Tools"}
OPENING = re.compile(r"# (?P<title>\S.*)\n\n> (?P<subtitle>\S.*)")

@dataclass
class Page:
    "One notebook."
    path: Path      # of the file
    name: str       # below nbs/, with forward slashes, without its ending
    part: str       # a key of `PARTS`
    number: str     # "1.5" in a numbered part, else ""
    title: str
    subtitle: str
    module: str     # what it exports, or ""

    @property
    def heading(self): return f"{self.number} {self.title}".strip()

def read_page(path, folder):
    "What a notebook says of itself; `ValueError` where it does not open with a title and a subtitle."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = {kind: ["".join(c["source"]) for c in cells if c["cell_type"] == kind] for kind in ("markdown", "code")}
    found = OPENING.match(texts["markdown"][0] if texts["markdown"] else "")
    if not found: raise ValueError(f"{path}: give it a first cell of text: '# Title', an empty line, '> subtitle'")
    part, module = path.parent.name, re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(texts["code"]), re.M)
    number = re.match(r"\d+(?=_)", path.stem)
    place = f"{part.split('_')[0]}.{number[0]}" if number else ""
    name = path.relative_to(folder).with_suffix("").as_posix()
    return Page(path, name, part, place, found["title"].strip(), found["subtitle"].strip(), module[1] if module else "")

def order(path):
    "By number, then by name: 10 comes after 9."
    return int(re.match(r"\d*", path.stem)[0] or 0), path.stem

def read_pages(folder=ROOT / "nbs") -> dict:
    "Part -> its pages in order; `ValueError` for a notebook in a folder that is no part."
    found = {part: [] for part in PARTS}
    books = [p for p in folder.glob("*/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    for path in sorted(books, key=order):
        if path.parent.name not in PARTS or path.parent.parent != folder:
            raise ValueError(f"{path}: not in a part; move it to one of {', '.join(PARTS)}, or name its folder in scripts/pages.py")
        found[path.parent.name].append(read_page(path, folder))
    return {part: pages for part, pages in found.items() if pages}

def the_map(folder=ROOT / "nbs") -> str:
    "The cell of the index that leads to every page, made from the pages' titles."
    rows = [f"| {PARTS[part]} | " + " · ".join(f"[{page.title}]({page.name}.ipynb)" for page in pages) + " |"
            for part, pages in read_pages(folder).items()]
    return "\n".join(["## The map", "", "| part | pages |", "|---|---|", *rows])
