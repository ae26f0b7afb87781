"""What a judge that takes a second adds to a step: steps with a judge in this process, and behind a server in another that waits before each verdict, asked in threads."""
import argparse, multiprocessing as mp, statistics, sys, tempfile, time, zlib
import torch
from common import ROOT, machine, show
sys.path.insert(0, str(ROOT / "tests"))
from loopback import serve
from videop2r.engine import decoding
from videop2r.cot import SHORT
from videop2r.engine.reading import to_prompts
from videop2r.judge import Judge, chat_judge, question, read_verdict
from videop2r.model import Policy, add_lora
from videop2r.engine.learner import Learner, Loaded
from videop2r.engine.remote import OpenAIChat
from videop2r.rewards import Bounds
from videop2r.recipe import RL, Recipe
from videop2r.world import make_records, samples

def verdict(text):
    "A verdict that depends on the question alone."
    return f"Because.\n<judgement>{'Yes' if zlib.crc32(text.encode()) % 2 else 'No'}</judgement>"

def server(pipe, latency):
    def answer(body):
        time.sleep(latency)
        return verdict(body["messages"][-1]["content"])
    with serve(answer) as s:
        pipe.send(s.url)
        pipe.recv()

def prepared(n):
    tmp = tempfile.mkdtemp()
    base = Policy.load(samples() / "teacher")
    policy = Policy(add_lora(base.model, base.family), base.coder)
    prompts, records, _ = to_prompts(policy.coder, list(make_records(tmp, n, "overlap")), tmp, SHORT, 8)
    with torch.no_grad(): return policy, records, prompts, policy.see([p.visual for p in prompts])

def loop_of(given, judge, a, workers):
    "A run whose rate is 0, so that all steps see the same weights."
    policy, records, prompts, features = given
    recipe = Recipe(bounds=Bounds((14, 40), (12, 24)), how="lenient")
    learner = Learner(policy, Loaded(records, prompts, features, "lenient"), judge, RL(recipe, prompts=a.prompts, g=a.g, limit=80, lr=1e-30, reference="base", slices=a.slices, workers=workers))
    learner.start()
    return learner

def slower(ms):
    "Let each decoded token take longer without work for this CPU, as where a GPU does it."
    through = decoding.through
    def waiting(*args, **kw):
        time.sleep(ms / 1000)
        return through(*args, **kw)
    decoding.through = waiting

def line(name, rows, base):
    mean = lambda k: statistics.mean(r[k] for r in rows)
    seconds = {"reading the reference" if k == "reference" else "waiting for verdicts" if k == "judge" else k: mean(f"seconds_{k}") for k in ("sampling", "reference", "judge", "update", "step")}
    return {"judge": name, "calls a step": mean("asked"), **seconds, "adds": "–" if base is None else f"{mean('seconds_step') / mean_of(base) - 1:+.1%}"}

def mean_of(rows): return statistics.mean(r["seconds_step"] for r in rows)

def options():
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(prompts=7, g=8, slices=1, steps=2, workers=16).items(): p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--latency", type=float, default=1., help="seconds before each verdict")
    p.add_argument("--token-ms", type=float, default=100., help="milliseconds by which each decoded token is held up, in place of a GPU's work; 0: the tiny model as it is")
    p.add_argument("--json", action="store_true")
    return p.parse_args()

def main():
    a, (mine, theirs) = options(), mp.Pipe()
    mp.get_context("spawn").Process(target=server, args=(theirs, a.latency), daemon=True).start()
    given = prepared(a.prompts * (a.steps + 1))
    slower(a.token_ms)
    judges = Judge(lambda r, o: read_verdict(verdict(question(r, o)))), chat_judge(OpenAIChat("m", mine.recv() + "/v1", timeout=60))
    loops = [loop_of(given, j, a, w) for j, w in zip(judges, (0, a.workers))]
    for step in range(a.steps + 1): # by turns, so that both meet the same neighbours
        said = [[v and v.yes for v in loop.step(step)[1].verdicts] for loop in loops]
        if said[0] != said[1]: raise SystemExit("verdicts differ")
    here, there = (loop.rows[1:] for loop in loops) # the first step warms up
    show([line("in this process, one after the other", here, None), line(f"{a.latency:g} s away, {a.workers} threads", there, here)], a.json, machine("torch", "openai") | vars(a))
    mine.send("done")

if __name__ == "__main__": main()
