"""The prompt that is run once, against the stock forward pass on the padded batch, in which every response carries its own prompt and pixels."""
import random, warnings, weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from transformers import Qwen2_5_VLForConditionalGeneration
from videop2r.data import read_jsonl
from videop2r.engine import shared
from videop2r.families import family_of
from videop2r.judge import base_judge
from videop2r.losses import policy_loss
from videop2r.model import Policy, add_lora, load
from videop2r.engine.shared import OnCPU, group_backward, group_logprobs, merged, plain, prefill
from videop2r.rollout import read_reference
from videop2r.engine.decoding import decode
from videop2r.sampling import draw_token
from videop2r.tokens import Coder, collate, encode, train_tokenizer
from videop2r.video import Visual
from videop2r.world import Question, gold, wording

CODER = Coder(train_tokenizer([gold(q) + wording(q) + " ".join(q.options) for q in (Question.draw(random.Random(i)) for i in range(200))]), family_of("qwen2.5-vl"))
SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
RECORD = read_jsonl(SAMPLES / "train.jsonl")[0]
CLIP, WIDE, PICTURE, PLAIN = ("video", 4, 4, 4), ("video", 2, 8, 4), ("image", 1, 4, 8), None
QUESTIONS = ("How many?", "Who moves first, and which way?", "Which shape is it?", "One and one?")

@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    m = add_lora(Qwen2_5_VLForConditionalGeneration(CODER.tiny_config(layers=2)).eval().requires_grad_(False), CODER.family, rank=4, alpha=8)
    for n, p in m.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=.1)
    return m

def visual(kind, t, h, w): return Visual(torch.randn(t * h * w, 1176), (t, h, w), kind, .5 if kind == "video" else 0.)

def group(media, g, lengths):
    "Prompts, the padded batch, and the inputs of a loss."
    torch.manual_seed(1)
    prompts = [encode(CODER, q, m and visual(*m)) for q, m in zip(QUESTIONS, media)]
    said = lambda n: random.Random(n).choices(CODER.ids("the red square waits then moves left"), k=n - 1) + [CODER.eos] if n else []
    batch = collate(CODER, [replace(e, response=said(n)) for e, n in zip((e for e in prompts for _ in range(g)), lengths)])
    noise = lambda: torch.randn(batch.response.shape)
    old, mask = noise() * .1 - 5, batch.response_mask
    return collate(CODER, prompts), batch, (old, old + .1 * noise(), noise(), mask / mask.sum(1, keepdim=True).clamp(min=1))

def stock(model, batch):
    "Log-probabilities by the model's own forward pass."
    of = lambda kind: [v for v in batch.visuals if v is not None and v.kind == kind]
    pixels = lambda vs: dict(p=torch.cat([v.patches for v in vs]), g=torch.tensor([list(v.grid) for v in vs])) if vs else dict(p=None, g=None)
    still, moving = pixels(of("image")), pixels(of("video"))
    z = model(input_ids=batch.ids, attention_mask=batch.mask.long(), mm_token_type_ids=batch.kinds, pixel_values=still["p"], image_grid_thw=still["g"], pixel_values_videos=moving["p"],
              video_grid_thw=moving["g"], position_ids=Policy(model, CODER).positions(batch)).logits[:, batch.prompt - 1:-1]
    z = z.index_fill(-1, torch.tensor(CODER.forbidden(z.shape[-1])), float("-inf"))
    return z.log_softmax(-1).gather(-1, batch.response[..., None])[..., 0].masked_fill(~batch.response_mask, 0.)

def gradient(model, work):
    model.zero_grad()
    work()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

def loss_of(logp, fixed, rows, t, n): return policy_loss(logp, *(x[rows, :t] for x in fixed), denominator=n)[0]

def ours(model, prompts, batch, fixed, g, rows, recompute):
    ids, mask = batch.response, batch.response_mask
    policy = Policy(model, CODER)
    def loss(h, i, t): return loss_of(policy.token_logprobs(h, ids[i, :t], mask[i, :t])[0], fixed, i, t, len(ids))
    return gradient(model, lambda: group_backward(policy, prompts, ids, mask, g, loss, rows=rows, recompute=recompute))

CASES = {"one video": ((CLIP,), 5, [9, 1, 4, 12, 7]), "one response": ((WIDE,), 1, [6]), "an image": ((PICTURE,), 3, [3, 11, 5]), "text": ((PLAIN,), 2, [4, 8]),
         "two videos of other sizes": ((CLIP, WIDE), 4, [9, 1, 5, 12, 2, 2, 13, 3]), "videos, an image and text": ((CLIP, WIDE, PICTURE, PLAIN), 3, [9, 1, 5, 12, 12, 12, 2, 7, 3, 1, 1, 4]),
         "an empty response": ((CLIP, PICTURE), 2, [5, 0, 3, 7])}

@pytest.mark.parametrize("name", CASES)
def test_equals_the_stock_forward_on_the_padded_batch(model, name):
    media, g, lengths = CASES[name]
    prompts, batch, fixed = group(media, g, lengths)
    logp, n, whole = stock(model, batch), len(lengths), batch.response.shape[1]
    want = gradient(model, lambda: loss_of(stock(model, batch), fixed, slice(None), whole, n).backward())
    for rows in (None, 1, 2, 3): # 2 and 3 leave a smaller last turn
        with torch.no_grad(): got = group_logprobs(Policy(model, CODER), prompts, batch.response, batch.response_mask, g, rows=rows)
        assert (got - logp).abs().max() < 1e-5
        for recompute in ("nothing", "prompt", "all"):
            got = ours(model, prompts, batch, fixed, g, rows, recompute)
            assert (got - want).norm() / want.norm() < 1e-4, (rows, recompute)

class Mathematics:
    "A kernel as the merge wants it, written out: what a card's own kernels must give."
    @staticmethod
    def scores(q, k, bias, causal, scale):
        found = q @ k.mT * scale + (0 if bias is None else bias)
        return found.masked_fill(~torch.ones(found.shape[-2:], dtype=torch.bool, device=q.device).tril(), -torch.inf) if causal else found

    @classmethod
    def forward(cls, q, k, v, bias, causal, scale):
        found = cls.scores(q, k, bias, causal, scale)
        log = found.logsumexp(-1)
        return (found - log[..., None]).exp() @ v, log, "kept"

    @classmethod
    def backward(cls, grad, q, k, v, out, log, bias, causal, scale, more):
        assert more == "kept"
        p = (cls.scores(q, k, bias, causal, scale) - log[..., None]).exp()
        slope = p * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
        return slope @ k, slope.mT @ q, p.mT @ grad

@pytest.mark.parametrize("kernel", (Mathematics, OnCPU))
@pytest.mark.parametrize("p, m, t, n, padded", [(1, 1, 5, 9, 0), (1, 4, 7, 20, 0), (3, 2, 4, 11, 6), (2, 3, 1, 8, 2), (1, 8, 33, 17, 0)])
def test_any_kernel_merges_to_attention_under_a_mask(kernel, p, m, t, n, padded):
    torch.manual_seed(0)
    q, (k, v), (pk, pv) = torch.randn(p * m, 6, t, 8).double(), torch.randn(2, p * m, 2, t, 8).double(), torch.randn(2, p, 2, n, 8).double()
    bias = torch.zeros(p, 1, 1, n).double().index_fill(3, torch.arange(padded), -torch.inf) if padded else None
    inputs, found = [x.requires_grad_() for x in (q, k, v, pk, pv)], []
    for attend in (plain, merged(kernel)):
        out = attend(*inputs, bias, .3)
        found.append([out, *torch.autograd.grad(out, inputs, torch.ones_like(out) * out.detach())])
    for a, b in zip(*found): assert (a - b).abs().max() < 1e-11

@pytest.mark.parametrize("attend", (plain, merged(Mathematics)), ids=("plain", "mathematics"))
def test_other_attention_gives_the_same(model, monkeypatch, attend):
    prompts, batch, fixed = group((CLIP, PICTURE), 3, [9, 1, 5, 12, 4, 2])
    monkeypatch.setitem(shared.ATTEND, "cpu", attend)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"): got = group_logprobs(Policy(model, CODER), prompts, batch.response, batch.response_mask, 3)
    with torch.no_grad(): assert (got - stock(model, batch)).abs().max() < 1e-5
    want = gradient(model, lambda: loss_of(stock(model, batch), fixed, slice(None), batch.response.shape[1], 6).backward())
    assert (ours(model, prompts, batch, fixed, 3, 2, "nothing") - want).norm() / want.norm() < 1e-4

def test_an_unknown_dial_is_named(model):
    prompts, batch, _ = group((PLAIN,), 1, [3])
    with pytest.raises(ValueError, match="unknown recompute 'some'; known: nothing, prompt, all"):
        group_backward(Policy(model, CODER), prompts, batch.response, batch.response_mask, 1, None, recompute="some")


def luck(seed): return torch.Generator().manual_seed(seed)

@pytest.mark.parametrize("temperature", (0, .7, 1.))
def test_the_fast_way_says_what_the_plain_way_says(model, temperature):
    torch.manual_seed(1)
    examples = [encode(CODER, q, m and visual(*m)) for q, m in zip(QUESTIONS, (CLIP, WIDE, PICTURE, PLAIN))]
    policy = Policy(model, CODER)
    fast = policy.sample(examples, 3, 14, temperature, generator=[luck(i) for i in range(4)])
    for i, e in enumerate(examples):
        rows, logprobs = policy.sample_plainly(e, 3, 14, temperature, luck(i))
        kept = fast.ids[3 * i:3 * i + 3, :len(rows[0])]
        assert kept.tolist() == [row[:kept.shape[1]] for row in rows]
        assert (fast.logprobs[3 * i:3 * i + 3, :kept.shape[1]] - logprobs[:, :kept.shape[1]]).abs().max() < 1e-5

def test_a_prompts_responses_do_not_depend_on_what_is_sampled_beside_it(model):
    torch.manual_seed(1)
    examples = [encode(CODER, q, m and visual(*m)) for q, m in zip(QUESTIONS, (CLIP, WIDE, PICTURE, PLAIN))]
    policy = Policy(model, CODER)
    whole = policy.sample(examples, 4, 20, generator=[luck(i) for i in range(4)]).rows()
    for width in (1, 2, 3):
        parts = [policy.sample(examples[i:i + width], 4, 20, generator=[luck(j) for j in range(i, min(4, i + width))]).rows() for i in range(0, 4, width)]
        assert sum(parts, []) == whole
    with pytest.raises(ValueError, match="2 generators for 4 prompts"): policy.sample(examples, generator=[luck(0), luck(1)])

# ---- one model, many callers

def test_judges_in_many_threads_say_what_one_says():
    "Attention of our own is chosen by the call, not by a setting that all calls share."
    policy = Policy.load(SAMPLES / "base")
    judge, texts = base_judge(policy), [f"The {colour} thing moves {way}." for colour in ("red", "blue", "green", "grey") for way in ("left", "right", "up", "down")]
    batch = collate(policy.coder, [replace(encode(policy.coder, "What moves?"), response=policy.coder.ids("Yes"))])
    with torch.no_grad(): plainly = policy.logprobs(batch)
    want = [judge(RECORD, text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for got in [list(pool.map(lambda text: judge(RECORD, text), texts)) for _ in range(3)]:
            assert [v.yes for v in got] == [v.yes for v in want] and [float(v.reason.split()[2]) for v in got] == pytest.approx([float(v.reason.split()[2]) for v in want], abs=.02)
    with torch.no_grad(): assert torch.equal(policy.logprobs(batch), plainly)

def test_the_reference_is_read_by_prompt_and_by_rows(monkeypatch):
    "What stands in memory at once is what `micro` and `rows` say, and the numbers are the same."
    policy = Policy.load(SAMPLES / "base")
    prompts = [encode(policy.coder, f"What moves {way}?") for way in ("left", "right", "up")]
    found = policy.sample(prompts, 4, limit=9, generator=[luck(i) for i in range(3)])
    rollout, seen = SimpleNamespace(ids=found.ids, mask=found.mask, g=4), []
    real = shared.Shared.states
    def states(held, policy, ids, recompute=False):
        seen.append((len(held.start), len(ids)))
        return real(held, policy, ids, recompute)
    monkeypatch.setattr(shared.Shared, "states", states)
    with torch.no_grad(): whole, parts = (read_reference(policy, prompts, [None] * 3, rollout, "base", 1., *how) for how in ((), (1, 2)))
    assert seen == [(3, 12)] + [(1, 2)] * 6 and (whole - parts).abs().max() < 1e-5

# ---- one token after the other, as a card does it

@pytest.mark.parametrize("look", (3, 16))
@pytest.mark.parametrize("g, limit", [(1, 5), (4, 40), (3, 70)])
def test_places_by_the_block_and_looking_now_and_then_give_the_same(look, g, limit):
    policy = Policy.load(SAMPLES / "teacher")
    prompts = [encode(policy.coder, text) for text in ("What moves?", "Where is the red square at the end, and which way did it go?")]
    forbidden = policy.coder.forbidden(policy.head.out_features)
    ban, free = torch.tensor(forbidden), torch.tensor(sorted({*range(policy.head.out_features)} - {*forbidden, policy.coder.eos}))
    told = free[torch.randint(len(free), (2 * g, limit), generator=luck(0))]
    told[1::2, limit // 2] = policy.coder.eos
    def drawn(look):
        def pick(z, rows, step): # tokens that are told: a draw at the edge of two would turn with the last digit
            ids = told[rows, step]
            return ids, z.index_fill(-1, ban, -torch.inf).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        with torch.no_grad(): return decode(policy, prefill(policy, collate(policy.coder, prompts), [None] * 2), g, limit, pick, look)
    (want, given), (got, same) = drawn(1), drawn(look)
    assert torch.equal(want, got) and (given - same).abs().max() < 1e-4
    assert g == 1 or (want == policy.coder.eos).any() # rows ended, and others went on

def test_light_adapters_are_the_base_s_precision_and_full_again_afterwards():
    policy = Policy(add_lora(load(SAMPLES / "base", dtype=torch.bfloat16), CODER.family, rank=2), Coder.load(SAMPLES / "base"))
    lora = {n: p for n, p in policy.model.named_parameters() if "lora_" in n}
    for p in lora.values(): p.data = torch.randn_like(p, dtype=torch.float32)
    before = {n: p.detach().clone() for n, p in lora.items()}
    with pytest.raises(KeyError), policy.light():
        assert {p.dtype for p in lora.values()} == {torch.bfloat16}
        raise KeyError
    assert all(torch.equal(p, before[n]) and p.dtype == torch.float32 for n, p in lora.items())

def test_nothing_of_the_layers_is_held_while_logits_are_made(model, monkeypatch):
    "The reference's pass: keys and values of the prompt, and the states by turns, are gone by then."
    prompts, batch, _ = group([CLIP, PLAIN], 3, [4, 7, 2, 5, 3, 6])
    held, found = [], []
    def noted(*args):
        held.append(made := prefill(*args))
        return made
    def look(self, states, *args, **kw):
        refs = [weakref.ref(each) for each in held]
        held.clear()
        found.extend(ref() for ref in refs)
        return logprobs(self, states, *args, **kw)
    logprobs = Policy.token_logprobs
    monkeypatch.setattr(shared, "prefill", noted)
    monkeypatch.setattr(Policy, "token_logprobs", look)
    with torch.no_grad(): group_logprobs(Policy(model, CODER), prompts, batch.response, batch.response_mask, 3, rows=2)
    assert found == [None]
