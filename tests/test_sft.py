"""Fine-tuning that is killed, split, spread over processes, or fed what it cannot use."""
import json, os, random, signal, subprocess, sys, warnings
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from videop2r.model import load
from videop2r.sft import SFT, Diverged, train_sft
from videop2r.tokens import collate
sys.path.insert(0, str(Path(__file__).parent))
from sft_child import SAMPLES, SETTINGS, data, model_of, weights

CHILD = [sys.executable, str(Path(__file__).parent / "sft_child.py")]

@pytest.fixture(scope="module")
def media(tmp_path_factory): return tmp_path_factory.mktemp("media")

@pytest.fixture(scope="module")
def world(media): return data(media)

@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    "The run that nothing interrupts: its folder, rows and weights."
    coder, examples = world
    model, out = model_of(coder), tmp_path_factory.mktemp("whole")
    rows = train_sft(model, coder, examples[:10], SETTINGS, out, examples[10:], quiet=True)
    return out, rows, weights(model)

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def timeless(rows): return [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second", "memory_gb")} for r in rows]
def lines(path): return [json.loads(l) for l in Path(path).read_text().splitlines()]

def child(*args, **kw): return subprocess.Popen([*CHILD, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **kw})

def sleeping(out, media, at):
    "A child that has fallen asleep after a step."
    p = child(out, media, "--sleep-at", at)
    said = []
    for line in p.stdout:
        if "asleep" in line: return p
        said.append(line)
    pytest.fail("".join(said))

@pytest.mark.parametrize("at", [4, 6])
def test_a_killed_run_ends_in_the_same_weights_bit_for_bit(world, whole, media, tmp_path, at):
    p = sleeping(tmp_path / "run", media, at)
    p.kill()
    p.wait()
    assert p.returncode == -signal.SIGKILL and len(lines(tmp_path / "run/metrics.jsonl")) == at + 1
    coder, examples = world
    model = model_of(coder)
    rows = train_sft(model, coder, examples[:10], SETTINGS, tmp_path / "run", examples[10:], resume=True, quiet=True)
    assert same(weights(model), whole[2]) and timeless(rows) == timeless(whole[1])
    assert timeless(lines(tmp_path / "run/metrics.jsonl")) == timeless(rows)
    for name in ("last", "best"): assert (tmp_path / "run" / name / "adapter_model.safetensors").read_bytes() == (whole[0] / name / "adapter_model.safetensors").read_bytes()
