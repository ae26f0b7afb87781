"Everything that computes, on a device that refuses to mix with the host's tensors as CUDA does."
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from test_shared import Mathematics
from second_device import DEVICE, There, card, moved
from videop2r.cot import SHORT
from videop2r.data import read_jsonl
from videop2r.engine.decode import read_clip
from videop2r.engine.reading import to_prompts
from videop2r.engine.runs import Team
from videop2r.engine.tuner import Tuner
from videop2r.evaluate import evaluate
from videop2r.judge import ORACLE, base_judge, panel
from videop2r.loop import train
from videop2r.engine.learner import Loaded, train_rl
from videop2r.model import Policy, add_lora
from videop2r.recipe import RL, Recipe
from videop2r import sft
from videop2r.engine import shared
from videop2r.sft import SFT
from videop2r.tokens import Batch
from videop2r.tools.keyframes import ByQuestion
from videop2r.tools.pipeline import LocalTeacher
from storm import some

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
RECORDS = read_jsonl(SAMPLES / "train.jsonl")[:4]
TRACE = "<observation>A thing moves to the left.</observation> <think>So.</think> <answer>A</answer>"

@pytest.fixture(scope="module")
def asked():
    coder = Policy.load(SAMPLES / "base").coder
    return to_prompts(coder, RECORDS, SAMPLES, SHORT, 4)[0]

@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    "accelerate finds no such device; a process alone needs nothing of it but the name of its own."
    real = Team.__init__
    def begin(self, device="cpu", *args, **kw):
        real(self, device, *args, **kw)
        self.device = torch.device(device)
    monkeypatch.setattr(Team, "__init__", begin)

def learner(name="base"):
    policy = Policy.load(SAMPLES / name)
    return Policy(add_lora(policy.model, policy.family, rank=4), policy.coder)

def numbers(policy): return [p.raw.clone() for p in policy.model.parameters() if p.requires_grad]

def differ(a, b): return max((x - y).abs().max().item() for x, y in zip(a, b))

# ---- the harness itself

def test_the_device_refuses_to_mix_and_counts_what_waits():
    with card() as device:
        x, y = torch.ones(3).to(DEVICE), torch.ones(3)
        with pytest.raises(RuntimeError, match="at least two devices, card:0 and cpu"): x + y
        with pytest.raises(RuntimeError, match="at least two devices"): torch.nn.functional.embedding(torch.tensor([0, 1]), torch.ones(2, 2).to(DEVICE))
        assert (x * 2. + torch.tensor(1.)).cpu().tolist() == [3.] * 3 # a number may come from the host
        assert sum(device.waits.values()) == 1 and sum(device.kernels.values()) == 5
        x[x > 0], x.sum().item(), bool((x > 0).all()), x.nonzero(), x.tolist()
        assert sum(device.waits.values()) == 6
        x.add_(1), x.view(1, 3), torch.where(x > 0, x, 0.)
        assert sum(device.waits.values()) == 6

def test_gradients_on_the_device_are_those_of_the_host():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    layer(x).square().sum().backward()
    want = layer.weight.grad.clone()
    layer.zero_grad()
    with card():
        moved(layer)(x.to(DEVICE)).square().sum().backward()
        assert torch.allclose(layer.weight.grad.raw, want)

# ---- the model, and all that asks it

def test_sampling_on_the_device_writes_what_the_host_writes(asked):
    policy = Policy.load(SAMPLES / "teacher")
    how = dict(g=2, limit=40, temperature=0)
    want = policy.sample(asked, **how)
    luck = lambda: [torch.Generator().manual_seed(i) for i in range(len(asked))]
    drawn = policy.sample(asked, 2, 20, generator=luck(), top_p=.9)
    with card():
        moved(policy.model)
        assert policy.sample(asked, **how).texts == want.texts
        assert policy.sample(asked, 2, 20, generator=luck(), top_p=.9).texts == drawn.texts

@pytest.mark.parametrize("how", ["likelihood", "written"])
def test_a_base_judge_gives_its_verdict(how):
    policy = learner()
    want = base_judge(policy, how, limit=6)(RECORDS[0], "The red square moves left.")
    with card():
        moved(policy.model)
        got = base_judge(policy, how, limit=6)(RECORDS[0], "The red square moves left.")
    assert (got.yes, got.reason) == (want.yes, want.reason) and "Error" not in got.reason

def test_keyframes_by_the_question():
    policy = Policy.load(SAMPLES / "base")
    clip = read_clip(SAMPLES / RECORDS[0].path, 8)
    want = ByQuestion(policy, window=2).relevance(clip, "What moves?")
    with card():
        moved(policy.model)
        assert torch.allclose(ByQuestion(policy, window=2).relevance(clip, "What moves?").cpu(), want, atol=1e-5)
        chosen = read_clip(SAMPLES / RECORDS[0].path, 4, ByQuestion(policy, SHORT, 2), record=RECORDS[0])
    assert chosen.frames.shape[0] == 4

def test_evaluation_and_a_teacher(asked):
    policy = Policy.load(SAMPLES / "teacher")
    want = evaluate(policy, RECORDS, asked, ORACLE, limit=40)
    with card():
        moved(policy.model)
        assert evaluate(policy, RECORDS, asked, ORACLE, limit=40) == want
        replies = list(LocalTeacher(policy, "tiny", 4, limit=80)(RECORDS, SAMPLES, SHORT, lambda record, reply: None))
    assert [record for record, _ in replies] == RECORDS and all(reply.text for _, reply in replies)

# ---- training

def both(work):
    "What `work(policy)` gives on the host and on the device, with the trained weights of each."
    host = learner()
    found = work(host), [p.detach().clone() for p in host.model.parameters() if p.requires_grad]
    there = learner()
    with card() as device:
        moved(there.model)
        return found, (work(there), numbers(there)), device

@pytest.mark.parametrize("settings", [dict(), dict(micro=1, checkpointing=True)], ids=str)
def test_sft_on_the_device_is_sft_on_the_host(asked, settings):
    def work(policy):
        examples = [replace(each, response=policy.coder.ids(TRACE)) for each in asked]
        run = Tuner(policy.model, policy.coder, examples, SFT(steps=2, batch=4, lr=1e-3, validate_every=1, **settings), validation=examples[:2])
        run.run(quiet=True)
        return [(row["loss"], row["val_loss"], row["grad_norm"]) for row in run.rows]
    (want, weights), (got, there), _ = both(work)
    assert got == [pytest.approx(row, rel=1e-4) for row in want] and differ(weights, there) < 1e-4

VARIANTS = {
    "plain": dict(), "sliced, by rows": dict(prompts=2, slices=1, rows=1, micro=1), "all again": dict(recompute="all", rows=2),
    "no reference": dict(beta=0., top_p=.9), "refill": dict(refill=2), "GRPO": dict(recipe=Recipe(credit="grpo")),
    "T-GRPO": dict(recipe=Recipe(shuffled=2)), "no tags": dict(recipe=Recipe(tags=False)), "DAPO": dict(recipe=Recipe(weights="batch", overlong="mask"))}

@pytest.mark.parametrize("name", some(VARIANTS, ("plain",)))
def test_rl_on_the_device_is_rl_on_the_host(asked, name):
    settings = RL(**{**dict(steps=2, prompts=3, g=2, limit=16, reference="base", lr=1e-3), **VARIANTS[name]})
    def work(policy):
        with torch.no_grad(): features = policy.see([each.visual for each in asked])
        return [{k: v for k, v in row.items() if not k.startswith(("seconds", "memory"))} for row in train_rl(policy, RECORDS, asked, features, ORACLE, settings, quiet=True)]
    (want, weights), (got, there), _ = both(work)
    for a, b in [*zip(got, want)][:1]: # after Adam's first step a gradient of nothing goes either way
        off = {k: (v, b[k]) for k, v in a.items() if (v != pytest.approx(b[k], rel=1e-3, abs=1e-5) if isinstance(v, float) else v != b[k])}
        assert a.keys() == b.keys() and not off
    assert len(got) == len(want) == 2 and differ(weights, there) < 5e-3

def test_a_card_s_kernels_merge_as_the_host_s_do(asked, monkeypatch):
    "The way that flash attention takes on a card, with a kernel of plain mathematics in its place."
    monkeypatch.setitem(shared.ATTEND, DEVICE.type, shared.merged(Mathematics))
    test_rl_on_the_device_is_rl_on_the_host(asked, "all again")

def test_the_lesson_s_sft_on_the_device(asked):
    def work(policy):
        examples = [replace(each, response=policy.coder.ids(TRACE)) for each in asked]
        return sft.fine_tune(policy.model, policy.coder, examples, SFT(steps=2, batch=4))[-1]["loss"]
    (want, _), (got, _), _ = both(work)
    assert got == pytest.approx(want, rel=1e-5)

def test_the_lesson_s_loop_on_the_device(asked):
    settings = RL(steps=1, prompts=2, g=2, limit=12, reference="base")
    def work(policy):
        with torch.no_grad(): features = policy.see([each.visual for each in asked])
        return train(policy, RECORDS, asked, features, base_judge(policy), settings)[0]["loss"]
    (want, _), (got, _), _ = both(work)
    assert got == pytest.approx(want, abs=1e-5)

# ---- how often the host waits

def test_decoding_waits_for_the_device_once_in_sixteen_tokens(asked):
    policy = Policy.load(SAMPLES / "teacher")
    def waits(limit):
        with card(watch=True) as device:
            ids = policy.sample(asked, 2, limit, temperature=1., generator=[torch.Generator().manual_seed(i) for i in range(4)]).ids
            return sum(device.waits.values()), device, ids.shape[1]
    with card(): moved(policy.model)
    (short, _, few), (long, device, many) = waits(8), waits(40)
    assert few == 8 and many >= 32 and long - short <= 40 // 16 + 1
    assert device.waits["decoding.decode"] <= 40 // 16 and device.waits["sampling.pick"] == device.waits["decoding.standing"] == 0

# ---- the harness finds what it was made for

def test_without_its_mend_a_batch_on_the_host_is_found(monkeypatch):
    "The review's first two findings: a judge that never gives a verdict, and key frames that stop."
    policy, clip = learner(), read_clip(SAMPLES / RECORDS[0].path, 8)
    with card():
        moved(policy.model)
        monkeypatch.setattr(Batch, "to", lambda self, device: self)
        verdict = base_judge(policy)(RECORDS[0], "The red square moves left.")
        assert verdict.yes is None and "at least two devices" in verdict.reason
        with pytest.raises(RuntimeError, match="at least two devices"): ByQuestion(policy, window=2).relevance(clip, "What moves?")
