"The figures of the front page and of the results lesson are those of the stored reports."
import json, re, subprocess, sys
from pathlib import Path
import pytest
import torch
from PIL import Image
from videop2r.advantages import credit, normalise
from videop2r.cot import parse
from videop2r.data import read_records
from videop2r.judge import ORACLE
from videop2r.scoring import score_record
from videop2r.tools.report import Comparison, Report

ROOT = Path(__file__).resolve().parents[1]
DEMO = sorted((ROOT/"nbs"/"4_evidence"/"demo").glob("seed*")) # the demo as it is
RUNS = sorted((ROOT/"nbs"/"4_evidence"/"first").glob("seed*")) # the study's settings on the first pair of checkpoints
OTHERS = sorted((ROOT/"nbs"/"4_evidence"/"second").glob("seed*")) # and on the second, which is the demo's

def lesson():
    "Every stored output of the results lesson as text."
    cells = json.loads((ROOT/"nbs"/"4_evidence"/"2_results.ipynb").read_text(encoding="utf-8"))["cells"]
    datas = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
    return "\n".join("".join(data.get("text/markdown", "")) for data in datas)

def test_front_page_and_lesson_hold_what_the_reports_say():
    readme, results = (ROOT/"README.md").read_text(encoding="utf-8"), lesson()
    several = Comparison.of(DEMO)._repr_markdown_()
    assert several in readme and several in results and Report.load(DEMO[0])._repr_markdown_() in results
    for runs in (RUNS, OTHERS): assert Comparison.of(runs)._repr_markdown_() in results

def test_front_page_tells_every_run_on_either_base():
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    for run in [*DEMO, *RUNS, *OTHERS]:
        gap = Report.load(run)["compare"]["exact"]
        said = " ".join(f"{100 * gap[key]:+.1f}" for key in ("diff", "lo", "hi")).replace("-", "−")
        assert "{} [{}, {}]".format(*said.split()) in readme, run
    assert len(DEMO) == len(RUNS) == len(OTHERS) == 5

def test_the_demo_s_own_checkpoints_are_those_of_its_stored_runs():
    from videop2r.engine.runs import fingerprint
    for pair, cells in (("", "claims"), ("second", "second/cells")):
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT/"nbs"/"4_evidence"/cells).glob("*.json")]
        for name in ("base", "teacher"): # of the first cells only their time says what they were made with
            said = {told[name] for told in kept if name in told}
            assert said <= {fingerprint(ROOT/"data_samples"/pair/name)} and (said or name == "teacher"), (pair, name)

def test_front_page_tells_what_the_demo_took():
    paid = [Report.load(run).cost() for run in DEMO]
    ends = [f"{min(one[key] for one in paid):.0f} to {max(one[key] for one in paid):.0f}" for key in ("minutes", "gb")]
    row = next(line for line in (ROOT/"README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `make demo` |"))
    assert [cell.strip() for cell in row.split("|")[3:5]] == ends
    with pytest.raises(ValueError, match="no stages"): Report().cost()

def test_front_picture_shows_what_its_words_say():
    "Its responses are kept in the file: scored again, they bear the drawn advantages."
    path = ROOT/"nbs"/"images"/"clip.gif"
    picture = Image.open(path)
    told = json.loads(picture.info["comment"])
    record = next(r for r in read_records(ROOT/"data_samples"/"heldout.jsonl") if r.problem_id == told["problem_id"])
    assert path.stat().st_size < 60_000 and picture.n_frames > 8
    assert "images/clip.gif" in (ROOT/"README.md").read_text(encoding="utf-8")
    right = []
    for text, accuracy in zip(told["texts"], told["accuracy"]):
        trace = parse(text)
        sees = ORACLE(record, trace.observation or "").yes
        right.append([float(bool(sees)), score_record(record, trace.answer, "lenient")])
        assert right[-1] == accuracy
    assert [0., 1.] in right and [1., 0.] in right
    for arm, drawn in told["advantages"].items():
        found = normalise(credit(torch.tensor(told["rewards"]), arm))[0]
        assert torch.allclose(found, torch.tensor(drawn), atol=1e-4)
    wrong, seen = (right.index(pair) for pair in ([0., 1.], [1., 0.]))
    assert told["advantages"]["grpo"][wrong][0] > 0 > told["advantages"]["pagrpo"][wrong][0]
    assert told["advantages"]["grpo"][seen][0] < 0 < told["advantages"]["pagrpo"][seen][0]

@pytest.mark.parametrize("run", [*DEMO, *RUNS], ids=lambda run: f"{run.parent.name}-{run.name}")
def test_a_stored_report_agrees_with_itself(run):
    report = Report.load(run)
    assert run.name == f"seed{report['seed']}" and report["preset"] == ("default" if run in DEMO else "study")
    means = {row["arm"]: row for row in report["table"]}
    for name, found in report["compare"].items():
        gap = means["pagrpo"][name]["mean"] - means["grpo"][name]["mean"]
        assert found["diff"] == pytest.approx(gap, abs=1e-9) and found["lo"] <= found["diff"] <= found["hi"]
    for arm in ("sft", "grpo", "pagrpo"):
        room = report["room"][arm]["composed"]
        assert room["right"] == pytest.approx(means[arm]["exact"]["mean"])
        assert room["sufficient"] == pytest.approx(means[arm]["sufficient"]["mean"])
        parts = room["sufficient"] * room["p1"] + (1 - room["sufficient"]) * room["p0"]
        assert parts == pytest.approx(room["right"])

LATER = dict(ladder=0., windows=3, without=[]) # dials that came after the runs, where they change nothing: the stored records are made again in test_world

def settled(now, stored):
    "Today's settings without those that came after a run and are left to themselves (None), or stand where `LATER` has them."
    if not isinstance(now, dict): return now
    idle = {name for name, value in now.items() if value is None or name in LATER and value == LATER[name]}
    return {name: settled(value, stored.get(name)) for name, value in now.items() if name in stored or name not in idle}


def test_all_seeds_had_the_demo_s_own_setting_or_the_study_s():
    from dataclasses import asdict
    from videop2r.tools.demo import Sizes
    for preset, runs in dict(default=DEMO, study=[*RUNS, *OTHERS]).items():
        now = json.loads(json.dumps(asdict(Sizes.known[preset])))
        for run in runs: assert settled(now, Report.load(run)["settings"]) == Report.load(run)["settings"], (preset, run.name)

def test_the_demo_s_cells_are_what_its_reports_say():
    from videop2r.tools.reproduce import Cell, Results
    cells = Results.load(ROOT/"nbs"/"4_evidence"/"demo"/"cells")
    assert len(cells) == 4 * len(DEMO)
    for report in map(Report.load, DEMO):
        for told in report["table"]:
            kept = cells[Cell("shipped", report["seed"], told["arm"])]
            for name in ("exact", "sufficient"):
                signs = [sign for sign, swaps in zip(kept["signs"][name], kept["swaps"]) if swaps != "c"]
                if told.get(name): assert signs.count("1") / len(signs) == pytest.approx(told[name]["mean"]), (report["seed"], told["arm"], name)

def script(*args):
    return subprocess.run([sys.executable, ROOT/"scripts"/"results.py", *map(str, args)], capture_output=True, text=True)

def test_the_command_that_stores_reports(tmp_path):
    report = json.loads((RUNS[0]/"report.json").read_text(encoding="utf-8"))
    whole = report | dict(example="a picture", rejected=["a trace"], sft=report["sft"] | dict(rows=[1]),
                          rl={arm: found | dict(rows=[1]) for arm, found in report["rl"].items()})
    (tmp_path/"run").mkdir()
    (tmp_path/"run"/"report.json").write_text(json.dumps(whole), encoding="utf-8")
    done = script(tmp_path/"run", "--out", tmp_path/"kept")
    assert not done.returncode, done.stderr
    kept = json.loads((tmp_path/"kept"/RUNS[0].name/"report.json").read_text(encoding="utf-8"))
    assert kept == report
    none = script(tmp_path, "--out", tmp_path/"kept")
    assert none.returncode == 2 and re.search("no report.json there", none.stderr)

def test_a_command_is_measured_and_kept(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT/'scripts')!r}); from pathlib import Path; from minutes import main; main(sys.argv[2:], Path(sys.argv[1]))"
    def kept(*command): return subprocess.run([sys.executable, "-c", code, tmp_path/"minutes.json", *command], capture_output=True, text=True)
    hold = [sys.executable, "-c", "x = bytearray(300_000_000); import time; time.sleep(2.5)"]
    assert not kept(*hold).returncode
    found = json.loads((tmp_path/"minutes.json").read_text(encoding="utf-8"))[" ".join(hold)]
    assert found["minutes"] >= .04 and found["gb"] >= .28
    assert kept(sys.executable, "-c", "raise SystemExit(3)").returncode and kept().returncode
    assert len(json.loads((tmp_path/"minutes.json").read_text(encoding="utf-8"))) == 1
