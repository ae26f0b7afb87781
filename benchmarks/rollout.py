"""Eight responses to one video prompt: `sample` against transformers' own `generate(num_return_sequences=8)`.

Same weights and prompt (`eighth.py`), temperature 1, no top-k or top-p, the end token banned so that all responses have the same length; a process for each. Seconds of one thread: the fastest of all repeats.
Peak MB: what a run adds to the loaded model, in a run of its own in which malloc returns freed tensors at once. `generate` repeats the video and the prompt for every response. The bound is what it
would gain if it did not: its own time, over its time for the first token of one response plus its own decoding of eight (its time less its time for eight first tokens).
`--check`: greedy tokens of one response, equal or not.
"""
import argparse, json, sys
from types import SimpleNamespace
import torch
from common import machine, show
from eighth import EOS, LARGE, SMALL, clocked, coder, inputs, model, spawn
from videop2r.model import Policy
import videop2r.sampling # gives a Policy its `sample`
from videop2r.tokens import Example

CASES, G = {"small": SMALL, "large": LARGE}, 8

def stock(m, prompt, g, limit, **kw):
    "A function that lets `generate` make `g` responses: (g, limit) ids."
    v = prompt.visuals[0]
    given = dict(input_ids=prompt.ids, attention_mask=prompt.mask.long(), mm_token_type_ids=prompt.kinds, pixel_values_videos=v.patches, video_grid_thw=torch.tensor([list(v.grid)]), position_ids=Policy(m, coder).positions(prompt))
    more = {**dict(do_sample=True, temperature=1., top_k=0, top_p=1., num_return_sequences=g), **kw}
    return lambda: m.generate(**given, max_new_tokens=limit, min_new_tokens=limit, **more)[:, prompt.ids.shape[1]:]

def ours(m, prompt, g, limit, **kw):
    endless = SimpleNamespace(**{**vars(coder), "forbidden": lambda n: [EOS]})
    return lambda: Policy(m, endless).sample([Example(prompt.ids[0].tolist(), visual=prompt.visuals[0])], g, limit, **kw).ids

def work(spec):
    m, prompt = model(), inputs(CASES[spec["case"]])[0]
    clocked((stock if spec["who"] == "generate" else ours)(m, prompt, spec["g"], spec["limit"]), spec)

def measured(a, case, who, g, limit, memory=False):
    out = spawn(__file__, memory, case=case, who=who, g=g, limit=limit, threads=a.threads, repeat=a.repeat)["peak" if memory else "seconds"]
    if a.verbose: print(case, who, g, limit, "MB" if memory else "s", out, file=sys.stderr, flush=True)
    return out

def rows(a, case):
    "Two rows a length: rounds go through all runs in turn, so that a noisy minute falls on all."
    runs = [("generate", 1, 1), ("generate", G, 1)] + [(who, G, n) for n in a.tokens for who in ("generate", "ours")]
    took = {r: min(s) for r, *s in zip(runs, *[[measured(a, case, *r) for r in runs] for _ in range(a.rounds)])}
    for n in a.tokens:
        theirs = took["generate", G, n]
        bound = theirs / (took["generate", 1, 1] + theirs - took["generate", G, 1])
        for who in ("generate", "ours"):
            times = theirs / took[who, G, n]
            yield dict(case=case, tokens=n, way=who, seconds=took[who, G, n], peak_mb=measured(a, case, who, G, n, True), times_generate=times, bound=bound, of_bound=times / bound)

def check(a):
    for case in a.cases:
        m, prompt = model(), inputs(CASES[case])[0]
        same = (stock(m, prompt, 1, 48, do_sample=False)() == ours(m, prompt, 1, 48, temperature=0)()).all().item()
        print(f"{case}: 48 greedy tokens {'equal' if same else 'DIFFER'}", file=sys.stderr)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--tokens", type=int, nargs="+", default=[16, 96, 640], help="new tokens")
    p.add_argument("--threads", type=int, default=1, help="with one, seconds are the processor's, which neighbours disturb least; with more, the wall's")
    p.add_argument("--repeat", type=int, default=2, help="runs a process; the fastest counts")
    p.add_argument("--rounds", type=int, default=2, help="processes a way; the fastest counts")
    for name in ("check", "verbose", "json"): p.add_argument(f"--{name}", action="store_true")
    a = p.parse_args()
    if a.check: check(a)
    show([r for case in a.cases for r in rows(a, case)], a.json, dict(**machine("torch", "transformers"), threads=a.threads))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
