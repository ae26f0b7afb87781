"""Milliseconds a clip: what the audit costs over reading the same clips in a plain loop, and what damaged clips cost it."""
import argparse, tempfile, time
from pathlib import Path
from common import machine, show
from videop2r.engine.audit import audit
from videop2r.engine.decode import read_media

def fill(folder, source, n, damaged=0):
    "Copies of a clip, evenly mixed with copies cut short."
    data = source.read_bytes()
    for i in range(n): (folder / f"{i:04}.mp4").write_bytes(data[:len(data) // 2] if i * damaged // n < (i + 1) * damaged // n else data)
    return sorted(folder.glob("*.mp4"))

def loop(files):
    for f in files: read_media(f, "video", 16)

def clock(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

def row(name, source, n, damaged, repeat):
    "Milliseconds a clip, the ways in turn, the fastest of each."
    with tempfile.TemporaryDirectory() as tmp:
        files = fill(Path(tmp), source, n, damaged)
        ways = {} if damaged else {"loop": lambda i: loop(files)}
        for w in (1, 2): ways[f"audit, {w} at work"] = lambda i, w=w: audit(tmp, out=Path(tmp) / f"a{w}{i}", workers=w, quiet=True)
        audit(tmp, workers=1, quiet=True) # the files in memory, and the server started that forks the children
        found = {name: [] for name in ways}
        for i in range(repeat):
            for way, work in ways.items(): found[way].append(1000 * clock(lambda: work(i)) / n)
    best = {k: min(v) for k, v in found.items()}
    return {"clips": name, "damaged": f"{damaged} of {n}", "loop": "", **best, "one at work / loop": best["audit, 1 at work"] / best["loop"] if "loop" in best else ""}

def main():
    from video import film # here, for the children import this file
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--clips", type=int, default=100)
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        film(long := Path(tmp) / "long.mp4", 10, 360)
        film(short := Path(tmp) / "short.mp4", 2, 96)
        rows = [row("2 s of 170 × 96", short, 4 * a.clips, 0, a.repeat), row("2 s of 170 × 96", short, 4 * a.clips, 2 * a.clips, a.repeat),
                row("10 s of 640 × 360", long, a.clips, 0, a.repeat)]
    show(rows, a.json, machine("av"))

if __name__ == "__main__": main()
