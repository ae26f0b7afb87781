"""What the demo does with bad input and interruptions."""
import json, os, signal, subprocess, sys, time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from videop2r.cot import SHORT
from videop2r.data import Record, RecordError, read_records
from videop2r.engine.reading import to_prompts
from videop2r.engine.store import Store
from videop2r.tools.demo import Run, Sizes, change, demo_records
from videop2r.traces import verify
from videop2r.judge import ORACLE, Judge, Verdict
from videop2r.model import Policy, add_lora
from videop2r.recipe import Recipe
from videop2r.rollout import collect
from videop2r.rewards import Bounds
from videop2r.tokens import Coder
from videop2r.world import COMPOSED, CONTROL, KINDS, from_record, gold, make_records, samples

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")
RECIPE = Recipe(bounds=Bounds((10, 40), (10, 30)), how="lenient")

@pytest.fixture(scope="module")
def coder(): return Coder.load(SAMPLES / "teacher")

@pytest.fixture(scope="module")
def policy(coder): return Policy(add_lora(Policy.load(SAMPLES / "teacher").model, coder.family), coder)

def test_missing_and_truncated_clips_are_quarantined_and_cost_nothing_else(tmp_path, coder):
    records = list(make_records(tmp_path, 9, "bad"))
    videos = [r for r in records if r.data_type == "video"]
    (tmp_path / videos[0].path).unlink()
    whole = (tmp_path / videos[1].path).read_bytes()
    (tmp_path / videos[1].path).write_bytes(whole[:len(whole) // 3])
    examples, kept, bad = to_prompts(coder, records, tmp_path, SHORT, 8)
    assert {b["where"] for b in bad} == {r.problem_id for r in videos[:2]}
    assert [e.name for e in examples] == [r.problem_id for r in kept] and len(kept) == 7

def test_path_outside_the_media_folder_is_refused(tmp_path, coder):
    r = next(make_records(tmp_path, 1, "out"))
    _, _, bad = to_prompts(coder, [replace(r, path="../../etc/passwd")], tmp_path, SHORT, 8)
    assert len(bad) == 1 and "path" in bad[0]["reason"]

@pytest.mark.parametrize("change,field", [(dict(problem_type="riddle"), "problem_type"), (dict(options=[]), "options")])
def test_bad_records_are_named(tmp_path, change, field):
    r = next(r for r in make_records(tmp_path, 9, "named") if r.problem_type == "multiple choice")
    (tmp_path / "r.jsonl").write_text(json.dumps({**r.to_dict(), **change}) + "\n" + json.dumps(r.to_dict()) + "\n")
    bad = []
    good = list(read_records(tmp_path / "r.jsonl", bad.append))
    assert len(good) == 1 and len(bad) == 1 and field in str(bad[0]) and r.problem_id in str(bad[0])

def test_trace_without_tags_is_rejected_at_the_template(tmp_path):
    rs = list(make_records(tmp_path, 3, "tags"))
    found = verify(rs, {rs[0].problem_id: "just words", rs[1].problem_id: gold(from_record(rs[1]))}, ORACLE, how="lenient")
    assert found.steps == dict(records=3, written=2, template=1, answer=1, judge=1)
    assert found.rejected[0].step == "template" and found.rejected[0].reason

def test_silent_judge_is_no_verdict_and_rejects_with_its_reason(tmp_path):
    def silent(record, observation): raise TimeoutError("no answer in 30 s")
    rs = list(make_records(tmp_path, 1, "silent"))
    found = verify(rs, {rs[0].problem_id: gold(from_record(rs[0]))}, Judge(silent), how="lenient")
    assert "no verdict" in found.rejected[0].reason and "30 s" in found.rejected[0].reason

def test_missing_verdicts_leave_perception_out_and_reasoning_in(tmp_path, coder, policy):
    prompts, records, _ = to_prompts(coder, list(make_records(tmp_path, 2, "nan")), tmp_path, SHORT, 8)
    features = policy.see([p.visual for p in prompts])
    r = collect(policy, records, prompts, features, Judge(lambda *a: Verdict(None, "busy")), 4, RECIPE, reference=None, generator=torch.Generator().manual_seed(0))
    asked = torch.tensor([v is not None for v in r.verdicts])
    own = r.masks[:, 0] & ~r.masks[:, 1]
    assert asked.any() and (r.weights[asked][own[asked]] == 0).all()
    assert (r.weights[asked][r.masks[asked, 1]] > 0).all()

@pytest.mark.parametrize("arm", ["pagrpo", "grpo"])
def test_credit_changes_values_only(tmp_path, coder, policy, arm):
    prompts, records, _ = to_prompts(coder, list(make_records(tmp_path, 3, "credit")), tmp_path, SHORT, 8)
    features = policy.see([p.visual for p in prompts])
    r = collect(policy, records, prompts, features, ORACLE, 4, replace(RECIPE, credit=arm), reference=None, generator=torch.Generator().manual_seed(0))
    total, own = r.table.total(), [r.masks[:, 0] & ~r.masks[:, 1], r.masks[:, 1] & ~r.masks[:, 0]]
    for p in range(3):
        for s, stream in enumerate((0 if arm == "pagrpo" else 1, 1)):
            x = total[p * 4:p * 4 + 4, stream]
            A = torch.zeros(4) if x.std() < 1e-6 else (x - x.mean()) / (x.std() + 1e-4)
            for i in range(4): assert torch.allclose(r.advantages[p * 4 + i][own[s][p * 4 + i]], A[i], atol=1e-5)

@pytest.mark.parametrize("preset,lacks", [("smoke", {"mover", "order", "spell", "row"}), ("study", set())])
def test_kinds_that_are_left_out_are_asked_nowhere(tmp_path, monkeypatch, preset, lacks):
    monkeypatch.setitem(Sizes.known, preset, replace(Sizes.known[preset], records=180))
    run = Run.open(tmp_path / "run", preset, 0, SAMPLES)
    records = demo_records(run, "train", 180)
    asked = {record.extra["kind"] for record in records}
    assert asked == set(KINDS) - lacks == set(run.sizes.kinds) and len(records) == 180
    assert all((run.out / record.path).exists() for record in records) and records[0].path.startswith("clips/")
    count = Counter(run.sizes.kinds)
    assert {count[kind] for kind in COMPOSED if kind in count} == {2} and {count[kind] for kind in CONTROL if kind in count} == {1}
    assert Sizes.known["default"].heldout % len(Sizes.known["default"].kinds) == 0

def test_folder_that_cannot_be_written_and_unknown_preset(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError): Run.open(tmp_path / "file" / "run", "smoke", 0, SAMPLES)
    with pytest.raises(ValueError, match="default"): Run.open(tmp_path / "x", "tiny", 0, SAMPLES)
    with pytest.raises(FileNotFoundError, match="--samples"): Run.open(tmp_path / "x", "smoke", 0, tmp_path)

def test_the_demo_s_own_pair_lies_beside_the_records(tmp_path):
    run = Run.open(tmp_path / "run", "smoke", 0, None)
    assert run.samples == SAMPLES / "second" and run.folder.facts["base"] != Run.open(tmp_path / "other", "smoke", 0, SAMPLES).folder.facts["base"]
    records = demo_records(run, "heldout", 3)
    beside = [r.problem_id for r in read_records(SAMPLES / "heldout.jsonl") if r.extra["kind"] in run.sizes.kinds]
    assert [r.problem_id for r in records] == beside[:3]
    assert all((run.out / r.path).read_bytes() == (SAMPLES / r.path).read_bytes() for r in records)

def test_store_survives_half_a_line(tmp_path):
    s = Store(tmp_path / "s.jsonl")
    s.add([dict(problem_id=str(i), output="é" * i) for i in range(5)])
    data = s.path.read_bytes()
    for cut in range(len(data)):
        (tmp_path / "cut.jsonl").write_bytes(data[:cut])
        rows = Store(tmp_path / "cut.jsonl")
        assert list(rows.values()) == list(s.values())[:data[:cut].count(b"\n")]

def test_change_has_an_interval():
    flat = change([dict(r=.5)] * 40, "r")
    assert flat["diff"] == 0 and flat["lo"] == flat["hi"] == 0

@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_what_is_finished_and_a_second_run_goes_on(tmp_path):
    command = [sys.executable, "-m", "videop2r.tools.cli", "demo", "--preset", "smoke", "--out", str(tmp_path / "run"), "--samples", str(SAMPLES)]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a background job inherits SIGINT as ignored
    begun = tmp_path / "run" / "sft" / "metrics.jsonl" # the stage after the one that is to be kept: a handler is there, whatever the load
    while p.poll() is None and not (begun.exists() and begun.read_text().count("\n")): time.sleep(.1)
    os.killpg(p.pid, signal.SIGINT)
    said = p.communicate(timeout=900)[0].decode()
    assert p.returncode == 130 and "again" in said and "Traceback" not in said, said
    first = (tmp_path / "run" / "stages" / "traces.json").read_text()
    again = Run.open(tmp_path / "run", "smoke", 0, SAMPLES)
    assert again.stage("traces", lambda: pytest.fail("the finished stage ran again")) == json.loads(first)
