"""Make the map in nbs/index.ipynb from the notebooks' titles, and README.md from nbs/index.ipynb: markdown as it is, code fenced with its text output, pictures as files."""
import base64, json, re, sys
from pathlib import Path
from pages import the_map

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)\b", re.M)
ONLY_OUTPUT = re.compile(r"^#\|\s*hide_input\b", re.M)

def links(text):
    "Links to notebooks and pictures, as seen from the repository's root."
    return re.sub(r"(\]\()(?!https?:|#|mailto:|\.\./)([^)\s]+)", r"\1nbs/\2", text).replace("](../", "](")

def output(o, name, pictures):
    "One stored output as markdown; a picture's bytes go into `pictures` under its path."
    data = o.get("data", {})
    if "image/png" in data:
        pictures[path := f"nbs/images/{name}.png"] = base64.b64decode("".join(data["image/png"]))
        alt = o.get("metadata", {}).get("image/png", {}).get("alt", "output")
        return f"![{alt}]({path})"
    if "text/markdown" in data: return "".join(data["text/markdown"])
    text = "".join(data.get("text/plain", o.get("text", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""

def cell(c, pictures):
    "One cell as markdown, or nothing where it is hidden."
    source = "".join(c["source"])
    if c["cell_type"] == "markdown": return links(source)
    if c["cell_type"] != "code" or HIDDEN.search(source): return ""
    code = "" if ONLY_OUTPUT.search(source) else "\n".join(l for l in source.splitlines() if not l.startswith("#|"))
    shown = [o for o in c.get("outputs", []) if o["output_type"] in ("stream", "execute_result", "display_data")]
    outputs = [output(o, f"index-{c['id']}-{i}", pictures) for i, o in enumerate(shown)]
    return "\n\n".join(filter(None, [code and f"```python\n{code}\n```", *outputs]))

def index():
    "The notebook of the index, its map made anew from the titles of all pages."
    nb = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    maps = [c for c in nb["cells"] if "".join(c["source"]).startswith("## The map\n")]
    if len(maps) != 1: sys.exit(f"nbs/index.ipynb: {len(maps)} cells begin with '## The map'; give it one")
    maps[0]["source"] = the_map().splitlines(keepends=True)
    return nb

def readme(nb):
    "The whole README, and its pictures by path."
    pictures = {}
    return "\n\n".join(filter(None, (cell(c, pictures) for c in nb["cells"]))) + "\n", pictures

def main():
    nb = index()
    text, pictures = readme(nb)
    book = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    made = {ROOT / p: b for p, b in [("nbs/index.ipynb", book.encode()), ("README.md", text.encode()), *pictures.items()]}
    if "--check" not in sys.argv:
        for p, b in made.items():
            p.parent.mkdir(parents=True, exist_ok=True)
            p.write_bytes(b)
        return
    stale = [str(p.relative_to(ROOT)) for p, b in made.items() if not p.exists() or p.read_bytes() != b]
    if stale: sys.exit(f"not made from nbs/index.ipynb and the pages' titles: {', '.join(stale)}; run make readme")

if __name__ == "__main__": main()
