"What a card, a launcher and the hub would meet: refused by name, told with the knob to turn, or the same as without."
import json, os, shutil, subprocess, sys, textwrap

from pathlib import Path
import pytest, torch
from transformers import AutoModelForImageTextToText
from videop2r.cot import SHORT
from videop2r.data import read_jsonl

from videop2r.engine.checkpoints import _FLASH, check_attention, source_of, warn_of_half
from videop2r.engine.reading import to_prompts
from videop2r.engine.runs import save_adapter
from videop2r.judge import judge_of
from videop2r.families import FAMILIES, TOWER_PATCHES
from videop2r.model import Policy, add_lora, load, whole_windows
from videop2r.tokens import Coder
from videop2r.tools.cli import main
from videop2r.tools.launch import Preset

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
    ("rl", "videop2r.rollout.Rollout.sampled", "in sampling: lower slices, g, limit"), ("rl", "videop2r.rollout.read_reference", "in reference: lower micro or rows"),
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

# ---- attention

def towers(model_type, **more):
    "Two equal models: the family's own tower, window by window, and ours."
    torch.manual_seed(0)
    config = Coder(Coder.load(SAMPLES / "base").tokenizer, FAMILIES[model_type]).tiny_config(64, 1, 64, 3)
    for name, value in more.items(): setattr(config.vision_config, name, value)
    own = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).requires_grad_(False)
    for name, weight in own.named_parameters(): torch.nn.init.normal_(weight, 0. if weight.ndim > 1 or name.endswith("bias") else 1., .2)
    ours = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).requires_grad_(False)
    ours.load_state_dict(own.state_dict())
    return own, whole_windows(ours)

GRIDS = dict(even=[[4, 16, 32]], ragged=[[3, 20, 28]], several=[[2, 10, 12], [1, 6, 6], [3, 16, 8]], small=[[1, 2, 2]])

@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_windows_of_one_length_go_in_one_call(model_type, grids, monkeypatch):
    "With the family's own numbers and gradients; the middle layer of Qwen2.5-VL's attends to whole frames."
    both = towers(model_type, **dict(fullatt_block_indexes=[1]) if model_type == "qwen2_5_vl" else {})
    family, grid = FAMILIES[model_type], torch.tensor(GRIDS[grids])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * family.temporal * family.patch**2)
    found, calls, real = [], [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, *a, **kw: calls.append(len(q)) or real(q, *a, **kw))
    for model in both:
        model.model.visual.blocks.requires_grad_(True)
        out = model.model.visual(pixels, grid_thw=grid).pooler_output
        out.square().mean().backward()
        found.append((out.detach(), torch.cat([p.grad.flatten() for p in model.model.visual.blocks.parameters()]), sum(calls), len(calls)))
        calls.clear()
    (want, way_back, windows, _), (got, back, same, few) = found
    assert (got - want).abs().max() < 1e-5 * want.abs().max() and (back - way_back).norm() < 1e-5 * way_back.norm()
    assert windows == same and few <= 3 * 9 and (grids != "even" or few == 3)

def test_a_loaded_tower_attends_within_all_windows_at_once(monkeypatch):
    "The tiny base attends to whole frames, four of each clip here: two layers, one call each."
    policy, calls, real = Policy.load(SAMPLES / "base"), [], torch.nn.functional.scaled_dot_product_attention
    visual = to_prompts(policy.coder, RECORDS, SAMPLES, SHORT, 8)[0][0].visual
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, *a, **kw: calls.append(len(q)) or real(q, *a, **kw))
    with torch.no_grad(): (ours,) = policy.see([visual])
    assert calls == [4, 4]
    calls.clear()
    with torch.no_grad(): (plain,) = Policy.load(SAMPLES / "base", attention="eager").see([visual])
    assert not calls and (ours - plain).abs().max() < 1e-5 * plain.abs().max()

def test_an_adapter_on_the_tower_learns_through_whole_windows():
    policy = Policy.load(SAMPLES / "base")
    visual, model = to_prompts(policy.coder, RECORDS, SAMPLES, SHORT, 4)[0][0].visual, add_lora(policy.model, policy.family, rank=2, vision=True)
    Policy(model, policy.coder).see([visual])[0].square().sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if "visual" in n and "lora_B" in n]
    assert grads and all(g is not None and g.abs().sum() > 0 for g in grads)

@pytest.mark.parametrize("attention, device, dtype, said", [
    ("flash", "cpu", torch.float32, "attention is 'flash'; use one of sdpa, eager, flash_attention_2, flash_attention_3"),
    ("flash_attention_2", "cpu", torch.float32, "flash_attention_2 needs the package flash-attn, which is not installed; a GPU, where the device is cpu; bfloat16 or float16, where the numbers are torch.float32; use sdpa"),
    ("flash_attention_3", "cpu", torch.bfloat16, "flash_attention_3 needs the package flash-attn-3, which is not installed; a GPU, where the device is cpu; use sdpa")])
def test_an_attention_that_cannot_run_is_refused_by_name(attention, device, dtype, said):
    with pytest.raises(ValueError) as e: check_attention(attention, device, dtype)
    assert said in str(e.value)

def test_a_card_that_is_too_old_for_flash_attention_is_named(monkeypatch):
    monkeypatch.setitem(_FLASH, "flash_attention_2", ("flash-attn", lambda: True, 8))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match="needs a card of capability 8.0, where Tesla T4 has 7.5; use sdpa"): check_attention("flash_attention_2", "cuda", torch.float16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert check_attention("flash_attention_2", "cuda", torch.float16) == "flash_attention_2" and check_attention(None, "cpu", torch.float32) == "sdpa"

@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_run_from_before_the_flag_goes_on_and_may_change_its_attention(tmp_path, monkeypatch, capsys, command):
    asked, real = [], AutoModelForImageTextToText.from_pretrained
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *a, **kw: asked.append(kw["attn_implementation"]) or real(*a, **kw))
    given, file = words(command, tmp_path), tmp_path / "run/settings.json"
    assert main(given) == 0
    told = json.loads(file.read_text())
    assert told["settings"].pop("attention") is None
    file.write_text(json.dumps(told))
    assert main(given) == 0 and main([*given, "--attention", "eager"]) == 0 and asked == ["sdpa", "sdpa", "eager"]
    assert main([*given, "--attention", "flash_attention_2"]) == 1 and "needs the package flash-attn" in capsys.readouterr().err

def test_a_question_takes_the_attention_that_is_given(monkeypatch, capsys):
    asked, real = [], AutoModelForImageTextToText.from_pretrained
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *a, **kw: asked.append(kw["attn_implementation"]) or real(*a, **kw))
    given = ["ask", SAMPLES / "teacher", SAMPLES / RECORDS[0].path, "What moves?", "--frames", 2]
    said = [(main(list(map(str, [*given, *more]))), capsys.readouterr().out) for more in ([], ["--attention", "eager"])]
    assert said[0] == said[1] and said[0][0] == 0 and asked == ["sdpa", "eager"]
    assert main(list(map(str, [*given, "--attention", "linear"]))) == 1 and "attention is 'linear'; use one of sdpa" in capsys.readouterr().err

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
    code = f"""
        from pathlib import Path
        from videop2r.model import Policy, add_lora
        from videop2r.engine.runs import base_of, fingerprint
        def told(name):
            policy = Policy.load(name)
            print(fingerprint(name), "|", base_of(add_lora(policy.model, policy.family))["base"])
        for name in ("org/name", "org/name@old", "org/name@{"a" * 40}"): told(name)
        Path({str(home / "refs/main")!r}).write_text("{"a" * 40}") # the hub has moved on
        told("org/name")"""
    code, said = python(code, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    assert code == 0, said[-2000:]
    first, *others = [line for line in said.splitlines() if line.startswith("org/name")]
    assert first.startswith("org/name bbbbbbbb") and "| org/name bbbbbbbb" in first
    assert len(others) == 3 and all(line.startswith("org/name aaaaaaaa") and "| org/name aaaaaaaa" in line for line in others)

def test_an_adapter_of_the_hub_is_fetched_for_rl(tmp_path, monkeypatch):
    own = adapter(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kw: str(own) if (name, kw.get("revision")) == ("org/tuned", "v2") else None)
    policy, settings = Preset.named("tiny").begin(SAMPLES / "base", "org/tuned@v2")
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
