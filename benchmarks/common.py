"""What the benchmarks share: a child process with its clock and its high-water mark, the machine, the table."""
import json, os, platform, resource, subprocess, sys, time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def child(*args, **env) -> dict:
    "Run Python with arguments in a process of its own: seconds, peak resident MB, standard output."
    start = time.perf_counter()
    p = subprocess.Popen([sys.executable, *map(str, args)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **env})
    out = p.stdout.read()
    _, status, used = os.wait4(p.pid, 0)
    if status: raise RuntimeError(f"{' '.join(map(str, args))[:200]}: exit status {status}")
    return dict(seconds=time.perf_counter() - start, peak_mb=used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), out=out)

def machine(*packages) -> dict:
    "Cores, memory, Python and the versions that matter."
    found = {}
    for p in packages:
        try: found[p] = version(p)
        except PackageNotFoundError: found[p] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return dict(cores=os.cpu_count(), memory_gb=round(memory, 1), python=platform.python_version(), platform=platform.platform(), **found)

def _table(rows: list) -> str:
    cell = lambda v: f"{v:,.3g}" if isinstance(v, float) and abs(v) < 100 else f"{v:,.0f}" if isinstance(v, (int, float)) and not isinstance(v, bool) else str(v)
    names = list(rows[0])
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *("| " + " | ".join(cell(r.get(k, "")) for k in names) + " |" for r in rows)])

def show(rows: list, as_json: bool, about: dict):
    "Print rows as a markdown table, or one JSON object a row."
    if as_json:
        for r in rows: print(json.dumps({**r, "machine": about}))
        return
    print(f"{_table(rows)}\n\n{_told(about)}")

def _told(about): return ", ".join(f"{k} {v}" for k, v in about.items())

def put(name: str, rows: list, about: dict, readme=ROOT / "benchmarks/README.md"):
    "Write a table between the marks of its name in the README."
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = readme.read_text(encoding="utf-8").partition(first)
    inside, end, after = rest.partition(last)
    if not (found and end): raise ValueError(f"{readme}: has no marks {first} and {last}")
    readme.write_text(f"{before}{first}\n{_table(rows)}\n\n{_told(about)}.\n{last}{after}", encoding="utf-8")
