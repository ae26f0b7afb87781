"""Keep the figures of demo runs beside the lessons: `python scripts/results.py RUN…`; pictures, texts and rows stay out.

With --film, keep one run's film and curves: what both arms answered while they trained. With --whole, keep what
`videop2r.engine.outcomes` reads of one run, packed, under a name of its own. Of runs of the shipped world a cell is kept for
each arm beside the reports, as `videop2r reproduce` keeps them.
"""
import argparse, gzip, json, math, shutil
from pathlib import Path
from videop2r.engine.files import write_text
from videop2r.tools.demo import Run
from videop2r.tools.reproduce import demo_cells

KEPT = ("title", "preset", "seed", "settings", "versions", "machine", "stages", "yield", "yield_by_type", "table", "control",
        "compare", "by_kind", "faithful", "room", "notes")
FOLDER = Path(__file__).resolve().parent.parent / "nbs" / "4_evidence" / "demo"

def slim(report):
    "A report without what is drawn from step to step."
    sft = {key: value for key, value in report["sft"].items() if key != "rows"}
    rl = {arm: dict(change=found["change"]) for arm, found in report["rl"].items()}
    return {key: report[key] for key in KEPT} | dict(sft=sft, rl=rl)

DRAWN = [f"{name}_{process}" for name in ("reward", "accuracy", "zero_variance", "tokens") for process in ("perception", "reasoning")]
DRAWN += ["kl", "entropy", "clip_share", "truncated"]

def filmed(report):
    "A report's film with the curves of both arms, to four places."
    def kept(value): return round(value, 4) if isinstance(value, (int, float)) and math.isfinite(value) else None
    curves = {arm: {key: [kept(row.get(key)) for row in found["rows"]] for key in DRAWN} for arm, found in report["rl"].items()}
    told = {key: report[key] for key in ("title", "preset", "seed", "machine", "versions", "compare") if key in report}
    told.update(start=report.get("start", "the SFT adapter"), settings=report["settings"].get("rl", report["settings"]))
    told["change"] = {arm: found["change"] for arm, found in report["rl"].items()}
    return dict(told, **report["film"], curves=curves)

ROWS = ("eval-*.jsonl", "*/metrics.jsonl", "*/findings.jsonl")
STEP = ("step", "groups", "loss", "kl", "entropy", "truncated", *(f"{name}_{process}" for process in ("perception", "reasoning")
        for name in ("reward", "accuracy", "format", "length", "tokens", "zero_variance")))

def rounded(value): return float(f"{value:.6g}") if isinstance(value, float) else value

def packed(path, rows):
    "JSON lines in an archive that is the same whenever it is written."
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))

def lines(path): return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

def whole(run, place):
    "What `outcomes` reads of a run, the held-out questions that were asked, and its analyses."
    asked = set()
    for path in sorted(each for pattern in ROWS for each in run.glob(pattern)):
        rows = lines(path)
        if path.name == "metrics.jsonl": rows = [{key: rounded(row[key]) for key in STEP if key in row} for row in rows]
        if path.name.startswith("eval-"): asked |= {row["problem_id"] for row in rows}
        packed(place / path.relative_to(run).with_name(f"{path.name}.gz"), rows)
    packed(place / "heldout.jsonl.gz", [row for row in lines(run / "heldout.jsonl") if row["problem_id"] in asked])
    if (run / "analyses.json").exists(): shutil.copyfile(run / "analyses.json", place / "analyses.json")

def keep_cells(run, report, out):
    "A run's arms as results of a study, one file each; nothing where a run kept no answers."
    if not (run / "eval-base.jsonl").exists(): return
    kept = Run.open(run, report["preset"], report["seed"], None)
    kept.folder.compare() # of the demo's own checkpoints
    for cell, found in demo_cells(kept).items():
        write_text(cell.result(out), json.dumps(found) + "\n")

def main():
    told = argparse.ArgumentParser(description=__doc__.split(":")[0])
    told.add_argument("--film", type=Path, metavar="FILE", help="keep the film of the one given run there, and nothing else")
    told.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished demo run")
    told.add_argument("--out", type=Path, default=FOLDER, help="folder for a folder a seed (default: %(default)s)")
    told.add_argument("--whole", metavar="NAME", help="keep rows and analyses of one run under this name in the folder")
    given = told.parse_args()
    if given.whole:
        if len(given.runs) > 1: told.error("--whole keeps one run at a time")
        whole(given.runs[0], given.out / given.whole)
        return print(given.out / given.whole)
    for run in given.runs:
        if not (run / "report.json").exists(): told.error(f"{run}: no report.json there; give a finished demo run")
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        if given.film:
            if not report.get("film"): told.error(f"{run}: its report holds no film; run the demo anew")
            given.film.write_text(json.dumps(filmed(report), ensure_ascii=False) + "\n", encoding="utf-8")
            print(given.film)
            continue
        place = given.out / f"seed{report['seed']}" / "report.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(slim(report), indent=1) + "\n", encoding="utf-8")
        keep_cells(run, report, given.out)
        print(place)

if __name__ == "__main__": main()
