"""The plan: every setting moves it, a card that is too small is said before anything is loaded, and the command is one for scripts."""
import json, subprocess, sys
import pytest
from videop2r.families import SHAPES, lora_parameters, parameters
from videop2r.plan import GPUS, STAGES, Settings, gpu_of, plan, plan_svg, tightened

@pytest.mark.parametrize("change,stage", [(dict(frames=32), "update"), (dict(pixels=256 * 784), "sft"), (dict(completion=1536), "update"), (dict(micro=8), "sft"), (dict(rank=64), "sampling"),
    (dict(weights="bf16"), "reference"), (dict(checkpointing=False), "sft"), (dict(recompute="nothing"), "update"), (dict(group=16), "sampling"), (dict(rows=8), "update"), (dict(compute="fp32"), "sft")])
def test_every_setting_moves_its_stage(change, stage):
    base = dict(rows=4)
    assert plan("7b", **{**base, **change}).peaks[stage] > plan("7b", **base).peaks[stage]

def test_a_plan_that_does_not_fit_says_what_to_turn():
    small = plan("7b", "8GB")
    assert small.fits is False and "One knob alone" in str(small) and "smaller model" in str(small) and tightened(small) is None
    tight = plan("7b", "16GB", frames=32, micro=4, recompute="nothing")
    assert tight.fits is False and tightened(tight).fits and "It fits with" in str(tight)
    assert plan("7b", "80GB").fits and plan("7b").fits is None
    for wrong in (dict(frames=0), dict(group=1), dict(weights="int3"), dict(recompute="some")):
        with pytest.raises(ValueError): Settings(**wrong)

@pytest.mark.parametrize("size", SHAPES)
def test_every_size_has_a_plan(size):
    for name, gpu in GPUS.items():
        p = plan(size, name)
        assert set(p.stages) == set(STAGES) and all(v > 0 for v in p.hours.values()) and gpu_of(name) == gpu
        assert p.stages["sft"]["weights"] * 1e9 > sum(parameters(SHAPES[size]).values()) * .5 and plan_svg(p).count("<rect") == 7 * 5

def test_weights_are_those_of_the_class():
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
    text = dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, vocab_size=151936)
    with torch.device("meta"): model = AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(text_config=text, vision_config=dict(hidden_size=1280, intermediate_size=3420, out_hidden_size=2048), tie_word_embeddings=True))
    model.tie_weights()
    assert abs(sum(p.numel() for p in model.parameters()) / sum(parameters(SHAPES["3b"]).values()) - 1) < .002
    assert lora_parameters(SHAPES["3b"], 16) == 36 * 16 * sum(a + b for a, b in SHAPES["3b"].linears)

def run(*args): return subprocess.run([sys.executable, "-m", "videop2r.cli", "plan", *args], capture_output=True, text=True)

def test_the_command_answers_scripts():
    done = run("--model", "7b", "--gpu", "24GB", "--frames", "16", "--group", "8")
    assert done.returncode == 0 and "Fits" in done.stdout and "the paper's RL" in done.stdout
    done = run("--model", "7b", "--gpu", "8GB", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 2 and found["fits"] is False and found["knobs"] and found["gigabytes"]["update"]["activations"] > 0
    assert json.loads(run("--gpu", "rtx4090", "--price", "1", "--json").stdout)["dollars"]["rl"] == json.loads(run("--gpu", "rtx4090", "--json").stdout)["hours"]["rl"]
    done = run("--gpu", "huge")
    assert done.returncode == 1 and "24GB" in done.stderr and "Traceback" not in done.stderr
