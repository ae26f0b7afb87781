"""What each open choice does on the synthetic world: short runs from the same SFT adapters, one for every switch and seed, on the same prompts.

    python benchmarks/choices.py --out runs/choices [--seeds 0 1 2] [--only NAME ...]   run what is missing; results.jsonl grows by a line a run
    python benchmarks/choices.py --out runs/choices --show [--json]                     the table of what is there

Each seed has traces, SFT and held-out records of its own, as `videop2r demo` makes them; a run is 60 steps of the demo's prompts and rollouts. Differences are paired: the same
held-out records, all seeds together, against our default; 95% intervals over records, which do not cover what another seed would change.
"""
import argparse, json, torch
from dataclasses import replace
from pathlib import Path
from common import machine, show
from videop2r.engine.learner import train_rl
from videop2r.evaluate import difference, evaluate
from videop2r.judge import ORACLE
from videop2r.tools.demo import Run, Sizes, change, demo_records, policy_of, prompts_of, teach, tune

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
OURS = replace(Sizes.known["default"].rl, steps=60)
RECIPE = OURS.recipe

def recipe(**kw): return dict(recipe=replace(RECIPE, **kw))

SWITCHES = {
    "ours": {},
    "SFT only": None,
    "GRPO": recipe(credit="grpo"),
    "without R_R, reasoning credited with R_P": recipe(credit="no_reasoning"),
    "without R_R, reasoning idle": recipe(credit="no_reasoning_idle"),
    "without separation": recipe(credit="no_separation"),
    "without R_len": recipe(length=0.),
    "dynamic length": recipe(bounds=replace(RECIPE.bounds, stretch=.5)),
    "token mean per response": recipe(weights="response"),
    "token mean per batch": recipe(weights="batch"),
    "tags to nobody": recipe(tags=False),
    "malformed to reasoning": recipe(owner="reasoning"),
    "malformed to nobody": recipe(owner="nobody"),
    "format by Video-R1": recipe(form="video-r1"),
    "no deviation (Dr. GRPO)": recipe(advantage="dr_grpo"),
    "leave one out (RLOO)": recipe(advantage="rloo"),
    "equal rewards dropped (DAPO)": recipe(advantage="dapo"),
    "truncated left out": recipe(overlong="mask"),
    "T-GRPO's bonus": recipe(shuffled=4),
    "no KL": dict(beta=0.),
    "KL k1": dict(kl="k1"),
    "KL k2": dict(kl="k2"),
    "β 0.1": dict(beta=.1),
    "half the learning rate": dict(lr=4e-4),
    "double the learning rate": dict(lr=1.6e-3),
}

def prepared(out, seed, preset):
    "Policy, RL data and held-out data of a seed, after its SFT."
    run = Run.open(Path(out) / f"seed{seed}", preset, seed, SAMPLES)
    torch.manual_seed(seed)
    for name, work in dict(traces=teach, sft=tune).items(): run.stage(name, lambda: work(run))
    adapter, data = run.out / "sft" / "last", []
    policy = policy_of(run, adapter, adapter)
    for name, n in dict(rl=run.sizes.rl_records, heldout=run.sizes.heldout).items():
        prompts, records, _ = prompts_of(run, policy, demo_records(run, name, n))
        with torch.no_grad(): data.append((records, prompts, policy.see([p.visual for p in prompts])))
    return policy, *data

def one(ready, name, seed, steps):
    "Results of one run: a line's worth."
    ours = replace(OURS, steps=steps, seed=seed)
    policy, (records, prompts, features), (held, asked, seen) = ready
    model = policy.model
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    changed, rows = SWITCHES[name], []
    if changed is not None:
        rows = train_rl(policy, records, prompts, features, ORACLE, replace(ours, **changed), quiet=True)
    found = evaluate(policy, held, asked, ORACLE, seen, limit=OURS.limit)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in start: p.copy_(start[n])
    rewards = {k: [change(rows, k)[x] for x in ("first", "last")] for k in ("reward_perception", "reward_reasoning") if rows}
    return dict(name=name, seed=seed, **{k: [float(r[k] or 0) for r in found] for k in ("answer", "sufficient", "format")}, **rewards)

def run(a):
    path = Path(a.out) / "results.jsonl"
    done = {(r["name"], r["seed"]) for r in read(a)}
    for seed in a.seeds:
        todo = [n for n in a.only or SWITCHES if (n, seed) not in done]
        ready = todo and prepared(a.out, seed, a.preset)
        for name in todo:
            row = one(ready, name, seed, a.steps)
            with path.open("a") as f: f.write(json.dumps(row) + "\n")
            print(seed, name, {k: round(sum(row[k]) / len(row[k]), 3) for k in ("answer", "sufficient", "format")}, flush=True)

def read(a):
    path = Path(a.out) / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

def table(rows):
    "A row for each switch."
    by, out = {(r["name"], r["seed"]): r for r in rows}, []
    for name in SWITCHES:
        seeds = [s for s in sorted({r["seed"] for r in rows}) if (name, s) in by and ("ours", s) in by]
        if not seeds: continue
        mean = lambda k: [round(100 * sum(by[name, s][k]) / len(by[name, s][k]), 1) for s in seeds]
        gap = lambda k: difference(*(sum((by[n, s][k] for s in seeds), []) for n in ("ours", name)))
        told = lambda k: "" if name == "ours" else "{diff:+.1f} [{lo:+.1f}, {hi:+.1f}]".format(**{x: 100 * v for x, v in gap(k).items()})
        out.append(dict(switch=name, seeds=len(seeds), **{x: v for k in ("answer", "sufficient", "format") for x, v in ((k, mean(k)), (f"{k} − ours", told(k)))}))
    return out

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="runs/choices")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=int, default=OURS.steps, help="updates of a run (default: %(default)s)")
    p.add_argument("--preset", default="default", choices=Sizes.known, help="sizes of the demo for traces and SFT (default: %(default)s)")
    p.add_argument("--only", nargs="+", choices=SWITCHES)
    p.add_argument("--show", action="store_true")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    if not a.show: run(a)
    show(table(read(a)), a.json, machine("torch"))
