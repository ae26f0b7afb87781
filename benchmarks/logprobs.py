"""Log-probabilities over a large vocabulary in chunks, beside the plain way: the same values and gradients, the memory and seconds of both.

The plain way makes all logits, their log-softmax, and picks; autograd keeps the log-softmax, and going backward makes two more tensors of its size. `Policy.token_logprobs` scores a chunk of tokens
at a time and makes each chunk's logits again in the backward pass, which costs a third pass of the output layer; it also returns entropies, which the plain way here does not.
Both get hidden states that want a gradient and a frozen output layer in float32. Peak: what forward and backward add to resident memory, in a child process of its own whose malloc gives
freed tensors back at once. Seconds: in another, the fastest of `--repeat`. The machine needs 9 GB free for the plain way at the default size.
"""
import argparse, json, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
import torch
from common import machine, show
from eighth import clocked, spawn

def inputs(spec):
    "Hidden states (1, t, w), ids (1, t), and a model of an output layer alone."
    torch.manual_seed(0)
    head = torch.nn.Linear(spec["hidden"], spec["vocab"], bias=False).requires_grad_(False)
    h = torch.randn(1, spec["tokens"], spec["hidden"], requires_grad=True)
    return h, torch.randint(spec["vocab"], (1, spec["tokens"])), SimpleNamespace(lm_head=head)

def plain(model, h, ids): return model.lm_head(h).log_softmax(-1).gather(-1, ids[..., None])[..., 0]

def chunked(model, h, ids):
    from videop2r.model import Policy
    return Policy(model, SimpleNamespace(forbidden=lambda n: [])).token_logprobs(h, ids, torch.ones_like(ids, dtype=torch.bool))[0]

WAYS = dict(plain=plain, chunked=chunked)

def work(spec):
    "In the child: time or weigh one way; leave its values and gradient where `keep` says."
    h, ids, model = inputs(spec)
    weight = torch.randn(ids.shape) # of each token in the loss
    def run():
        h.grad = None
        lp = WAYS[spec["way"]](model, h, ids)
        (lp * weight).sum().backward()
        return lp.detach()
    WAYS[spec["way"]](model, h[:, :8], ids[:, :8]).sum().backward() # code and workspaces that the first run loads
    kept = []
    clocked(lambda: kept.append(run()), spec)
    if spec["keep"]: torch.save((kept[-1], h.grad), spec["keep"])

def gaps(folder):
    "Largest difference of values, and of gradients as a share of the largest."
    (a, da), (b, db) = (torch.load(Path(folder) / f"{way}.pt") for way in WAYS)
    return dict(values=(a - b).abs().max().item(), gradients=((da - db).abs().max() / da.abs().max()).item())

def row(a, tokens):
    base, found = dict(tokens=tokens, vocab=a.vocab, hidden=a.hidden, threads=a.threads, repeat=a.repeat), {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            seconds = spawn(__file__, way=way, keep=f"{folder}/{way}.pt", **base)["seconds"]
            found |= {f"{way}_seconds": seconds, f"{way}_mb": spawn(__file__, True, way=way, keep="", **base)["peak"]}
        far = gaps(folder)
    return dict(tokens=tokens, vocab=a.vocab, hidden=a.hidden, **found, memory_ratio=found["chunked_mb"] / found["plain_mb"], seconds_ratio=found["chunked_seconds"] / found["plain_seconds"],
                value_gap=far["values"], gradient_gap=far["gradients"])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    p.add_argument("--vocab", type=int, default=152_064, help="Qwen2.5-VL-7B's")
    p.add_argument("--hidden", type=int, default=1024)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    show([row(a, n) for n in a.tokens], a.json, machine("torch"))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
