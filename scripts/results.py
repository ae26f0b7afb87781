"""Keep the figures of demo runs beside the results lesson: `python scripts/results.py RUN…`; pictures, texts and rows stay out.

With --film, keep one run's film and curves: what both arms answered while they trained.
"""
import argparse, json, math
from pathlib import Path

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

def main():
    told = argparse.ArgumentParser(description=__doc__.split(":")[0])
    told.add_argument("--film", type=Path, metavar="FILE", help="keep the film of the one given run there, and nothing else")
    told.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished demo run")
    told.add_argument("--out", type=Path, default=FOLDER, help="folder for a folder a seed (default: %(default)s)")
    given = told.parse_args()
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
        print(place)

if __name__ == "__main__": main()
