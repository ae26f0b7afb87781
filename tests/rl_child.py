"What the tests of the loop share, and what runs in processes of its own: `grads OUT`, `both OUT`, `slow OUT`."
import os, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
import torch
from videop2r.cot import SHORT
from videop2r.engine.learner import train_rl
from videop2r.engine.reading import to_prompts
from videop2r.engine.runs import Team
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora, load_adapter
from videop2r.recipe import RL, Recipe
from videop2r.rewards import Bounds
from videop2r.rollout import assign, collect, take
from videop2r.tokens import Coder
from videop2r.update import backward, totals
from videop2r.world import make_records, samples

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")
RECIPE = Recipe(bounds=Bounds((10, 40), (10, 30)), how="lenient")

def weights_of(model):
    "A copy of what is trained, by name."
    return {name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad}

def settings(**kw): return RL(**{"recipe": RECIPE, "steps": 2, "prompts": 4, "g": 4, "limit": 48, "lr": 1e-3, "warmup": 1, "slices": 2, **kw})

def prepared(folder, n=6):
    "(coder, records, prompts, features)"
    coder = Coder.load(SAMPLES / "teacher")
    prompts, records, _ = to_prompts(coder, list(make_records(folder, n, "rl")), folder, SHORT, 8)
    with torch.no_grad(): return coder, records, prompts, Policy.load(SAMPLES / "teacher").see([p.visual for p in prompts])

def fresh():
    "The teacher with a policy adapter that differs from its reference."
    base = Policy.load(SAMPLES / "teacher")
    m = add_lora(base.model, base.family, rank=4)
    with tempfile.TemporaryDirectory() as tmp:
        m.save_pretrained(tmp, selected_adapters=["policy"])
        m = load_adapter(m, f"{tmp}/policy", "reference")
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.requires_grad: p.add_(torch.randn(p.shape, generator=g) * .01)
    return Policy(m, base.coder)

def run(out, slow=0., steps=2):
    "A whole small run; `slow` seconds a step leave time to kill it."
    coder, records, prompts, features = prepared(tempfile.mkdtemp())
    policy, s = fresh(), settings(steps=steps, save_every=2)
    train_rl(policy, records, prompts, features, ORACLE, s, out, quiet=True, hook=lambda *a: time.sleep(slow))
    if Team().main: torch.save(weights_of(policy.model), Path(out) / "weights.pt")

def grads(out):
    "Leaves in `grads.pt` the gradient of stored rollouts, shared between processes: groups of uneven number and length."
    coder, records, prompts, features = prepared(tempfile.mkdtemp())
    policy, team, gradients = fresh(), Team(), {}
    assert team.size == int(os.environ.get("WORLD_SIZE", 1))
    model = policy.model
    r = collect(policy, records[:5], prompts[:5], features[:5], ORACLE, 4, RECIPE, 48, generator=torch.Generator().manual_seed(1))
    for weights in ("process", "response", "batch"):
        mine, s = team.share(list(range(5))), settings()
        part = take(r, mine)
        of = totals(team, part)
        part, params = assign(part, replace(RECIPE, weights=weights), of.mean_tokens), [p for p in model.parameters() if p.requires_grad]
        model.zero_grad()
        backward(policy, [prompts[i] for i in mine], [features[i] for i in mine], part, s, of)
        team.sum_gradients(params)
        gradients[weights] = torch.cat([p.grad.flatten() for p in params])
    if team.main: torch.save(gradients, Path(out) / "grads.pt")

def both(out):
    grads(out)
    run(out)

WORK = dict(both=both, grads=grads, slow=lambda out: run(out, .4, 5))

if __name__ == "__main__": WORK[sys.argv[1]](sys.argv[2])
