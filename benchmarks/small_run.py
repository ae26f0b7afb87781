"""A run in small for the analyses: PA-GRPO beside GRPO from the embedded teacher, and an evaluation, in the layout of a demo's folder."""
import argparse, json, shutil, sys
from dataclasses import asdict
from pathlib import Path
import torch
from common import ROOT
from videop2r.cot import SHORT, Prompt
from videop2r.data import read_records, write_jsonl
from videop2r.engine.files import write_json, write_text
from videop2r.engine.learner import train_rl
from videop2r.engine.reading import to_prompts
from videop2r.evaluate import evaluate
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora, load_adapter
from videop2r.recipe import RL, Recipe
from videop2r.world import COMPOSED, CONTROL, SHIPPED, make_records, samples

ARMS = ("pagrpo", "grpo")

def questions(out, name, n, seed):
    "Records of the demo's world, made once."
    path = out / f"{name}.jsonl"
    if not path.exists(): write_jsonl(list(make_records(out, n, f"{name}{seed}", SHIPPED, CONTROL + COMPOSED * 2, prefix="")), path)
    return list(read_records(path))[:n]

def settings_of(a, arm):
    sizes = dict(steps=a.steps, prompts=a.prompts, g=a.g, limit=96, lr=5e-4, beta=.02, seed=a.seed)
    return RL(Recipe(credit=arm, bounds="short", how="lenient"), **sizes, reference="base", save_every=5)

def trained(a, arm):
    "RL of one arm from the embedded teacher under a fresh adapter."
    teacher = Policy.load(samples() / "teacher")
    policy = Policy(add_lora(teacher.model, teacher.family, 16, seed=a.seed), teacher.coder)
    prompts, records, _ = to_prompts(policy.coder, questions(a.out, "rl", a.questions, a.seed), a.out, SHORT, 8)
    with torch.no_grad(): features = policy.see([each.visual for each in prompts])
    train_rl(policy, records, prompts, features, ORACLE, settings_of(a, arm), a.out / arm, label=f"{arm:6}")

def rows_of(a, arm, policy, prompt, **how):
    path = a.out / f"eval-{arm}.jsonl"
    if path.exists(): return
    prompts, records, _ = to_prompts(policy.coder, questions(a.out, "heldout", a.heldout, a.seed), a.out, prompt, 8)
    rows = evaluate(policy, records, prompts, ORACLE, limit=96, **how)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

def evaluated(a):
    "The embedded base briefly, the teacher as the SFT model, and both arms."
    rows_of(a, "base", Policy.load(samples() / "base"), Prompt("Answer briefly.", {}), traced=False)
    teacher = Policy.load(samples() / "teacher")
    rows_of(a, "sft", teacher, SHORT)
    for arm in ARMS: rows_of(a, arm, Policy(load_adapter(Policy.load(samples() / "teacher").model, a.out / arm / "last", arm), teacher.coder), SHORT)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=ROOT / "runs" / "small", help="folder of the run; the same command goes on where it stopped")
    p.add_argument("--only", choices=[*ARMS, "evaluation"], help="one part, so that the arms can run beside one another")
    for name, (default, about) in dict(steps=(18, "of RL"), prompts=(8, "a step"), g=(8, "responses to a prompt"), questions=(400, "for RL"), heldout=(145, "for the evaluation"), seed=(0, "of all")).items():
        p.add_argument(f"--{name}", type=int, default=default, help=f"{about} (default: %(default)s)")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for arm in ARMS:
        if a.only in (None, arm): trained(a, arm)
    if a.only not in (None, "evaluation"): return
    evaluated(a)
    sizes = dict(kind="small", seed=a.seed, frames=8, start="teacher", heldout=a.heldout, rl=asdict(settings_of(a, "pagrpo")))
    write_json(a.out / "run.json", sizes)

if __name__ == "__main__": main()
