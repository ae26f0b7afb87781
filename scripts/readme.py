"""Make README.md from nbs/index.ipynb: markdown as it is, code fenced with its text output, pictures as files."""
import base64, json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "nbs" / "images"

def links(text):
    "Links to notebooks and pictures, as seen from the repository's root."
    return re.sub(r"(\]\()(?!https?:|#|mailto:|\.\./)([^)\s]+)", r"\1nbs/\2", text).replace("](../", "](")

def output(o, name):
    "One stored output as markdown."
    data = o.get("data", {})
    if "image/png" in data:
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.png").write_bytes(base64.b64decode("".join(data["image/png"])))
        return f"![output](nbs/images/{name}.png)"
    if "text/markdown" in data: return "".join(data["text/markdown"])
    text = "".join(data.get("text/plain", o.get("text", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""

def cell(c):
    "One cell as markdown, or nothing where it is hidden."
    source = "".join(c["source"])
    if "#| hide" in source or "#| default_exp" in source: return ""
    if c["cell_type"] == "markdown": return links(source)
    code = "\n".join(l for l in source.splitlines() if not l.startswith("#|"))
    outputs = [output(o, f"index-{c['id']}") for o in c.get("outputs", []) if o["output_type"] in ("stream", "execute_result", "display_data")]
    return "\n\n".join([f"```python\n{code}\n```", *filter(None, outputs)])

def readme():
    "The whole README."
    nb = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    return "\n\n".join(filter(None, map(cell, nb["cells"]))) + "\n"

def main():
    path = ROOT / "README.md"
    if "--check" in sys.argv: sys.exit(path.read_text(encoding="utf-8") != readme())
    path.write_text(readme(), encoding="utf-8")

if __name__ == "__main__": main()
