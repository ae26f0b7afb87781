"""A whole step of a group of eight: ours against `GRPOTrainer.train`, from sampling to the optimizer's step.

Same weights and prompt (`eighth.py`), a trivial reward, LoRA, reference a frozen copy of the adapter, AdamW; the end token and the media's placeholders banned, so that both train on eight responses of `--tokens` tokens; processes of their own,
one thread, the processor's seconds.
Nothing in TRL is overridden. It takes images only, so the clip goes to both as an image of 8 × 16 × 32 patches (the tower's work is that of the video); and the processor, which needs
torchvision, is a tokenizer that answers `apply_chat_template` and calls with the prompt's ids and pixels. Its micro-batch is 1, fastest in `update.py`; sampling takes all eight. Its clock: the calls of
`_generate_single_turn` and, under no gradient, of `_get_per_token_logps_and_entropies`; the rest of `train` is the update. The bound is its step over the sum of its parts, each divided by its own bound:
for sampling as in `rollout.py`, for the reference and the update the ratio of multiply-adds.
"""
import argparse, json, sys, time
from dataclasses import replace
from types import SimpleNamespace
import torch
from common import machine, show
from eighth import EOS, IMAGE, LARGE, PAD, SMALL, VIDEO, clocked, coder, inputs, model, padded_cost, shared_cost, spawn
from rollout import stock
from update import BETA
from videop2r.losses import policy_loss
from videop2r.model import Policy
import videop2r.sampling # gives a Policy its `sample`
from videop2r.engine.shared import group_backward, group_logprobs
from videop2r.tokens import Batch, Example
from videop2r.video import Visual

CASES, G, LR = {"small": SMALL, "large": LARGE}, 8, 1e-5
BANNED = [IMAGE, VIDEO, EOS] # a sampled placeholder would ask for pixels
endless = SimpleNamespace(**{**vars(coder), "forbidden": lambda n: BANNED})

def still(case):
    "The case's prompt with its clip as an image."
    b = inputs(case)[0]
    ids, v = b.ids.masked_fill(b.kinds == 2, IMAGE), b.visuals[0]
    return Batch(ids, b.mask, (ids == IMAGE).long(), b.prompt, b.masks, [Visual(v.patches, v.grid, "image", 0.)], b.names)

def reward(completions, **kw): return [float(i % 3) for i in range(len(completions))]

def spent(parts, name, f):
    "The function, its seconds added to a part's."
    def run(*args, **kw):
        begin = time.process_time()
        out = f(*args, **kw)
        label = name(torch.is_grad_enabled())
        parts[label] = parts.get(label, 0.) + time.process_time() - begin
        return out
    return run

def processor(prompt):
    "A tokenizer that answers as a processor of images would, for one prompt."
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    v, ids = prompt.visuals[0], prompt.ids[0].tolist()
    def fields(n): return dict(pixel_values=v.patches.repeat(n, 1), image_grid_thw=torch.tensor([list(v.grid)] * n))
    class Answers(PreTrainedTokenizerFast):
        def apply_chat_template(self, conversation, tokenize=False, **kw):
            n = len(conversation)
            return dict(input_ids=[ids] * n, attention_mask=[[1] * len(ids)] * n, mm_token_type_ids=prompt.kinds.repeat(n, 1).tolist(), **fields(n)) if tokenize else "a clip"
        def __call__(self, images=None, text=None, **kw):
            if images is None: return super().__call__(text, **kw)
            return dict(mm_token_type_ids=prompt.kinds.repeat(len(text), 1), **fields(len(text)))
    return Answers(tokenizer_object=Tokenizer(models.WordLevel({"pad": PAD, "eos": EOS}, "pad")), pad_token="pad", eos_token="eos")

def peer(m, case, tokens, parts):
    "`train` for one step."
    import trl.trainer.utils as utils
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    utils._use_triton = lambda device: True # score response tokens only, as on a GPU
    args = GRPOConfig("runs/benchmark", per_device_train_batch_size=1, gradient_accumulation_steps=G, num_generations=G, max_completion_length=tokens, generation_kwargs=dict(suppress_tokens=BANNED), top_k=0, max_steps=1,
                      beta=BETA, loss_type="grpo", learning_rate=LR, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no", gradient_checkpointing=False, use_bias_correction_kl=False)
    row = dict(prompt=[dict(role="user", content="?")], image="a clip")
    t = GRPOTrainer(model=m, reward_funcs=reward, args=args, train_dataset=Dataset.from_list([row] * 8), processing_class=processor(still(case)))
    t._generate_single_turn = spent(parts, lambda grad: "sampling", t._generate_single_turn)
    t._get_per_token_logps_and_entropies = spent(parts, lambda grad: "scoring" if grad else "reference", t._get_per_token_logps_and_entropies)
    return t.train

class Ours:
    "The same step: the vision tower once, the prompt once in each of the three parts that follow."
    def __init__(self, m, case, tokens, parts, rows, recompute):
        self.m, self.prompt, self.tokens, self.dials = m, still(case), tokens, (rows, recompute)
        self.params = [p for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=LR, weight_decay=0.)
        m.add_adapter("ref", m.peft_config["default"])
        for n, p in m.named_parameters():
            if ".default." in n: m.get_parameter(n.replace(".default.", ".ref.")).data.copy_(p.data)
        for part in ("vision", "sampling", "reference", "update"): setattr(self, part, spent(parts, lambda grad, part=part: part, getattr(self, part)))

    @torch.no_grad()
    def vision(self): return Policy(self.m, endless).see(self.prompt.visuals)

    def sampling(self, features):
        return Policy(self.m, endless).sample([Example(self.prompt.ids[0].tolist(), visual=self.prompt.visuals[0])], G, self.tokens, features=features)

    @torch.no_grad()
    def reference(self, s, features):
        with Policy(self.m, endless).using("ref") as policy: return group_logprobs(policy, self.prompt, s.ids, s.mask, G, features)

    def update(self, s, ref, features):
        a = torch.tensor(reward(s.texts))
        adv, weights = ((a - a.mean()) / (a.std() + 1e-4))[:, None].expand(s.mask.shape), s.mask / s.mask.sum(1, keepdim=True)
        def loss(h, i, t):
            logp, _ = Policy(self.m, endless).token_logprobs(h, s.ids[i, :t], s.mask[i, :t])
            return policy_loss(logp, s.logprobs[i, :t], ref[i, :t], adv[i, :t], weights[i, :t], beta=BETA, denominator=G)[0]
        group_backward(Policy(self.m, endless), self.prompt, s.ids, s.mask, G, loss, features, *self.dials)
        torch.nn.utils.clip_grad_norm_(self.params, 1.)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self):
        features = self.vision()
        s = self.sampling(features)
        self.update(s, self.reference(s, features), features)

def work(spec):
    m, case, parts = model(), CASES[spec["case"]], {}
    if spec["who"] == "first": return clocked(stock(m, inputs(case)[0], spec["g"], 1), spec)
    clocked((peer if spec["who"] == "trl" else Ours)(m, case, spec["tokens"], parts, *spec["dials"]), spec, parts)

WAYS = {"TRL": ("trl", ()), "ours": ("ours", (1, "nothing")), "ours, prompt run again": ("ours", (1, "prompt"))}

def measured(a, case, who, dials=(), memory=False, g=G):
    out = spawn(__file__, memory, case=case, who=who, dials=dials, g=g, tokens=a.tokens, threads=1, repeat=1)
    if a.verbose: print(case, who, dials, out, file=sys.stderr, flush=True)
    return out

def bounds(a, case, trl):
    "What each part of TRL's step would gain at most."
    first, c = {g: measured(a, case, "first", g=g)["seconds"] for g in (1, G)}, replace(CASES[case], lengths=(a.tokens,) * G)
    ratio = lambda passes: padded_cost(c, passes) / shared_cost(c, passes)
    return dict(sampling=trl["sampling"] / (first[1] + trl["sampling"] - first[G]), reference=ratio("forward"), update=ratio("all"))

def rows(a, case):
    took = {w: min((measured(a, case, *WAYS[w]) for _ in range(a.rounds)), key=lambda r: r["seconds"]) for w in WAYS}
    trl = took["TRL"]
    trl["update"] = trl["seconds"] - trl["sampling"] - trl["reference"]
    each = bounds(a, case, trl)
    bound = trl["seconds"] / sum(trl[k] / b for k, b in each.items())
    for w, r in took.items():
        parts = {k: r.get(k, 0.) for k in ("vision", "sampling", "reference", "update")}
        times = trl["seconds"] / r["seconds"]
        yield dict(case=case, tokens=a.tokens, way=w, seconds=r["seconds"], **parts, peak_mb=measured(a, case, *WAYS[w], memory=True)["peak"], times_trl=times, bound=bound, of_bound=times / bound,
                   **{f"bound_{k}": b for k, b in each.items()})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="+", choices=CASES, default=["small"])
    p.add_argument("--tokens", type=int, default=640, help="of each response")
    p.add_argument("--rounds", type=int, default=1, help="processes a way; the fastest counts")
    for name in ("verbose", "json"): p.add_argument(f"--{name}", action="store_true")
    a = p.parse_args()
    show([r for case in a.cases for r in rows(a, case)], a.json, dict(**machine("torch", "transformers", "trl"), threads=1))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
