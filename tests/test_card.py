"What a card, a launcher and the hub would meet: refused by name, told with the knob to turn, or the same as without."
import json, os, shutil, subprocess, sys, textwrap

from pathlib import Path
import pytest, torch
from videop2r.cot import SHORT
from videop2r.data import read_jsonl

from videop2r.engine.checkpoints import source_of, warn_of_half
from videop2r.engine.reading import to_prompts
from videop2r.engine.runs import save_adapter
from videop2r.judge import judge_of
from videop2r.families import TOWER_PATCHES
from videop2r.model import Policy, add_lora, load
from videop2r.tokens import Coder
from videop2r.tools.cli import main
from videop2r.tools.launch import open_policy, preset_of

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
RECORDS = read_jsonl(SAMPLES / "train.jsonl")[:4]
TRACE = "<observation>A thing moves to the left.</observation> <think>So.</think> <answer>A</answer>"

def python(code, **env):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr

def words(command, out, *more):
    own = dict(sft=["--steps", 1, "--batch", 2], rl=["--steps", 1, "--prompts", 2, "--g", 2, "--limit", 6, "--judge", "oracle"])[command]
    rows = [dict(r.to_dict(), output=TRACE) for r in RECORDS]
    (out / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(map(str, [command, "--records", out / "r.jsonl", "--media", SAMPLES, "--model", SAMPLES / "base", "--preset", "tiny", "--prompt", "short", "--frames", 2, "--out", out / "run", *own, *more]))

# ---- what a launcher sets

@pytest.mark.parametrize("command", ["sft", "rl"])
@pytest.mark.parametrize("name, value, said", [
    ("ACCELERATE_USE_FSDP", "true", "FSDP is set by the launcher"), ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is set"), ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron is set"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "a parallelism config is set"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "adds up gradients of 4 steps")])
def test_what_no_run_does_is_refused_by_name(tmp_path, monkeypatch, capsys, command, name, value, said):
    monkeypatch.setenv(name, value)
    assert main(words(command, tmp_path)) == 1
    told = capsys.readouterr().err
    assert said in told and "launch with" in told and not list(tmp_path.glob("run/*.jsonl"))

def test_a_precision_that_a_launcher_or_a_caller_chose_stops_nothing():
    code, said = python("""
        from accelerate import Accelerator
        Accelerator(cpu=True, mixed_precision="bf16")
        from videop2r.engine.runs import Team
        print(Team().size, Team(trackers=()).device)""")
    assert code == 0 and "1 cpu" in said
    code, said = python("from videop2r.engine.runs import Team\nprint(Team().size)", ACCELERATE_MIXED_PRECISION="fp16")
    assert code == 0 and "1" in said

# ---- memory that runs out

@pytest.mark.parametrize("command, where, knob", [
    ("rl", "videop2r.rollout.sample_slice", "in sampling: lower slices, g, limit"), ("rl", "videop2r.rollout.read_reference", "in reference: lower micro or rows"),
    ("rl", "videop2r.engine.learner.backward", "in update: lower micro or rows, or set recompute"), ("sft", "videop2r.engine.tuner.response_logprobs", "lower micro, frames or pixels, or set checkpointing")])
def test_memory_that_runs_out_names_the_knob(tmp_path, monkeypatch, capsys, command, where, knob):
    def full(*args, **kw): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    monkeypatch.setattr(where, full)
    assert main(words(command, tmp_path, *(["--adapter", adapter(tmp_path)] if command == "rl" else []))) == 1
    assert knob in (said := capsys.readouterr().err) and "Tried to allocate 2.00 GiB" in said and said.count("\n") < 40

def adapter(folder):
    base = load(SAMPLES / "base")
    save_adapter(add_lora(base, Coder.load(SAMPLES / "base").family, rank=2), folder / "adapter", "policy")
    return folder / "adapter"

def test_visuals_go_through_the_tower_by_patches(monkeypatch):
    policy = Policy.load(SAMPLES / "base")
    prompts = to_prompts(policy.coder, RECORDS, SAMPLES, SHORT, 4)[0]
    visuals, calls, real = [each.visual for each in prompts] + [None], [], policy.body.get_video_features
    monkeypatch.setattr(policy.body, "get_video_features", lambda pixels, *a, **kw: calls.append(len(pixels)) or real(pixels, *a, **kw))
    whole, size = policy.see(visuals), max(len(v.patches) for v in visuals if v)
    parts = policy.see(visuals, chunk=size)
    assert len(calls) == 1 + len(prompts) and max(calls[1:]) <= size and calls[0] <= TOWER_PATCHES
    assert all(a is b is None or (a - b).abs().max() < 1e-5 for a, b in zip(whole, parts)) and whole[-1] is None

# ---- numbers that nobody wants are not computed

def test_entropy_is_counted_once_and_only_where_it_is_wanted(monkeypatch):
    policy, calls, real = Policy.load(SAMPLES / "base"), [], torch.special.entr
    monkeypatch.setattr(torch.special, "entr", lambda p: calls.append(len(p)) or real(p))
    states = torch.randn(2, 6, policy.head.in_features, requires_grad=True)
    ids, mask = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.bool)
    logprobs, entropy = policy.token_logprobs(states, ids, mask, chunk=4)
    logprobs.sum().backward()
    assert calls == [4, 4, 4] and entropy.shape == (2, 6) and (entropy > 0).all()
    same, none = policy.token_logprobs(states, ids, mask, chunk=4, entropy=False)
    assert len(calls) == 3 and none is None and torch.equal(same, logprobs)

# ---- the hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A cache with two commits of one repository, of which main is the second."
    home = tmp_path / "hub/models--org--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(SAMPLES / "base", home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs/main").write_text("b" * 40)
    (home / "refs/old").write_text("a" * 40)
    return tmp_path / "hub", home

def test_a_name_with_a_revision():
    assert source_of("org/name@v1.0") == ("org/name", dict(revision="v1.0")) and source_of("org/name") == ("org/name", {}) and source_of(SAMPLES) == (str(SAMPLES), {})
    with pytest.raises(ValueError, match="there is no such folder"): source_of("org/name@")

def test_a_revision_loads_and_enters_the_fingerprint(hub):
    cache, home = hub
    code = """
        from videop2r.model import Policy, add_lora
        from videop2r.engine.runs import base_of, fingerprint
        for name in ("org/name", "org/name@old", "org/name@""" + "a" * 40 + """"):
            policy = Policy.load(name)
            print(name.partition("@")[2][:3], fingerprint(name), "|", base_of(add_lora(policy.model, policy.family))["base"])"""
    env = dict(HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    code_, said = python(code, **env)
    assert code_ == 0, said[-2000:]
    assert "org/name bbbbbbbb | org/name bbbbbbbb" in said and said.count("org/name aaaaaaaa | org/name aaaaaaaa") == 2
    (home / "refs/main").write_text("a" * 40) # the hub has moved on
    assert "org/name aaaaaaaa | org/name aaaaaaaa" in python(code, **env)[1].splitlines()[-3]

def test_an_adapter_of_the_hub_is_fetched_for_rl(tmp_path, monkeypatch):
    own = adapter(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kw: str(own) if (name, kw.get("revision")) == ("org/tuned", "v2") else None)
    policy, settings = open_policy(SAMPLES / "base", "org/tuned@v2", preset_of("tiny"))
    assert set(policy.model.peft_config) == {"policy", "reference"}

# ---- cards

def test_a_card_without_bfloat16_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.warns(UserWarning, match="Tesla T4 has no bfloat16 of its own"): warn_of_half("cuda", torch.bfloat16)
    warn_of_half("cpu", torch.bfloat16), warn_of_half("cuda", torch.float32)

def test_a_judge_of_a_base_takes_four_bits_on_a_card(monkeypatch):
    asked = []
    monkeypatch.setattr(Policy, "load", classmethod(lambda cls, folder, **kw: asked.append(kw)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    judge_of(f"base:{SAMPLES / 'base'}")
    assert asked == [dict(nf4=True)]
