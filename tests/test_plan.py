"""The plan: every setting moves it, a card that is too small is said before anything is loaded, and the command is one for scripts."""
import json, subprocess, sys
from pathlib import Path
import pytest
from videop2r.families import FAMILIES, Shape, lora_parameters, parameters
from videop2r.model import add_lora
from videop2r.tools.launch import PRESETS
from videop2r.tools import rehearse # gives a Shape its config, a Preset its plan
from videop2r.tools.plan import _KERNELS, _kernels, Gpu, Settings, Tensor, gpu_of, held, plan
from storm import storm

@pytest.mark.parametrize("change,stage", [(dict(frames=32), "update"), (dict(pixels=256 * 784), "sft"), (dict(completion=1536), "update"), (dict(micro=8), "sft"), (dict(rank=64), "sampling"),
    (dict(weights="bf16"), "reference"), (dict(checkpointing=False), "sft"), (dict(recompute="nothing"), "update"), (dict(group=16), "sampling"), (dict(rows=8), "update"), (dict(compute="fp32"), "sft")])
def test_every_setting_moves_its_stage(change, stage):
    base = dict(rows=4)
    assert plan("7b", **{**base, **change}).peaks[stage] > plan("7b", **base).peaks[stage]

def test_a_plan_that_does_not_fit_says_what_to_turn():
    small = plan("7b", "8GB")
    assert small.fits is False and "One knob alone" in str(small) and "smaller model" in str(small) and small.tightened() is None
    tight = plan("7b", "16GB", frames=32, micro=4, recompute="nothing")
    assert tight.fits is False and tight.tightened().fits and "It fits with" in str(tight)
    assert plan("7b", "80GB").fits and plan("7b").fits is None
    for wrong in (dict(frames=0), dict(group=1), dict(weights="int3"), dict(recompute="some")):
        with pytest.raises(ValueError): Settings(**wrong)

@pytest.mark.parametrize("size", Shape.known)
def test_every_size_has_a_plan(size):
    for name, gpu in Gpu.known.items():
        p = plan(size, name)
        assert set(p.stages) == {"sft", "sampling", "reference", "update"} and all(v > 0 for v in p.hours.values()) and gpu_of(name) == gpu
        assert p.stages["sft"]["weights"] * 1e9 > sum(parameters(Shape.known[size]).values()) * .5 and p.html().count("position:absolute") == 9 * 4 + 1 and all(part in p.html() for part in Tensor.parts)

def test_weights_are_those_of_the_class():
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
    text = dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, vocab_size=151936)
    with torch.device("meta"): model = AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(text_config=text, vision_config=dict(hidden_size=1280, intermediate_size=3420, out_hidden_size=2048), tie_word_embeddings=True))
    model.tie_weights()
    assert abs(sum(p.numel() for p in model.parameters()) / sum(parameters(Shape.known["3b"]).values()) - 1) < .002
    assert lora_parameters(Shape.known["3b"], 16) == 36 * 16 * sum(a + b for a, b in Shape.known["3b"].linears)

def run(*args): return subprocess.run([sys.executable, "-m", "videop2r.tools.cli", "plan", *args], capture_output=True, text=True)

def test_the_command_answers_scripts():
    done = run("--model", "7b", "--gpu", "24GB", "--frames", "16", "--group", "8")
    assert done.returncode == 0 and "Fits" in done.stdout and "the paper's RL" in done.stdout
    done = run("--model", "7b", "--gpu", "8GB", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 2 and found["fits"] is False and found["knobs"] and found["gigabytes"]["update"]["activations"] > 0
    assert json.loads(run("--gpu", "rtx4090", "--price", "1", "--json").stdout)["dollars"]["rl"] == json.loads(run("--gpu", "rtx4090", "--json").stdout)["hours"]["rl"]
    done = run("--gpu", "huge")
    assert done.returncode == 1 and "24GB" in done.stderr and "Traceback" not in done.stderr

@pytest.fixture
def small(monkeypatch):
    "The benchmark's steps on a model of a few MB."
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import memory
    monkeypatch.setattr(memory, "SHAPE", dict(hidden=256, layers=6, heads=4, kv=2, inter=1024, vocab=512, tied=True))
    monkeypatch.setattr(memory, "TEXT", 160)
    return memory

def allocated(run, path):
    "The most bytes of tensors that stood at once while something ran, beyond those before it."
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found: run()
    found.export_chrome_trace(str(path))
    events = sorted((e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    now = most = 0
    for e in events:
        now += e["args"]["Bytes"]
        most = max(most, now)
    return most

STEPS = [("sft", dict(completion=64, micro=1, checkpointing=False)), ("sft", dict(completion=64, micro=3)), ("sampling", dict(completion=16, group=32)), ("sampling", dict(completion=8, group=4)),
    ("reference", dict(completion=64, group=8)), ("update", dict(completion=96, group=8, rows=8, recompute="nothing")), ("update", dict(completion=96, group=8, rows=2, recompute="prompt")),
    ("update", dict(completion=96, group=8, rows=8, recompute="all")), ("update", dict(completion=96, group=8, rows=1, recompute="all"))]

def cases(
    **now, # precision -> places of steps that every run counts; the others wait for a storm
):
    return [pytest.param(compute, stage, more, id="-".join(map(str, (compute, stage, *more.values()))), marks=() if i in here else storm)
            for compute, here in now.items() for i, (stage, more) in enumerate(STEPS)]

@pytest.mark.parametrize("compute, stage, more", cases(fp32=(0, 2, 3, 6), bf16=(4,)))
def test_the_count_is_what_the_allocator_counts(small, compute, stage, more, tmp_path, monkeypatch):
    import torch
    from dataclasses import replace
    from videop2r.engine import shared
    if compute == "bf16": monkeypatch.setattr(shared, "ATTEND", {}) # as on a GPU
    m, o, s = small.model(), replace(small.settings(more), compute=compute, weights=compute, merged=compute == "fp32"), small.shape()
    for n, p in m.named_parameters(): p.data = p.data.to(torch.bfloat16) if compute == "bf16" and "lora" not in n else p.data
    step = getattr(small, stage)(m, o)
    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=compute == "bf16" and stage == "sft"): step()
    run() # the gradients stand from now on
    assert sum(t.bytes for t in held(stage, s, o, small.FAMILY)) == pytest.approx(allocated(run, tmp_path / "trace.json"), rel=.1 if compute == "fp32" else .2)

@pytest.fixture
def newer(small, monkeypatch):
    "The same steps on a model of which three of four layers are gated delta nets."
    from transformers import AutoModelForImageTextToText
    shape = Shape(256, 4, 4, 2, 1024, 512, True, v_hidden=64, v_layers=1, v_inter=128, head_dim=64, model_type="qwen3_5", places=64, nets=3, net=(2, 4, 64, 64))
    def model(): return add_lora(AutoModelForImageTextToText.from_config(shape.config(shape.coder())).eval().requires_grad_(False), small.FAMILY, rank=8)
    for name, value in dict(FAMILY=FAMILIES["qwen3_5"], PIXELS=32 * 32, shape=lambda: shape, model=model).items(): monkeypatch.setattr(small, name, value)
    monkeypatch.setattr(small.coder, "family", small.FAMILY)
    return small

@pytest.mark.parametrize("compute, stage, more", cases(fp32=(3, 5), bf16=(4,)))
def test_gated_delta_nets_are_counted_as_the_allocator_counts_them(newer, compute, stage, more, tmp_path, monkeypatch):
    test_the_count_is_what_the_allocator_counts(newer, compute, stage, more, tmp_path, monkeypatch)

@pytest.mark.parametrize("model", ["3b", "7b", "4b", "8b", "qwen3.5-4b"])
@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("gb")])
def test_every_preset_fits_its_card(name, model):
    "By the plan, with 8% of the card left."
    told = PRESETS[name].planned(model, gpu_of(name))
    assert told.fits, told.peaks

def test_prompts_sampled_together_take_memory_and_save_time():
    one, seven = plan("7b", "16GB"), plan("7b", "16GB", slices=7)
    assert seven.peaks["sampling"] > one.peaks["sampling"] + 2 and seven.seconds["sampling"] < one.seconds["sampling"] / 4 and seven.peaks["update"] == one.peaks["update"]

@pytest.mark.parametrize("model, weights", [("7b", "nf4"), ("4b", "bf16"), pytest.param("qwen3.5-4b", "nf4", marks=storm)])
def test_the_kernels_of_a_token_are_those_that_are_counted(model, weights, monkeypatch):
    "On models of three and four layers without a weight."
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    from true_shapes import kernels
    assert kernels(model, weights == "nf4") == _KERNELS[Shape.known[model].model_type][weights]

def test_a_token_starts_more_kernels_where_matrices_are_unpacked():
    few, many, whole = (_kernels(plan("7b", slices=n, weights=kind)) for n, kind in ((8, "nf4"), (9, "nf4"), (9, "bf16")))
    assert (few, many, whole) == (28 * 102 + 37, 28 * (102 + 7) + 37, 28 * 106 + 37)
    assert plan("7b", "24gb", slices=7).seconds["sampling"] * 7 / 768 > few * 8e-6

@pytest.mark.parametrize("words, why", [(["--price", "10"], "price: of which card"), (["--gpu", "24GB", "--tflops", "-5"], "tflops is -5: give a number above 0"),
                                        (["--gpu", "24GB", "--price", "nan"], "price is nan"), (["--pixels", "100"], "pixels is 100; a visual token of qwen2_5_vl takes 784")])
def test_a_plan_that_cannot_be_meant_is_refused(capsys, words, why):
    from videop2r.tools.cli import main
    assert main(["plan", "--model", "3b", *words]) == 1 and why in capsys.readouterr().err
