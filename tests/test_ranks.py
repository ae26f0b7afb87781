"Two processes by command, as a launcher starts them, against one: SFT and RL, odd counts and a clip that cannot be read; and processes that fail, are killed, or never come."
import json, os, random, shutil, signal, subprocess, sys
from pathlib import Path
from dataclasses import replace
import pytest, torch
from safetensors.torch import load_file
from videop2r.engine.tuner import train_sft
from videop2r.sft import SFT
from videop2r.tools.cli import main
from rl_child import fresh, prepared
from storm import storm
from team import free_port, places

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
COMMON = ["--model", SAMPLES / "teacher", "--preset", "tiny", "--prompt", "short", "--frames", 4]

def lines(path): return [json.loads(line) for line in Path(path).read_text().splitlines()]

@pytest.fixture(scope="module")
def media(tmp_path_factory):
    "Seven records with their clips, one of which is cut off; traces for them."
    folder = tmp_path_factory.mktemp("media")
    rows = lines(SAMPLES / "train.jsonl")[:7]
    for row in rows:
        (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / row["path"], folder / row["path"])
        row["output"] = f"<observation>I see {row['problem_id']}.</observation> <think>So it is.</think><answer>A</answer>"
    broken = folder / rows[2]["path"]
    broken.write_bytes(broken.read_bytes()[:100])
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder

def launcher(name):
    own = {"torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--master_port"],
           "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
                          "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port"]}[name]
    return [sys.executable, "-m", *own, free_port(), "-m", "videop2r.tools.cli"]

def both_ways(media, out, by, command, *more):
    "The same command in two processes and in one: the folders of both."
    args = [command, "--records", media / "records.jsonl", "--media", media, *COMMON, *more, "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": str(out)}
    done = subprocess.run([*launcher(by), *map(str, args), str(out / "two")], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(f"process {i} of 2" in done.stderr for i in (1, 2)) and done.stdout.count("adapter") == 1
    assert main([*map(str, args), str(out / "one")]) == 0
    return out / "two", out / "one"

def check_same_run(two, one, names):
    for row, other in zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True):
        assert {name: row[name] for name in names} == pytest.approx({name: other[name] for name in names}, abs=1e-5)
    mine, theirs = (load_file(folder / "last/adapter_model.safetensors") for folder in (two, one))
    assert mine.keys() == theirs.keys() and max((mine[name] - theirs[name]).abs().max() for name in mine) < 1e-5
    left_out = [[row["where"] for row in lines(folder / "quarantine.jsonl")] for folder in (two, one)]
    assert left_out[0] == left_out[1] == [lines(two.parent / "names.jsonl")[0]]

@pytest.mark.parametrize("by, command, more, names", [
    ("torchrun", "sft", ("--batch", 7, "--steps", 2, "--lr", 2e-4), ("loss", "loss_perception", "grad_norm", "tokens")),
    ("accelerate", "rl", ("--prompts", 7, "--g", 2, "--limit", 24, "--steps", 2, "--judge", "oracle", "--lr", 2e-4),
     ("reward_perception", "reward_reasoning", "loss", "grad_norm"))])
def test_a_command_in_two_processes_is_the_command_in_one(media, tmp_path, by, command, more, names):
    bad = lines(media / "records.jsonl")[2]["problem_id"]
    (tmp_path / "names.jsonl").write_text(json.dumps(bad))
    two, one = both_ways(media, tmp_path, by, command, *more)
    check_same_run(two, one, names)
    if command == "sft": return
    for folder in (two, one): # what two have begun one goes on with
        assert main([*map(str, [command, "--records", media / "records.jsonl", "--media", media, *COMMON, *more, "--steps", 3, "--resume", "--out", folder])]) == 0
    assert len(lines(two / "metrics.jsonl")) == 3
    check_same_run(two, one, names)

@pytest.fixture(scope="module")
def parted():
    "A process that has imported all, from which those of each case part."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen([sys.executable, ROOT / "tests/rank_child.py"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        yield one
        one.stdin.close()

def together(parted, n, kind, out, rank, step, where, how, patience=300):
    "n processes without a launcher, one of which fails: (exit code, what it said) of each."
    env = places(n) | {"VIDEOP2R_PATIENCE": str(patience), "HOME": str(out)}
    print(json.dumps(dict(n=n, env=env, out=str(out), args=[kind, rank, step, where, how])), file=parted.stdin, flush=True)
    codes = json.loads(parted.stdout.readline())
    return [(code, (out / f"said{i}").read_text()) for i, code in enumerate(codes)]

def check_end(parted, out, n, kind, rank, step, where, how, patience=300):
    "All end, each names process, step and cause, and finished steps are kept."
    ends = together(parted, n, kind, out, rank, step, where, how, patience)
    others = [end for i, end in enumerate(ends) if i != rank]
    assert all(code for code, _ in ends), ends
    if how in ("raise", "memory"):
        assert all(f"process {rank + 1}, step {step}: " in said and "made by the test" in said for _, said in ends), ends
    if how == "kill":
        assert ends[rank][0] == -signal.SIGKILL and all(f"step {step}" in said and "another process is gone" in said for _, said in others), others
    rows = lines(out / "run/metrics.jsonl") if (out / "run/metrics.jsonl").exists() else []
    assert [row["step"] for row in rows][:step] == list(range(step)) and len(rows) <= step + 1
    if step: assert (out / "run/checkpoint.pt").is_file()

@pytest.mark.parametrize("n, kind, rank, step, where, how", [(2, "rl", 1, 1, "gradient", "memory"), (3, "sft", 2, 1, "read", "kill")])
def test_a_fault_of_one_ends_all_by_name(parted, tmp_path, n, kind, rank, step, where, how): check_end(parted, tmp_path, n, kind, rank, step, where, how)

@storm
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_a_fault_at_any_moment_ends_all_by_name(parted, tmp_path, n, seed):
    draw = random.Random(seed * 10 + n)
    kind, how = draw.choice(["rl", "sft"]), draw.choice(["raise", "memory", "kill", "kill"])
    where = draw.choice(["read", "sample", "judge", "gradient", "write"] if kind == "rl" else ["read", "gradient", "write"])
    if where == "judge" and how == "memory": how = "raise" # a judge's own fault of memory is a missing verdict
    check_end(parted, tmp_path, n, kind, draw.randrange(n), draw.randrange(3), where, how)

def test_sft_goes_on_with_another_number_of_processes(tmp_path):
    coder, _, prompts, _ = prepared(tmp_path / "media", 3)
    examples = [replace(prompt, response=coder.ids("It moves.") + [coder.eos]) for prompt in prompts]
    def run(hook=None):
        policy = fresh()
        return train_sft(policy.model, policy.coder, examples, SFT(steps=3, batch=3, save_every=1), tmp_path / "run", quiet=True, hook=hook)
    def stop(row): raise EOFError
    with pytest.raises(EOFError): run(stop)
    place, beside = tmp_path / "run/checkpoint.pt", tmp_path / "run/settings.json"
    found, held = torch.load(place, weights_only=True), json.loads(beside.read_text())
    found["state"]["rng"] *= 2 # as two processes write it
    torch.save(found, place)
    beside.write_text(json.dumps(dict(held, settings=dict(held["settings"], ranks=2))))
    assert [row["step"] for row in run()] == [0, 1, 2]
    assert {name: json.loads(beside.read_text())["changes"][0][name] for name in ("field", "old", "new")} == dict(field="ranks", old=2, new=1)
