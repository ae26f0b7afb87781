"""One process of several that work together, one of which fails: rank_child.py sft|rl OUT RANK STEP WHERE HOW
WHERE: read, sample, judge, gradient, write. HOW: raise, memory, kill, hang."""
import os, signal, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
import torch
import videop2r.engine.learner as learner_of, videop2r.engine.tuner as tuner_of
from videop2r.engine.runs import RunFolder, Team
from videop2r.judge import ORACLE, Judge
from rl_child import fresh, prepared, settings

kind, out, rank, step, where, how = sys.argv[1:]
rank, step, teams = int(rank), int(step), []
begun = Team.__init__

def noted(self, *given, **more):
    begun(self, *given, **more)
    teams.append(self)

Team.__init__ = noted

def fails():
    team = teams[-1]
    if team.rank != rank or team.at != f"step {step}": return
    if how == "raise": raise LookupError("made by the test")
    if how == "memory": raise torch.OutOfMemoryError("made by the test")
    if how == "hang": time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)

def failing(work):
    def both(*given, **more):
        fails()
        return work(*given, **more)
    return both

def rl():
    _, records, prompts, features = prepared(tempfile.mkdtemp(), 4)
    judge = ORACLE
    if where == "judge": judge = Judge(failing(ORACLE.ask))
    if where == "read": learner_of.Loaded.get = failing(learner_of.Loaded.get)
    if where == "sample": learner_of.collect = failing(learner_of.collect)
    if where == "gradient": learner_of.backward = failing(learner_of.backward)
    if where == "write": RunFolder.add = failing(RunFolder.add)
    own = settings(prompts=3, g=2, steps=3, limit=24, save_every=1, reference="base")
    learner_of.train_rl(fresh(), records, prompts, features, judge, own, out, quiet=True)

def sft():
    from videop2r.sft import SFT
    coder, _, prompts, _ = prepared(tempfile.mkdtemp(), 4)
    examples = [replace(prompt, response=coder.ids("It moves.") + [coder.eos]) for prompt in prompts]
    if where == "read":
        class Slow(list):
            def __getitem__(self, i):
                fails()
                return super().__getitem__(i)
        examples = Slow(examples)
    if where in ("gradient", "sample", "judge"): tuner_of.gradients = failing(tuner_of.gradients)
    if where == "write": RunFolder.add = failing(RunFolder.add)
    policy = fresh()
    tuner_of.train_sft(policy.model, policy.coder, examples, SFT(steps=3, batch=3, save_every=1), out, quiet=True)

dict(rl=rl, sft=sft)[kind]()
