"""The plan's memory beside measured peaks: one step of each stage, in a child process, on a CPU, in float32.

A peak is the high-water mark of resident memory less what was resident before, in a process whose malloc gives freed tensors back at once; a step is run once before, so that
workspaces and gradients stand. The prediction is `videop2r plan`'s own sum for that stage less what stays, with the CPU's attention. The same counts stand beside the allocator's, at a
smaller size and in both types, in `tests/test_plan.py`.
Random weights, text in the place of video, no vision tower: its features are made beforehand.
"""
import argparse, json, os, sys
import torch
from common import machine, show
from eighth import LIMITS, _status, spawn
from types import SimpleNamespace
from videop2r.families import Shape, family_of
from videop2r.tools.plan import GB, Settings, held

SHAPE = dict(hidden=768, layers=12, heads=12, kv=4, inter=2048, vocab=32768, tied=True)
TEXT, PIXELS = 1024, 28 * 28
CASES = [("sft", dict(completion=384, micro=1, checkpointing=False)), ("sft", dict(completion=256, micro=2, checkpointing=False)), ("sft", dict(completion=256, micro=4, checkpointing=False)), ("sft", dict(completion=1024, micro=8)),
         ("update", dict(completion=384, group=8, rows=8, recompute="nothing")), ("update", dict(completion=384, group=8, rows=4, recompute="nothing")), ("update", dict(completion=640, group=8, rows=1, recompute="nothing")),
         ("update", dict(completion=384, group=8, rows=8, recompute="prompt")), ("update", dict(completion=1024, group=16, rows=16, recompute="all")), ("sampling", dict(completion=512, group=48)), ("reference", dict(completion=1024, group=32))]

FAMILY = family_of("qwen2.5-vl")

def shape(): return Shape(**SHAPE, v_hidden=32, v_layers=1, v_inter=64)

def settings(more): return Settings(frames=1, pixels=PIXELS, text=TEXT - 1, weights="fp32", compute="fp32", rank=8, merged=True, chunk=2**25, **more)

def model():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from videop2r.model import add_lora
    s = SHAPE
    text = dict(vocab_size=s["vocab"], hidden_size=s["hidden"], intermediate_size=s["inter"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], num_key_value_heads=s["kv"], bos_token_id=None, eos_token_id=2,
                pad_token_id=3, max_position_embeddings=32768, rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[8, 12, 12]), tie_word_embeddings=True)
    tower = dict(depth=1, hidden_size=32, num_heads=2, intermediate_size=64, out_hidden_size=s["hidden"], fullatt_block_indexes=[0])
    torch.manual_seed(0)
    m = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, image_token_id=0, video_token_id=1)).eval().requires_grad_(False)
    return add_lora(m, FAMILY, rank=8)

coder = SimpleNamespace(forbidden=lambda n: [0, 1], eos=2, pad=3, text=lambda ids: "", family=FAMILY)

def batch(rows, response=0):
    "A batch in which every row but the first ends with one token of padding."
    from videop2r.tokens import Batch
    ids = torch.randint(10, SHAPE["vocab"], (rows, TEXT + response))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1:, -1] = False
    return Batch(ids, mask, torch.zeros_like(ids), TEXT, torch.ones(rows, 2, response, dtype=torch.bool), [None] * rows, [""] * rows)

def sft(m, o):
    from videop2r.model import Policy
    b = batch(o.micro, o.completion)
    if o.checkpointing:
        m.gradient_checkpointing_enable(dict(use_reentrant=False))
        m.train()
    return lambda: (-Policy(m, coder).logprobs(b, [None] * o.micro).sum()).backward()

def update(m, o):
    from videop2r.losses import policy_loss
    from videop2r.model import Policy
    from videop2r.engine.shared import group_backward
    ids, prompts = torch.randint(10, SHAPE["vocab"], (o.group, o.completion)), batch(1)
    mask, adv = torch.ones_like(ids, dtype=torch.bool), torch.randn(o.group, 1).expand(ids.shape)
    old, w = torch.full(ids.shape, -10.), torch.full(ids.shape, 1 / o.completion)
    def loss(h, i, t):
        lp = Policy(m, coder).token_logprobs(h, ids[i, :t], mask[i, :t])[0]
        return policy_loss(lp, old[i, :t], old[i, :t], adv[i, :t], w[i, :t], denominator=o.group)[0]
    return lambda: group_backward(Policy(m, coder), prompts, ids, mask, o.group, loss, [None], o.rows, o.recompute)

def sampling(m, o):
    "Random words, drawn as `sample` draws them; a quarter of the rows end just before the limit, when moving the others costs most."
    from videop2r.engine.decoding import decode
    from videop2r.engine.shared import prefill
    from videop2r.model import Policy
    from videop2r.sampling import draw_token
    prompt, forbidden = batch(1), torch.tensor(coder.forbidden(0))
    def run():
        left = [o.completion - 1]
        def pick(z, rows, step):
            left[0] -= 1
            ids, lp = draw_token(z.index_fill(-1, forbidden, float("-inf")), 1., 1.)
            ids = torch.where(ids == coder.eos, 10, ids)
            if left[0] == 1: ids[:len(ids) // 4] = coder.eos
            return ids, lp
        with torch.no_grad(), Policy(m, coder).light(): decode(Policy(m, coder), prefill(Policy(m, coder), prompt, [None]), o.group, o.completion, pick)
    return run

def reference(m, o):
    from videop2r.model import Policy
    from videop2r.engine.shared import group_logprobs
    ids, prompt = torch.randint(10, SHAPE["vocab"], (o.group, o.completion)), batch(1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    def run():
        with torch.no_grad(), Policy(m, coder).light(): group_logprobs(Policy(m, coder), prompt, ids, mask, o.group, [None], o.rows)
    return run

def work(spec):
    "In a child: print what one step adds to resident memory, in GB."
    torch.set_num_threads(1)
    m, o = model(), settings(spec["more"])
    run = globals()[spec["stage"]](m, o)
    run() # the gradients stand from now on
    open("/proc/self/clear_refs", "w").write("5")
    start = _status("VmRSS")
    run()
    print(json.dumps(dict(peak=(_status("VmHWM") - start) * 2**20 / GB)))

def row(stage, more):
    parts = {}
    for t in held(stage, shape(), settings(more), FAMILY): parts[t.part] = parts.get(t.part, 0) + t.bytes / GB
    got, want = spawn(__file__, True, stage=stage, more=more)["peak"], sum(parts.values())
    return dict(stage=stage, **{k: more.get(k, "") for k in ("completion", "micro", "checkpointing", "group", "rows", "recompute")}, measured_gb=got, predicted_gb=want, predicted_over_measured=want / got, **{f"{k}_gb": parts.get(k, 0.) for k in ("cache", "prompt", "activations", "layer", "logits")})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", type=int, nargs="+", help="numbers of cases")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    show([row(*CASES[i]) for i in a.only or range(len(CASES))], a.json, machine("torch", "transformers", "peft"))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
