"""A short run of both arms from the embedded teacher, filmed: what they answer to the same questions while they train.

`python benchmarks/film.py --out RUN`, then `python scripts/results.py RUN --film nbs/4_evidence/demo/film.json`.
"""
import argparse, json
from dataclasses import asdict, replace
from pathlib import Path
import torch
from common import ROOT
from videop2r.cot import SHORT
from videop2r.engine.files import read_json, write_text
from videop2r.engine.learner import train_rl
from videop2r.engine.reading import to_prompts
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora
from videop2r.recipe import RL
from videop2r.tools.demo import RECIPE, Film, change, filmed
from videop2r.world import COMPOSED, SHIPPED, make_records, samples

KINDS = ("where", "net", "row", "which", "times", "far", "rests", "tell")
ARMS = ("pagrpo", "grpo")
CHANGES = ("reward_perception", "reward_reasoning", "accuracy_perception", "accuracy_reasoning")
WORLD = replace(SHIPPED, swaps=(1, 2)) # what is trained on; the film's games have two

def settings_of(a, arm):
    sizes = dict(steps=a.steps, prompts=a.prompts, g=8, limit=96, lr=8e-4, beta=.02, seed=a.seed)
    return RL(replace(RECIPE, credit=arm), **sizes, reference="base", save_every=10)

def film_records(a): return list(make_records(a.out, len(KINDS), f"film{a.seed}", replace(WORLD, swaps=(2, 2)), KINDS, prefix=""))

def trained(a, arm):
    "RL of one arm from the teacher under a fresh adapter; its rows and film are in the folder."
    teacher = Policy.load(samples() / "teacher")
    policy = Policy(add_lora(teacher.model, teacher.family, 16, seed=a.seed), teacher.coder)
    def ready(records): return to_prompts(policy.coder, records, a.out, SHORT, 8)
    prompts, records, _ = ready(list(make_records(a.out, a.questions, f"rl{a.seed}", WORLD, COMPOSED, prefix="")))
    with torch.no_grad(): features = policy.see([each.visual for each in prompts])
    settings = settings_of(a, arm)
    asked, shots, _ = ready(film_records(a))
    film = Film(policy, shots, asked, a.out / f"film-{arm}.json", settings.limit)
    film.take(0)
    def hook(step, row, rollout):
        if (step + 1) % a.every == 0 or step + 1 == settings.steps: film.take(step + 1)
    rows = train_rl(policy, records, prompts, features, ORACLE, settings, a.out / arm, label=f"{arm:6}", hook=hook)
    write_text(a.out / f"rows-{arm}.json", json.dumps(rows))

def assembled(a):
    "The film of both arms with their rows, as `scripts/results.py --film` keeps a demo's."
    rows = {arm: read_json(a.out / f"rows-{arm}.json") for arm in ARMS}
    films = {arm: read_json(a.out / f"film-{arm}.json") for arm in ARMS}
    start = "the embedded teacher, without SFT"
    told = dict(title="A short run", preset="film", seed=a.seed, start=start, settings=asdict(settings_of(a, "pagrpo")))
    rl = {arm: dict(rows=each, change={key: change(each, key) for key in CHANGES}) for arm, each in rows.items()}
    return dict(told, rl=rl, film=filmed(film_records(a), films))

def main():
    p = argparse.ArgumentParser(description=__doc__.split(":")[0])
    p.add_argument("--out", type=Path, default=ROOT / "runs" / "film", help="folder of the run; the same command goes on where it stopped")
    p.add_argument("--only", choices=ARMS, help="one arm, so that the two can run beside one another")
    numbers = dict(steps=(30, "of RL"), prompts=(6, "a step"), every=(10, "updates between two stops of the film"), questions=(300, "for RL"), seed=(0, "of all"))
    for name, (default, about) in numbers.items(): p.add_argument(f"--{name}", type=int, default=default, help=f"{about} (default: %(default)s)")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for arm in [a.only] if a.only else ARMS:
        if not (a.out / f"rows-{arm}.json").exists(): trained(a, arm)
    if all((a.out / f"rows-{arm}.json").exists() for arm in ARMS): write_text(a.out / "report.json", json.dumps(assembled(a)))

if __name__ == "__main__": main()
