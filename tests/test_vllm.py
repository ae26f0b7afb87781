"A real vLLM beside ours: `make engines` runs these, in an environment of vLLM's own, and tells what they measured. Everywhere else they are not run."
import json, os, shutil, threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
import pytest, torch
from videop2r.engine.served import Engine, Unserved, as_samples, gaps, weighed
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora
from videop2r.rollout import collect
from videop2r.tokens import collate
from videop2r.tools.check import check_served, questions
from videop2r.tools.cli import main
from rl_child import RECIPE, SAMPLES, fresh, prepared
import test_engines
from test_engines import TEACHER, learner, lines
from vllm_server import OURS, running

PYTHON = os.environ.get("VLLM_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="a vLLM of its own: make engines")
WAIT = 900. # seconds for an answer: a first question may compile, and the machine may be busy
client, engine_at = (partial(each, timeout=WAIT) for each in (test_engines.client, test_engines.engine_at))
RUNTIME = dict(VLLM_ALLOW_RUNTIME_LORA_UPDATING="True")
OTHER = "{% for m in messages %}<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{{ m['content'] if m['content'] is string else '' }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"

def told(what, figure):
    "A line of what was measured."
    print(f"{what}: {figure}")
    if place := os.environ.get("VLLM_FIGURES"):
        with open(place, "a") as out: print(f"{what}: {figure}", file=out)

@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    "Two servers of the same weights: as the project asks for it, and bare, with another template."
    out = tmp_path_factory.mktemp("servers")
    shutil.copytree(TEACHER, out / "other")
    (out / "other/chat_template.jinja").write_text(OTHER)
    with ExitStack() as open_:
        ours = open_.enter_context(running(PYTHON, TEACHER, out / "ours.log", **RUNTIME))
        bare = open_.enter_context(running(PYTHON, out / "other", out / "bare.log", flags=()))
        told("seconds from start to answer, two servers at once", f"{ours.answers():.0f}, {bare.answers():.0f}")
        yield ours, bare

@pytest.fixture(scope="module")
def url(servers): return servers[0].url

@pytest.fixture(scope="module")
def bare(servers): return servers[1].url

@pytest.fixture(scope="module")
def small(tmp_path_factory): return prepared(tmp_path_factory.mktemp("media"), 3)

def moved(rank=8, seed=0, size=.02):
    "The teacher with an adapter that is not nothing."
    base = Policy.load(TEACHER)
    policy = Policy(add_lora(base.model, base.family, rank=rank), base.coder)
    return shaken(policy, seed, size)

def shaken(policy, seed, size):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name: weight.add_(torch.randn(weight.shape, generator=draw) * size)
    return policy

def names(engine): return [each["id"] for each in engine.served.models()]

def seeds(n, first=0): return [torch.Generator().manual_seed(first + i) for i in range(n)]

def apart(found, theirs): return ((found.logprobs - theirs) * found.mask).abs().max().item()

def test_text_image_and_video_are_ours(url):
    done = check_served(TEACHER, url, near=1e-5, timeout=WAIT)
    assert done.good and all(row.same == row.answer and not row.fault for row in done.rows), done
    assert [row.rule for row in done.rows][3] == "ours" # where the rule of transformers' class is another
    for row in done.rows: told(f"check, {row.name}", f"{row.tokens} prompt tokens the same, {row.same} of {row.answer} alike, largest gap {row.gap:.1e} nats")

def test_the_command_says_so(url, capsys):
    assert main(["check", str(TEACHER), "--server", url, "--near", "1e-5", "--timeout", str(WAIT), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"]
    assert main(["check", str(SAMPLES / "base"), "--server", url, "--timeout", str(WAIT), "--json"]) == 2 # another model of the same tokens
    assert not json.loads(capsys.readouterr().out)["good"]
    assert main(["check", str(TEACHER), "--server", url, "--model", "other"]) == 1
    assert "does not serve 'other', but base" in capsys.readouterr().err

def test_a_new_adapter_at_run_time_is_the_new_policy(url, tmp_path):
    policy = moved()
    engine, prompts = engine_at(url, policy, tmp_path), list(questions(policy.coder).values())
    told("greeting, mean gap", f"{engine.greet(policy):.1e} nats")
    first = engine.publish(policy, 0)
    def draw(seed): return engine.sample(policy, prompts, 8, generator=seeds(4, seed), limit=24)
    found, theirs = draw(0)
    plain = torch.cat([policy.logprobs(collate(policy.coder, [replace(p, response=row)])).detach() for p, rows in zip(prompts, [found.rows()[i:i + 8] for i in range(0, 32, 8)]) for row in rows], 1)[0]
    whole = (plain - theirs[found.mask]).abs().max().item()
    told("adapter, 32 samples at temperature 1", f"largest gap {apart(found, theirs):.1e} nats, by a plain forward {whole:.1e}")
    assert apart(found, theirs) < 1e-4 and whole < 1e-4
    again, other = draw(0)[0], draw(50)[0]
    assert again.texts == found.texts != other.texts and len(set(found.texts[:8])) > 1
    told("seeds", f"the same twice: {again.texts == found.texts}; others: {sum(a != b for a, b in zip(found.texts, other.texts))} of 32 differ")
    forbidden = set(policy.coder.forbidden(policy.head.out_features))
    assert not forbidden & {i for row in found.rows() for i in row if i != policy.coder.eos}
    shaken(policy, 1, .05)
    assert apart(*engine.sample(policy, prompts, 2, generator=seeds(4), limit=24)) > .05 # the server still has the old one
    second = engine.publish(policy, 1)
    assert names(engine) == ["base", second] != ["base", first]
    late = apart(*engine.sample(policy, prompts, 2, generator=seeds(4), limit=24))
    told("the next policy under its own name", f"largest gap {late:.1e} nats")
    assert late < 1e-4
    engine.close()
    assert names(engine) == ["base"]

def test_without_our_forbidden_ids_it_is_another_policy(url, tmp_path):
    policy = moved()
    served, prompts = client(url, policy), list(questions(policy.coder).values())
    served.choose()
    def gap():
        with policy.using(None): found, theirs = as_samples(policy, prompts, None, served.rows(prompts, 4, 16, 1., seeds=[1, 2, 3, 4]), 4)
        return apart(found, theirs)
    ours, served.allowed = gap(), list(range(policy.head.out_features))
    told("largest gap with and without allowed_token_ids", f"{ours:.1e}, {(without := gap()):.1e} nats")
    assert ours < 1e-4 < without

def test_a_run_by_the_server(small, url, tmp_path):
    policy = fresh()
    run = learner(small, engine := engine_at(url, policy, tmp_path), tmp_path / "run", policy, cap=2.)
    run.run(quiet=True)
    assert len(run.rows) == 2 and all(row["engine_gap_most"] < 1e-4 and row["drift"] < 1e-3 and row["grad_norm"] > 0 for row in run.rows)
    assert names(engine) == ["base"] and not list((tmp_path / "rollouts").iterdir())
    for row in run.rows: told(f"a run, step {row['step']}", f"gap {row['engine_gap']:.1e} nats mean, {row['engine_gap_most']:.1e} most; grad_norm {row['grad_norm']:.3g}; {row['seconds_step']:.1f} s, {row['seconds_sampling']:.1f} of them sampling")

def test_the_command_of_a_run(url, tmp_path, capsys):
    given = f"rl --records {SAMPLES}/train.jsonl --media {SAMPLES} --model {TEACHER} --preset tiny --prompt short --out {tmp_path}/run"
    assert main([*given.split(), *f"--judge oracle --steps 2 --prompts 2 --g 3 --limit 32 --save-every 1 --cap 2 --rollout-server {url}".split()]) == 0
    rows = lines(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1] and all(row["engine_gap_most"] < 1e-4 for row in rows)

def test_the_ratio_mends_what_another_policy_sampled(small, url, tmp_path):
    "The server keeps a policy that ours has left: the ratios have mean 1, and a cap bounds them."
    _, records, prompts, features = small
    policy = moved(size=.01)
    engine = engine_at(url, policy, tmp_path)
    engine.greet(policy), engine.publish(policy, 0)
    shaken(policy, 1, .03)
    rollout = collect(policy, records, prompts, features, ORACLE, 16, RECIPE, 24, generator=seeds(3), reference=None, engine=engine)
    ratio = (rollout.old - rollout.engine).exp()[rollout.mask]
    mean, error = ratio.mean().item(), (ratio.std() / len(ratio)**.5).item()
    told("ratios of a policy that has moved on", f"{len(ratio)} tokens, mean {mean:.3f} ± {error:.3f}, largest {ratio.max():.2f}, {(ratio > 1.2).float().mean():.1%} over a cap of 1.2")
    assert abs(mean - 1) < 4 * error and ratio.max() > 1.2 and gaps(rollout)["most"] > .1
    capped = weighed(rollout, 1.2).advantages
    assert torch.allclose(capped, rollout.advantages * (rollout.old - rollout.engine).exp().clamp(max=1.2) * rollout.mask)
    engine.close()

def test_a_rank_above_the_servers_is_named(url, tmp_path):
    policy = moved(rank=32)
    with pytest.raises(Unserved, match="does not take the policy's adapter: .*--max-lora-rank of at least 32"): engine_at(url, policy, tmp_path).publish(policy, 0)

def test_another_model_is_named_and_nothing_is_lost(small, url, tmp_path):
    base = Policy.load(SAMPLES / "base")
    policy = Policy(add_lora(base.model, base.family, rank=4), base.coder)
    with pytest.raises(Unserved, match="serves other weights; serve the base that is trained"): engine_at(url, policy, tmp_path).greet(policy)

def test_a_bare_server_is_told_what_it_lacks(bare, tmp_path):
    policy = moved()
    engine, asked = engine_at(bare, policy, tmp_path), questions(policy.coder)
    with pytest.raises(Unserved, match="record 'greeting': the server saw .* tokens, ours are .*serve the folder with the template"): engine.greet(policy)
    with pytest.raises(Unserved, match="does not take the policy's adapter: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora") as e: engine.publish(policy, 0)
    told("a server without LoRA says", str(e.value).split(": ", 1)[1][:60])
    with pytest.raises(Unserved) as e: engine.served.rows([asked["clip"]], 1, 4)
    told("a server without --trust-request-mm-kwargs says", str(e.value).split(": ", 1)[1][:150])
    assert "trust-request-mm-kwargs" in str(e.value)

def test_a_server_that_dies_in_a_step_loses_no_finished_step(small, servers, tmp_path):
    "The last of all, since it ends the server."
    policy, server = fresh(), servers[0]
    engine = engine_at(server.url, policy, tmp_path)
    own, calls = engine.sample, []
    def dying(*given, **more):
        calls.append(1)
        if len(calls) == 2: threading.Timer(.2, server.kill).start() # while it samples
        return own(*given, **more)
    engine.sample = dying
    with pytest.raises(Unserved, match="step 1: the server at http://127.0.0.1:.*finished steps are kept") as e: learner(small, engine, tmp_path / "run", policy).run(quiet=True)
    told("a server killed in step 1", str(e.value)[:160])
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 1 and (tmp_path / "run/checkpoint.pt").exists()
    again = fresh()
    with running(PYTHON, TEACHER, tmp_path / "again.log", **RUNTIME) as new:
        told("seconds to another", f"{new.answers():.0f}")
        whole = learner(small, engine_at(new.url, again, tmp_path), tmp_path / "run", again)
        whole.run(quiet=True)
    assert [row["step"] for row in whole.rows] == [0, 1]
