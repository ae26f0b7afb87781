"""One update of a group of eight: ours against TRL's log-prob and loss code on the padded batch.

Same weights (`eighth.py`), prompt, responses, advantages, clip and KL in one run; each way in processes of its own. Seconds of one thread: the fastest of all repeats. Peak MB: what the update adds
to the loaded model and its inputs, in a run of its own in which malloc returns freed tensors at once. The gradients are compared with the fastest peer's.
TRL's method takes no video tensors in 1.16, so the model goes in through `Peer`, which renames its image tensors. Where only its GPU kernel skips the output layer at prompt tokens,
it is made to skip them on the CPU too. Its KL goes without the importance ratio, as in the paper. Its fastest is the fastest of micro-batches of 1, 2, 4 and 8; its leanest is a micro-batch
of 1 under gradient checkpointing, which TRL has on by default. Ours runs all rows at once; a row at a time; the same with the prompt's layers run again in the backward pass; the same with
all layers run again. The bound is the ratio of multiply-adds, `padded_cost` over `shared_cost`, attention
counted by its causal half in both. TRL's padded rows go under a mask, where the kernel computes the whole square: `of_bound_as_run` counts that too, and is the stricter figure.
"""
import argparse, json, sys, tempfile
import torch
from common import machine, show
from eighth import LARGE, SMALL, clocked, coder, inputs, model, padded_cost, shared_cost, spawn
from videop2r.losses import policy_loss
from videop2r.model import Policy
from videop2r.engine.shared import group_backward
from videop2r.tools.rehearse import Peer

BETA, CASES = .04, {"small": SMALL, "large": LARGE}

def fixed(ids, mask):
    "Old and reference log-probabilities, advantages, weights."
    torch.manual_seed(2)
    old = torch.randn(ids.shape) * .1 - 8
    return old, old + .1 * torch.randn(ids.shape), torch.randn(len(ids))[:, None].expand(ids.shape), mask / mask.sum(1, keepdim=True)

def peer(m, case, micro, lean):
    "A function that makes the padded batch's gradient, as `videop2r rehearse` has it."
    prompt, ids, mask = inputs(case)
    old, ref, adv, _ = fixed(ids, mask)
    if lean: m.gradient_checkpointing_enable(dict(use_reentrant=False))
    m.train()
    return Peer(Policy(m, coder), prompt, ids.shape[1], BETA).gradient(ids, mask, old, ref, adv[:, 0], micro)

def ours(m, case, rows, recompute):
    "A function that makes the shared prompt's gradient, its vision included."
    prompt, ids, mask = inputs(case)
    old, ref, adv, weights = fixed(ids, mask)
    def loss(h, i, t):
        logp, _ = Policy(m, coder).token_logprobs(h, ids[i, :t], mask[i, :t])
        return policy_loss(logp, old[i, :t], ref[i, :t], adv[i, :t], weights[i, :t], beta=BETA, denominator=len(ids))[0]
    def run():
        with torch.no_grad(): features = Policy(m, coder).see(prompt.visuals)
        group_backward(Policy(m, coder), prompt, ids, mask, len(ids), loss, features, rows, recompute)
    return run

def gradient(m): return torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])

def work(spec):
    "In a child: one way, its gradient kept."
    m, case = model(spec["train"]), CASES[spec["case"]]
    gradient_of = (peer if spec["who"] == "trl" else ours)(m, case, *spec["dials"])
    def run():
        m.zero_grad()
        gradient_of()
    clocked(run, spec)
    if spec["keep"]: torch.save(gradient(m), spec["keep"])

WAYS = {**{f"TRL, micro-batch {n}": ("trl", (n, False)) for n in (1, 2, 4, 8)}, "TRL, leanest": ("trl", (1, True)),
        "ours, all rows": ("ours", (None, "nothing")), "ours, a row at a time": ("ours", (1, "nothing")), "ours, prompt run again": ("ours", (1, "prompt")),
        "ours, leanest": ("ours", (1, "all"))}
def measured(a, case, way, memory=False, keep=None):
    who, dials = WAYS[way]
    out = spawn(__file__, memory, case=case, who=who, dials=dials, train=a.train, threads=a.threads, repeat=a.repeat, keep=keep)["peak" if memory else "seconds"]
    if a.verbose: print(case, way, "MB" if memory else "s", out, file=sys.stderr, flush=True)
    return out

def rows(a, case, folder):
    "One row a way: rounds go through all ways in turn, so that a noisy minute falls on all."
    ways = [w for w in WAYS if not a.ways or any(part in w for part in a.ways)]
    seconds = {w: min(s) for w, *s in zip(ways, *[[measured(a, case, w) for w in ways] for _ in range(a.rounds)])}
    kept = {w: f"{folder}/{i}" for i, w in enumerate(ways)}
    peak, grad = {w: measured(a, case, w, True, kept[w]) for w in ways}, {w: torch.load(f) for w, f in kept.items()}
    fast, lean = min((w for w in ways if "micro" in w), key=seconds.get), next((w for w in ways if w == "TRL, leanest"), ways[0])
    padded = sum(n < max(CASES[case].lengths) for n in CASES[case].lengths) if WAYS[fast][1][0] == 1 else len(CASES[case].lengths)
    bound, as_run = (padded_cost(CASES[case], train=a.train, masked=n) / shared_cost(CASES[case], train=a.train) for n in (0, padded))
    for w in ways:
        times = seconds[fast] / seconds[w]
        yield dict(case=case, way=w, seconds=seconds[w], peak_mb=peak[w], times_fastest_peer=times, bound=bound, of_bound=times / bound, of_bound_as_run=times / as_run, memory_of_fastest_peer=peak[w] / peak[fast],
                   memory_of_leanest_peer=peak[w] / peak[lean], gradient_differs=((grad[w] - grad[fast]).norm() / grad[fast].norm()).item())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--ways", nargs="+", default=[], metavar="PART", help="only ways whose name holds one of these, a micro-batch of TRL among them: " + "; ".join(WAYS))
    p.add_argument("--train", choices=("lora", "layers"), default="lora", help="what is trained: LoRA on the frozen base, or all layers")
    p.add_argument("--threads", type=int, default=1, help="with one, seconds are the processor's, which neighbours disturb least; with more, the wall's")
    p.add_argument("--repeat", type=int, default=2, help="updates a process; the fastest counts")
    p.add_argument("--rounds", type=int, default=2, help="processes a way; the fastest counts")
    p.add_argument("--verbose", action="store_true")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder: found = [r for case in a.cases for r in rows(a, case, folder)]
    show(found, a.json, dict(**machine("torch", "transformers", "trl"), threads=a.threads, train=a.train))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
