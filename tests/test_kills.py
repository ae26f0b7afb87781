"""Killed before and after every named write: the same call ends in what a run that nothing stopped leaves."""
import gzip, hashlib, json, os, re, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest
import torch
import peft, torch._dynamo # noqa: F401 (what a child would import by itself, each one again)
from kills import forked
from storm import LONG, some
from videop2r.cot import example_record
from videop2r.data import write_jsonl, write_parts
from videop2r.engine.files import RecordError, draft_of, parts_of, write_text
from videop2r.engine.runs import RunFolder, rng_state, set_rng
from videop2r.tools.cli import main
from videop2r.tools.corpus import check_set, convert
from test_runs import Toy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
EACH = 1 if LONG else 9 # every write, or every ninth
FEW = dict(sft=60, rl=90, generate=21, audit=19, subset=3, convert=7) # of a command's writes, in the short test
SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
TIMES = {"seconds", "tokens_per_second", "memory_gb", "peak_gb", "at", "sum"} # a row's sum is also of its times

def _timeless(value):
    if isinstance(value, dict): return {k: _timeless(v) for k, v in value.items() if not (k in TIMES or k.startswith("seconds_"))}
    return [_timeless(v) for v in value] if isinstance(value, list) else value

def _content(path):
    "What a file says, its times apart."
    if path.suffix == ".pt":
        found = torch.load(path, weights_only=True)
        return repr(_timeless({**found, "weights": {k: v.tolist() for k, v in found["weights"].items()}, "optimizer": None, "state": {k: v for k, v in found["state"].items() if k != "rng"}}))
    if path.suffix in (".jsonl", ".json"): return repr([_timeless(json.loads(line)) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else _timeless(json.loads(path.read_text())))
    if path.name == "README.md": return re.sub(r"\| (seconds|peak_memory).*", "", path.read_text())
    if path.suffix == ".gz": return gzip.decompress(path.read_bytes()) # its head holds the time
    return hashlib.sha256(path.read_bytes()).hexdigest()

def left(out):
    "Everything in a folder: hidden files too, but for the lock."
    seen = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock" and p.stem != "funnel") # which draws times
    return {str(p.relative_to(out)): _content(p) for p in seen}

def sweep(work, tmp_path, each=EACH):
    "Kill `work(folder)` at its points and go on; how many there are, and what differed."
    code, n = forked(lambda: work(tmp_path / "whole"), below=tmp_path / "whole")
    assert code == 0 and n
    expected, wrong = left(tmp_path / "whole"), []
    for point in range(1, n + 1, each):
        out = tmp_path / str(point)
        assert forked(lambda: work(out), point, below=out)[0] == 137
        again, _ = forked(lambda: work(out))
        found = left(out)
        if again or found != expected: wrong.append((point, again, sorted(k for k in found.keys() | expected if found.get(k) != expected.get(k))))
    return n, wrong

def toy(out, steps=5):
    "A run with a checkpoint after every second step and one of each best; nothing but what RunFolder does."
    torch.manual_seed(0)
    model, best = Toy(), -1
    optimizer = torch.optim.AdamW(model.parameters(), lr=.1)
    folder = RunFolder(out, dict(lr=.1), card=lambda place: f"{place} of {len(folder.rows)}")
    with folder:
        state = folder.restore(model, optimizer)
        if state:
            best = state["best"]
            set_rng(state["rng"])
        for step in range(len(folder.rows), steps):
            (model.weight * torch.randn(3)).sum().backward()
            optimizer.step(), optimizer.zero_grad()
            is_best = step in (1, 2)
            best = step if is_best else best
            folder.add(dict(step=step, weight=model.weight.tolist()))
            folder.leave_out([dict(where=f"r{step}", reason="lost")])
            if step % 2 or is_best or step == steps - 1: folder.save(model, optimizer, is_best, rng=rng_state(), best=best)

def test_a_run_killed_at_every_write_ends_the_same(tmp_path):
    tried, wrong = sweep(toy, tmp_path)
    assert tried > 60 and not wrong, wrong

TRACE = "<observation>A thing moves to the left.</observation> <think>It moves left.</think> <answer>{}</answer>"
WORDS = dict(
    sft="sft --records {r} --media {m} --model {m}/base --preset tiny --prompt short --steps 3 --batch 2 --frames 2 --save-every 2 --validate-every 2 --validation {r} --out {out}",
    rl="rl --records {r} --media {m} --model {m}/base --preset tiny --prompt short --steps 2 --prompts 2 --g 2 --limit 6 --frames 2 --judge oracle --out {out}",
    generate="generate --records {r} --media {m} --teacher local:{m}/teacher --judge oracle --prompt short --frames 2 --limit 24 --how lenient --out {out}",
    audit="data audit {r} --media {m} --frames 2 --workers 1 --out {out}",
    subset="data subset {r} -n 4 --out {out}",
    convert="data convert {r} --out {out}/rl.json --form ours --part 3")

def by_command(command, folder):
    "The sweep of a command, in a process that has started no thread: forks of one that has may not compute."
    def work(out):
        (folder / "runs").mkdir(exist_ok=True)
        code = main(WORDS[command].format(r=folder / "r.jsonl", m=SAMPLES, out=out).split())
        if code: raise SystemExit(code)
    return sweep(work, folder / "runs", 1 if LONG else FEW[command])

@pytest.mark.parametrize("command", some(WORDS, ("rl",)))
def test_a_command_killed_at_a_write_and_given_again_ends_the_same(tmp_path, command):
    rows = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:8]]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(dict(row, output=TRACE.format("A"))) + "\n" for row in rows))
    env = {**os.environ, "PYTHONPATH": str(SAMPLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, command, tmp_path], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, wrong = json.loads(done.stdout.splitlines()[-1])
    assert tried >= 4 and not wrong, (wrong, done.stderr[-3000:])

def records(n=7): return [replace(example_record(), problem_id=str(i)) for i in range(n)]

def test_parts_killed_at_every_write_end_the_same(tmp_path):
    write_jsonl(records(), tmp_path / "in.jsonl")
    def cut(out):
        if not out.exists(): write_parts(records(5), out / "rl.json.gz", 1, drop=True) # an earlier cut of five
        convert(tmp_path / "in.jsonl", out / "rl.json.gz", "official", 3, True)
    tried, wrong = sweep(cut, tmp_path)
    assert tried > 20 and not wrong, wrong
    assert check_set(tmp_path / "whole") == (7, 0)

def test_parts_of_two_cuts_are_refused_and_missing_ones_named(tmp_path):
    for name in ("a.part1of2.jsonl", "a.part2of2.jsonl", "a.part1of3.jsonl"): (tmp_path / name).touch()
    with pytest.raises(RecordError, match="2 and of 3"): parts_of(tmp_path)
    (tmp_path / "a.part2of2.jsonl").unlink(), (tmp_path / "a.part1of2.jsonl").unlink()
    with pytest.warns(UserWarning, match="of the 3 a.parts 2, 3 is not there"): assert len(parts_of(tmp_path)) == 1

def test_a_dead_process_s_draft_goes_and_a_living_one_s_stays(tmp_path):
    own = draft_of(tmp_path / "a.json")
    dead = own.with_name(own.name.replace(f".{os.getpid()}.", ".999999999."))
    own.touch(), dead.touch()
    write_text(tmp_path / "b.json", "{}")
    assert own.exists() and dead.exists()
    draft_of(tmp_path / "a.json")
    assert own.exists() and not dead.exists()

def test_a_cut_that_fails_leaves_no_drafts_and_the_old_parts(tmp_path):
    write_parts(records(4), tmp_path / "rl.json", 2, drop=True)
    def broken():
        yield from records(3)
        raise OSError("the source is gone")
    with pytest.raises(OSError): write_parts(broken(), tmp_path / "rl.json", 1, drop=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rl.part1of2.json", "rl.part2of2.json"]

if __name__ == "__main__": print(json.dumps(by_command(sys.argv[1], Path(sys.argv[2]))))
