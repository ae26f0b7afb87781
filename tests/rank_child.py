"""Processes that work together, one of which fails. A line of JSON asks for each case, since what all of them import, and the clips that all of them see, are there before they part:
dict(n, env, out, args=[sft|rl, RANK, STEP, WHERE, HOW]); the answer is a line with the exit code of each. WHERE: read, sample, judge, gradient, write. HOW: raise, memory, kill, hang."""
import json, os, signal, sys, tempfile, time, traceback
from dataclasses import replace
from pathlib import Path
import torch
import accelerate, peft  # noqa: F401, which a run asks for late
import videop2r.engine.learner as learner_of, videop2r.engine.tuner as tuner_of
from videop2r.engine.asking import Asking
from videop2r.engine.runs import RunFolder, Team
from videop2r.judge import ORACLE, Judge
from videop2r.sft import SFT
from rl_child import fresh, prepared, settings

def failing_at(rank, step, how):
    "What makes a piece of work fail in one process, at one step."
    teams, begun = [], Team.__init__
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
    return fails, failing

def rl(small, out, where, fails, failing):
    _, records, prompts, features = small
    judge = ORACLE
    if where == "judge": judge, Asking.verdicts = Judge(failing(ORACLE.ask)), failing(Asking.verdicts) # a process that has nothing to ask waits for its verdicts too
    if where == "read": learner_of.Loaded.get = failing(learner_of.Loaded.get)
    if where == "sample": learner_of.collect = failing(learner_of.collect)
    if where == "gradient": learner_of.backward = failing(learner_of.backward)
    if where == "write": RunFolder.add = failing(RunFolder.add)
    own = settings(prompts=3, g=2, steps=3, limit=24, save_every=1, reference="base")
    learner_of.train_rl(fresh(), records, prompts, features, judge, own, out, quiet=True)

def sft(small, out, where, fails, failing):
    coder, _, prompts, _ = small
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

def child(small, case, i):
    "Be process i of a case; its exit code."
    os.environ.update(case["env"], RANK=str(i), LOCAL_RANK=str(i))
    with open(Path(case["out"], f"said{i}"), "w") as said: os.dup2(said.fileno(), 2)
    kind, rank, step, where, how = case["args"]
    try: dict(rl=rl, sft=sft)[kind](small, Path(case["out"], "run"), where, *failing_at(rank, step, how))
    except SystemExit as e:
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc()
    else: return 0
    return 1

def case_of(small, case, patience=500):
    "Exit codes of a case's processes; they are killed when their time is over."
    alive, codes, until = {}, {}, time.monotonic() + patience
    for i in range(case["n"]):
        if not (pid := os.fork()):
            code = child(small, case, i)
            sys.stderr.flush()
            os._exit(code)
        alive[pid] = i
    while alive:
        if time.monotonic() > until:
            for pid in alive: os.kill(pid, signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid: codes[alive.pop(pid)] = os.waitstatus_to_exitcode(status)
        else: time.sleep(.05)
    return [codes[i] for i in range(case["n"])]

if __name__ == "__main__":
    small = prepared(tempfile.mkdtemp(), 4)
    for line in sys.stdin: print(json.dumps(case_of(small, json.loads(line))), flush=True)
