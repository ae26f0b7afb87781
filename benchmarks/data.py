"""Records a second and peak memory of `videop2r data stats` on a set of the RL files' size and form, beside `json.load` of the same parts."""
import argparse, gzip, json, random, tempfile
from pathlib import Path
from common import child, machine, show

TYPES = {"multiple choice": 64, "free-form": 15, "numerical": 13, "OCR": 6, "regression": 2} # shares of Video-R1's set, in per cent
WORDS = "the a shape person cup moves from left to right and then stops near who holds while second looks away before answer is option because video shows frame".split()

def record(i, draw):
    "A record in the RL files' form: every value is a string."
    text, kind = lambda k: " ".join(draw.choices(WORDS, k=k)), draw.choices(list(TYPES), TYPES.values())[0]
    truth = draw.choice("ABCD") if kind == "multiple choice" else str(draw.randint(0, 99))
    options = [f"{letter}. {text(4)}" for letter in "ABCD"] if kind == "multiple choice" else []
    return dict(problem=text(18), options=str(options), solution=f"<answer>{truth}</answer>", answer=truth, path=f"./source{i % 17}/{i}.mp4", data_source=f"source{i % 17}",
                data_type=draw.choice(["image", "video"]), problem_type=kind, observation=text(90), process=f"<think>{text(120)}</think>", output="", problem_id=str(i),
                reward="1.0", select="True", clean_version="")

def make(folder, n, parts=3):
    "The set in gzip-compressed JSON lists."
    draw = random.Random(0)
    for p in range(parts):
        with gzip.open(folder / f"rl.part{p + 1}of{parts}.json.gz", "wt", compresslevel=6) as f:
            json.dump([record(i, draw) for i in range(n * p // parts, n * (p + 1) // parts)], f)

MAKE = "import sys; sys.path.insert(0, 'benchmarks'); from data import make; from pathlib import Path; make(Path(sys.argv[1]), int(sys.argv[2]))"
LOAD = "import glob, gzip, json, sys; print(len([r for p in glob.glob(sys.argv[1] + '/*.gz') for r in json.load(gzip.open(p, 'rt'))]))"

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--records", type=int, default=263_055)
    p.add_argument("--repeat", type=int, default=3, help="the fastest counts")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        child("-c", MAKE, folder, a.records) # apart: a child's high-water mark starts at its parent's size
        cases = {"data stats": ("-m", "videop2r.tools.cli", "data", "stats", folder), "data check": ("-m", "videop2r.tools.cli", "data", "check", folder), "json.load": ("-c", LOAD, folder)}
        rows = []
        for name, args in cases.items():
            best = min((child(*args) for _ in range(a.repeat)), key=lambda r: r["seconds"])
            rows.append({"case": name, "records": a.records, "seconds": best["seconds"], "records/s": a.records / best["seconds"], "peak MB": best["peak_mb"]})
    for r in rows: r["speed / json.load"], r["memory / json.load"] = rows[-1]["seconds"] / r["seconds"], r["peak MB"] / rows[-1]["peak MB"]
    show(rows, a.json, machine())

if __name__ == "__main__": main()
