"Runs the cells of a notebook in a shell as in the lab, after one edit of a reader; says what raised and what looks other than before."
import json, os, re, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

def shown(captured, value):
    "What a cell shows, without addresses and temporary names."
    parts = [captured.stdout, *(json.dumps(o, default=repr, sort_keys=True) for o in (value, *(o.data for o in captured.outputs)))]
    return re.sub(r"0x[0-9a-f]+|/tmp/[\w/]+|: \d+\.\d+s", "", "".join(parts))

def run(cells, before="", after=""):
    "(what each cell shows, errors, how often the edit was found)"
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.display_formatter.active_types = shell.display_formatter.format_types
    looks, errors, hits = [], [], 0
    for source in cells:
        if before and not hits and before in source: source, hits = source.replace(before, after, 1), 1
        with capture_output() as captured: found = shell.run_cell(source)
        if not found.success: errors.append(repr(found.error_in_exec or found.error_before_exec))
        value = None if found.result is None else shell.display_formatter.format(found.result)[0]
        looks.append(shown(captured, value))
    return looks, errors, hits

def main():
    book, edits = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.chdir(book.parent)
    every = ["".join(c["source"]) for c in json.loads(Path(book.name).read_text())["cells"] if c["cell_type"] == "code"]
    cells = [source for source in every if source.strip() and "#| eval: false" not in source]
    shipped, errors, _ = run(cells)
    results = [dict(errors=errors, hits=1, shown=0, told=sum("no longer holds" in look for look in shipped))]
    for before, after in edits:
        looks, errors, hits = run(cells, before, after)
        other = [look for look, old, source in zip(looks, shipped, cells) if look != old and not source.startswith("# checks")]
        results.append(dict(errors=errors, hits=hits, shown=len(other), told=sum("no longer holds" in look for look in looks)))
    print("RESULTS" + json.dumps(results))

if __name__ == "__main__": main()
