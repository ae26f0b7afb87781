"""Keep the figures of demo runs beside the results lesson: `python scripts/results.py RUN…`; pictures, texts and rows stay out."""
import argparse, json
from pathlib import Path

KEPT = ("title", "preset", "seed", "settings", "versions", "machine", "stages", "yield", "yield_by_type", "table", "control",
        "compare", "by_kind", "faithful", "room", "notes")
FOLDER = Path(__file__).resolve().parent.parent / "nbs" / "4_evidence" / "demo"

def slim(report):
    "A report without what is drawn from step to step."
    sft = {key: value for key, value in report["sft"].items() if key != "rows"}
    rl = {arm: dict(change=found["change"]) for arm, found in report["rl"].items()}
    return {key: report[key] for key in KEPT} | dict(sft=sft, rl=rl)

def main():
    told = argparse.ArgumentParser(description=__doc__.split(":")[0])
    told.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished demo run")
    told.add_argument("--out", type=Path, default=FOLDER, help="folder for a folder a seed (default: %(default)s)")
    given = told.parse_args()
    for run in given.runs:
        if not (run / "report.json").exists(): told.error(f"{run}: no report.json there; give a finished demo run")
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        place = given.out / f"seed{report['seed']}" / "report.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(slim(report), indent=1) + "\n", encoding="utf-8")
        print(place)

if __name__ == "__main__": main()
