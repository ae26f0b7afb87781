"""How far judges agree with what is true of 500 observations, half of them spoiled, and how often each attack gets a Yes."""
import argparse, random
import numpy as np
from common import machine, show
from videop2r.evaluate import interval
from videop2r.judge import ORACLE, attacks, base_judge, panel
from videop2r.model import Policy
from videop2r.oracle import paraphrase, spoil, sufficient
from videop2r.engine.scenes import World
from videop2r.world import KINDS, question_of, samples, to_record

def observations(n, seed):
    "Triples of record, observation and whether it suffices by construction, every second one spoiled."
    rng = random.Random(seed)
    for i in range(n):
        q = question_of(f"judged{seed}", i, World(brief=.1))
        good = bool(i // len(KINDS) % 2)
        yield to_record(q, f"j{i}", f"{i}.mp4"), paraphrase(q, rng) if good else spoil(q, rng)[0], good

def agreement(judge, cases):
    found = [(judge(r, o).yes, good) for r, o, good in cases]
    given = [(yes, good) for yes, good in found if yes is not None]
    say = lambda values: "{mean:.1%} [{lo:.1%}, {hi:.1%}]".format(**interval(values)) if values else "–"
    return {"judge": judge.name, "agrees": say([float(y == g) for y, g in given]), "no verdict": f"{1 - len(given) / len(found):.1%}",
            "Yes to a spoiled one": say([float(y) for y, g in given if not g]), "No to a good one": say([float(not y) for y, g in given if g])}

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--observations", type=int, default=500)
    p.add_argument("--attacked", type=int, default=36, help="records that each attack is tried on")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    base, cases = Policy.load(samples() / "base"), list(observations(a.observations, 0))
    judges = [ORACLE, base_judge(base), base_judge(base, "written", limit=40)]
    judges.append(panel(*judges))
    show([agreement(j, cases) for j in judges], a.json, machine("torch", "transformers") | dict(observations=a.observations))
    tried, rows = [r for r, _, _ in cases[:a.attacked]], {}
    for r in tried:
        for name, o in attacks(r).items(): rows.setdefault(name, []).append([float(j(r, o).yes is True) for j in judges])
    print()
    show([{"attack": k, **{j.name: f"{v:.0%}" for j, v in zip(judges, np.mean(found, 0))}} for k, found in rows.items()], a.json, dict(records=a.attacked))

if __name__ == "__main__": main()
