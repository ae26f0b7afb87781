"""Even, change-based and question-aware sampling of eight frames from ninety-six: how often the key event is among them, and how often the embedded base then answers rightly."""
import argparse, random, time
import numpy as np, torch
from common import machine, show
from videop2r.cot import Prompt
from videop2r.evaluate import interval
from videop2r.tools.keyframes import ByQuestion, brief_clip, by_change
from videop2r import sampling # lets a policy respond
from videop2r.model import Policy
from videop2r.scoring import score
from videop2r.tokens import encode
from videop2r.video import Clip, prepare, uniform
from videop2r.engine.scenes import World, draw_frames
from videop2r.world import Question, samples, to_record

BRIEF = Prompt("Answer briefly.", {})

def ordinary(seed, frames=96):
    "A clip of the world in slow motion, without flashes; no event is shorter than the gap of even sampling."
    q = Question.draw(random.Random(seed), World(brief=0., still=0., distractors=2), ("direction", "mover", "order", "shape", "count", "movers", "distance"))
    a = draw_frames(q.scene)
    return Clip(a.repeat(frames // len(a), 0), 8., path=f"ordinary{seed}.mp4"), to_record(q, f"ordinary{seed}", "x.mp4"), set()

def cases(decoys, seed, n): return [ordinary(1000 * seed + i) if decoys is None else brief_clip(1000 * seed + i, decoys) for i in range(n)]

def measure(policy, name, clips, n=8):
    "Covered events, right answers, seconds a clip for choosing."
    sampler = dict(uniform=uniform, change=by_change, question=ByQuestion(policy, BRIEF))[name]
    start = time.perf_counter()
    chosen = [sampler(c, n, r) for c, r, _ in clips]
    seconds = (time.perf_counter() - start) / len(clips)
    prompts = [encode(policy.coder, BRIEF.render(r), prepare(c.pick(p), policy.family), name=r.problem_id) for (c, r, _), p in zip(clips, chosen)]
    answers = policy.respond(prompts, temperature=0., limit=12)
    right = [score(r.problem_type, a, r.truth, r.options, "lenient") for a, (_, r, _) in zip(answers, clips)]
    return [float(bool(w & set(p))) for (_, _, w), p in zip(clips, chosen)], right, seconds

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--clips", type=int, default=200, help="a seed")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--json", action="store_true")
    a, rows = p.parse_args(), []
    policy = Policy.load(samples() / "base")
    percent = lambda v: "{mean:.1%} [{lo:.1%}, {hi:.1%}]".format(**interval(v))
    for decoys in (0, 6, 14, 24, None):
        sets = [cases(decoys, s, a.clips) for s in range(a.seeds)]
        for name in ("uniform", "change", "question"):
            covered, right, seconds = zip(*(measure(policy, name, c) for c in sets))
            rows.append({"decoys": "no brief event" if decoys is None else decoys, "sampler": name, "covered": "" if decoys is None else percent(sum(covered, [])), "right": percent(sum(right, [])),
                         "right by seed": " ".join(f"{np.mean(r):.1%}" for r in right), "ms a clip": 1000 * float(np.mean(seconds))})
    show(rows, a.json, machine("torch", "transformers") | dict(clips=a.clips * a.seeds, threads=torch.get_num_threads()))

if __name__ == "__main__": main()
