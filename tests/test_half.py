"The tiny model in bfloat16, as on a card, beside float32: losses, gradients, and how far sampling and update are apart."
from dataclasses import replace
from pathlib import Path
import pytest, torch
from torch.nn.functional import cosine_similarity
from videop2r.cot import SHORT
from videop2r.data import read_jsonl
from videop2r.engine.learner import train_rl
from videop2r.engine.reading import to_prompts
from videop2r.engine.runs import Team
from videop2r.engine.tuner import Features, gradients
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora, load
from videop2r.recipe import RL
from videop2r.rollout import collect, read_reference
from videop2r.tokens import Coder
from videop2r.update import backward

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
RECORDS = read_jsonl(SAMPLES / "train.jsonl")[:4]
TRACE = "<observation>The red square moves to the left, the blue circle stays.</observation> <think>So it is left.</think> <answer>A</answer>"
CODER = Coder.load(SAMPLES / "teacher")

def policy(dtype):
    "The embedded teacher with an adapter in float32, as everywhere, over a base in this precision."
    made = Policy(add_lora(load(SAMPLES / "teacher", dtype=dtype), CODER.family, rank=8), CODER)
    torch.manual_seed(1)
    for name, weight in made.model.named_parameters():
        if "lora_" not in name: continue
        weight.data = weight.data.float()
        if "lora_B" in name: torch.nn.init.normal_(weight, std=.02)
    return made

@pytest.fixture(scope="module")
def both(): return {dtype: policy(dtype) for dtype in (torch.float32, torch.bfloat16)}

@pytest.fixture(scope="module")
def prompts(): return to_prompts(CODER, RECORDS, SAMPLES, SHORT, 4)[0]

def gradient(policy):
    found = torch.cat([p.grad.flatten().float() for p in policy.model.parameters() if p.requires_grad])
    policy.model.zero_grad(set_to_none=True)
    return found

def near(a, b, relative, cosine):
    assert (a - b).norm() / a.norm() < relative and cosine_similarity(a, b, 0) > cosine

@pytest.mark.parametrize("micro, checkpointing", [(None, False), (2, True)])
def test_sft_in_half_precision_learns_what_full_precision_learns(both, prompts, micro, checkpointing):
    share, found = list(enumerate(replace(each, response=CODER.ids(TRACE) + [CODER.eos]) for each in prompts)), {}
    for dtype, each in both.items():
        if checkpointing: each.base.gradient_checkpointing_enable(dict(use_reentrant=False)), each.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16): # as on a card
            sums, odd = gradients(each.model, CODER, Team(), share, 4 * len(share[0][1].response), Features(each.model, 0), micro)
        if checkpointing: each.base.gradient_checkpointing_disable(), each.model.eval()
        assert not odd
        found[dtype] = (sums[0] / sums[3]).item(), gradient(each)
    (loss, full), (half_loss, half) = found[torch.float32], found[torch.bfloat16]
    assert half_loss == pytest.approx(loss, rel=.01)
    near(full, half, .06, .998)

def updates(both, prompts, settings, draw):
    "Metrics and gradient of one update in each precision, on the same responses."
    seeds = [torch.Generator().manual_seed(100 * draw + i) for i in range(4)]
    with torch.no_grad(): features = {dtype: each.see([p.visual for p in prompts]) for dtype, each in both.items()}
    rollout = collect(both[torch.float32], RECORDS, prompts, features[torch.float32], ORACLE, settings.g, limit=settings.limit, recipe=settings.recipe, generator=seeds, reference="base")
    assert rollout.advantages.abs().sum() > 0
    return [(backward(each, prompts, features[dtype], rollout, settings), gradient(each)) for dtype, each in both.items()]

@pytest.mark.parametrize("rows, recompute", [(None, "nothing"), (1, "all"), (2, "prompt")])
def test_an_update_in_half_precision_goes_the_same_way(both, prompts, rows, recompute):
    "Three draws, and the middle one: a rare token's ratio may pass the clipping bound in half precision, and its share of the gradient is gone (in 1 of 16 draws: .30 of the length, cosine .96; half of them below .05)."
    settings, off = RL(prompts=4, g=4, limit=40, micro=2, rows=rows, recompute=recompute), []
    for draw in range(3):
        (told, full), (half_told, half) = updates(both, prompts, settings, draw)
        assert half_told["entropy"] == pytest.approx(told["entropy"], rel=.05) and abs(half_told["kl"] - told["kl"]) < .02
        off.append(((full - half).norm() / full.norm()).item())
        assert cosine_similarity(full, half, 0) > .8 and half_told["clip_share"] - told["clip_share"] < .01
    assert sorted(off)[1] < .12

def test_sampling_and_update_see_the_same_in_half_precision(both, prompts):
    "The sampler's adapters are in bfloat16, the update's in float32: below the alarm of a run."
    each = both[torch.bfloat16]
    with torch.no_grad(): features = each.see([p.visual for p in prompts])
    rollout = collect(each, RECORDS, prompts, features, ORACLE, 4, limit=40, generator=[torch.Generator().manual_seed(i) for i in range(4)], reference="policy")
    assert ((rollout.ref - rollout.old).abs() * rollout.mask).sum() / rollout.mask.sum() < .02
    metrics = backward(each, prompts, features, rollout, RL(prompts=4, g=4, limit=40))
    each.model.zero_grad(set_to_none=True)
    assert metrics["drift"] < .02 < RL().max_drift

def test_a_run_in_half_precision_takes_its_steps(prompts):
    each = policy(torch.bfloat16)
    with torch.no_grad(): features = each.see([p.visual for p in prompts])
    rows = train_rl(each, RECORDS, prompts, features, ORACLE, RL(steps=2, prompts=4, g=4, limit=40, reference="base", slices=2, rows=2, lr=1e-3), quiet=True)
    assert all("skipped" not in row and row["drift"] < .05 and row["grad_norm"] > 0 for row in rows)
