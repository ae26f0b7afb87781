"""What a run that is killed, torn or doubled leaves behind, and that the next one pays for nothing twice."""
import json, multiprocessing as mp, os, random, re, signal, threading, time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.cot import SHORT, render
from videop2r.data import read_jsonl
from videop2r.tools.pipeline import ChatTeacher, generate
from videop2r.judge import Judge, Verdict
from videop2r.engine.remote import Reply
from videop2r.engine.store import Ledger, Shard, Store, identity, merge
from videop2r.engine.scenes import World
from videop2r.world import make_records
from storm import LONG

WORKERS, RECORDS = 4, 60
STORM = 100 if LONG else 2
FORK = mp.get_context("forkserver") # children start at once, from a process without threads that has the imports done
FORK.set_forkserver_preload(["videop2r.tools.pipeline", "videop2r.world", "hypothesis", "pytest"])

class Register:
    "Notes each paid call on disk, before and after, with the thread that made it."
    def __init__(self, path):
        self.file = open(path, "ab", buffering=0)
        self.note("begins", 0)

    def note(self, what, n):
        self.file.write(f"{os.getpid()} {threading.get_ident()} {what} {n}\n".encode())
        os.fsync(self.file.fileno())

    def call(self, what, n):
        self.note(f"{what}-asked", n)
        time.sleep(random.uniform(.002, .01))
        self.note(f"{what}-answered", n)

class Paid:
    "A teacher's server whose calls are noted."
    model, temperature, max_tokens = "paid", 0., 100
    def __init__(self, register): self.register = register
    def __call__(self, messages):
        n, truth = re.search(r"\(#(\d+) (\w+)\)", messages[0]["content"][-1]["text"]).groups()
        self.register.call("teacher", n)
        return Reply(render(f"I see number {n}.", "So it is.", truth), tokens_out=20)

def paid_judge(register):
    def ask(r, observation):
        n = re.search(r"number (\d+)", observation)[1]
        register.call("judge", n)
        return Verdict(int(n) % 3 > 0, "divides by three" if int(n) % 3 == 0 else "fine")
    return Judge(ask, "paid")

def run(records, media, out, log, quiet=True, **kw):
    register = Register(log)
    return generate(records, media, ChatTeacher(Paid(register), workers=WORKERS), paid_judge(register), out, prompt=SHORT, how="lenient", quiet=quiet,
                    workers=WORKERS, **kw)

@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    "Records whose question holds a number and the truth."
    root = tmp_path_factory.mktemp("stills")
    made = make_records(root, RECORDS, "storm", World(still=1.), kinds=("count", "text"))
    return [replace(r, problem=f"{r.problem} (#{i} {r.truth})") for i, r in enumerate(made)], root

@pytest.fixture(scope="module")
def calm(stills, tmp_path_factory):
    "A run that nothing disturbed: its records and how long it took."
    out, start = tmp_path_factory.mktemp("calm"), time.perf_counter()
    made = run(*stills, out / "run", out / "log")
    return sorted((r.problem_id, r.output) for r in made.kept), time.perf_counter() - start

def whole_lines(path):
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(l) for l in data[:data.rfind(b"\n") + 1].splitlines()]

def number(row): return re.search(r"number (\d+)", row["output"])[1]

def killed(stills, out, log, after):
    "Run in a process of its own and kill it so many seconds after it began; False if it had finished."
    p, runs = FORK.Process(target=run, args=(*stills, out, log)), log.read_text().count("begins")
    p.start()
    while log.read_text().count("begins") == runs and p.is_alive(): time.sleep(.001)
    p.join(after)
    if p.is_alive(): os.kill(p.pid, signal.SIGKILL)
    p.join()
    assert p.exitcode in (0, -signal.SIGKILL)
    return p.exitcode != 0, p.pid

def notes(log, pid): return [l.split()[1:] for l in log.read_text().splitlines() if l.startswith(f"{pid} ")]

def settled(rows, what):
    "Calls that were answered and whose thread then asked again: they must be in the store."
    by_thread, out = {}, set()
    for thread, note, n in rows:
        if note.startswith(what): by_thread.setdefault(thread, []).append((note, n))
    for calls in by_thread.values():
        for (a, n), (b, _) in zip(calls, calls[1:]):
            if a.endswith("answered") and b.endswith("asked"): out.add(n)
    return out

def after_a_kill(out, log, pid, ids):
    "Check what the kill left; returns the calls that were under way when it came."
    traces, verdicts = ({r["problem_id"] for r in whole_lines(out / f"{k}.jsonl")} for k in ("traces", "verdicts"))
    rows, lost = notes(log, pid), {}
    for what, stored in dict(teacher=traces, judge=verdicts).items():
        stored = {ids[i] for i in stored}
        assert settled(rows, what) <= stored
        lost[what] = {n for _, note, n in rows if note == f"{what}-asked"} - stored
        assert len(lost[what]) <= WORKERS
    return lost

def storm(stills, calm, folder, seed, most):
    "Kill and go on until the run is done; returns how many kills it took."
    rng, kills, again, (expected, seconds) = random.Random(seed), 0, Counter(), calm
    out, log, ids = folder / "run", folder / "log", {r.problem_id: str(i) for i, r in enumerate(stills[0])}
    folder.mkdir()
    log.touch()
    while True:
        was_killed, pid = killed(stills, out, log, rng.uniform(0, seconds * .6) if kills < most else None)
        if not was_killed: break
        kills += 1
        for what, lost in after_a_kill(out, log, pid, ids).items(): again.update((what, n) for n in lost)
    asked = Counter(tuple(l.split()[2:]) for l in log.read_text().splitlines())
    for i in range(RECORDS):
        for what in ("teacher", "judge"): assert asked[f"{what}-asked", str(i)] == 1 + again[what, str(i)]
    assert sorted((r.problem_id, r.output) for r in read_jsonl(out / "kept.jsonl")) == expected
    return kills

def test_kills_at_random_moments_lose_nothing_and_repeat_only_what_was_under_way(stills, calm, tmp_path):
    kills = 0
    for seed in range(1000):
        if kills >= STORM: break
        kills += storm(stills, calm, tmp_path / str(seed), seed, STORM - kills)
    assert kills == STORM

def calls(log, what): return sum(f" {what}-asked " in l for l in log.read_text().splitlines())

def test_a_store_torn_at_any_byte_is_mended_and_only_what_is_missing_is_asked_again(stills, calm, tmp_path):
    records, media = stills[0][:12], stills[1]
    run(records, media, tmp_path / "run", tmp_path / "log")
    whole = {k: (tmp_path / "run" / f"{k}.jsonl").read_bytes() for k in ("traces", "verdicts")}
    rng = random.Random(0)
    for i in range(20):
        cut = {k: v[:rng.randrange(len(v) + 1)] for k, v in whole.items()}
        for k, v in cut.items(): (tmp_path / "run" / f"{k}.jsonl").write_bytes(v)
        made = run(records, media, tmp_path / "run", log := tmp_path / f"log{i}")
        for what, k in dict(teacher="traces", judge="verdicts").items(): assert calls(log, what) == 12 - cut[k].count(b"\n")
        assert len(made.kept) == 8 and made.at("unfinished") == 0

@pytest.mark.parametrize("change,field", [(dict(threshold=.9), "threshold was 0.6, now 0.9"), (dict(how="faithful"), "how was lenient, now faithful")])
def test_another_setting_is_named_and_refused_until_it_is_accepted(stills, tmp_path, change, field):
    records, media = stills[0][:6], stills[1]
    ask = lambda log, **kw: generate(records, media, ChatTeacher(Paid(Register(log))), paid_judge(Register(log)), tmp_path / "run", prompt=SHORT, quiet=True, **{"how": "lenient", **kw})
    ask(tmp_path / "log")
    before = whole_lines(tmp_path / "run" / "traces.jsonl")
    with pytest.raises(ValueError, match=re.escape(field)) as e: ask(tmp_path / "log", **change)
    assert "another --out" in str(e.value) and whole_lines(tmp_path / "run" / "traces.jsonl") == before
    ask(tmp_path / "log", **change, accept=list(change))
    held = json.loads((tmp_path / "run" / "manifest.json").read_text())["changes"]
    assert [(c["field"], c["traces"]) for c in held] == [(*change, 6)]

def hold(out, seconds):
    with Ledger(out, {}): time.sleep(seconds)

def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    p = FORK.Process(target=hold, args=(tmp_path / "run", 60))
    p.start()
    while not (tmp_path / "run" / "manifest.json").exists(): time.sleep(.01)
    with pytest.raises(RuntimeError, match="another process"), Ledger(tmp_path / "run", {}): pass
    p.kill()
    p.join()
    with Ledger(tmp_path / "run", {}) as ledger: assert len(ledger.traces) == 0

def test_shards_are_disjoint_and_complete_and_their_stores_merge_to_the_whole(stills, calm, tmp_path):
    records, media = stills
    parts = [run(records, media, tmp_path / str(i), tmp_path / "log", shard=Shard(i, 3)) for i in (1, 2, 3)]
    assert sum(m.steps["records"] for m in parts) == RECORDS
    merged = merge([m.out for m in parts], tmp_path / "whole")
    assert merged == dict(traces=RECORDS, verdicts=RECORDS) and calls(tmp_path / "log", "teacher") == RECORDS
    made = run(records, media, tmp_path / "whole", tmp_path / "again")
    assert sorted((r.problem_id, r.output) for r in made.kept) == calm[0] and calls(tmp_path / "again", "teacher") == 0

@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=30, unique=True), n=st.integers(1, 7))
def test_every_record_is_in_one_shard(texts, n):
    from videop2r.cot import example_record
    for t in texts: assert sum(replace(example_record(), problem=t) in Shard(i + 1, n) for i in range(n)) == 1

def test_a_disk_that_takes_half_a_row_keeps_none_of_it(tmp_path, monkeypatch):
    store = Store(tmp_path / "s.jsonl")
    store.add([dict(problem_id="a")])
    real = store.file
    class Full:
        def write(self, data): return real.write(data[:len(data) // 2])
        def __getattr__(self, name): return getattr(real, name)
    store.file = Full()
    with pytest.raises(OSError, match="make room"): store.add([dict(problem_id="b", output="x" * 99)])
    store.file = real
    store.add([dict(problem_id="c")])
    assert list(Store(store.path)) == ["a", "c"]
