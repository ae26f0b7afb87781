"A served model beside ours, and rollouts from a server: against a small server of vLLM's protocol; against a vLLM by `make engines`."
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from videop2r.engine.learner import Learner, Loaded
from videop2r.engine.remote import OpenAIChat
from videop2r.engine.served import Engine, Served, Unserved, as_samples, gaps, weighed
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora
from videop2r.rollout import collect
from videop2r.tools.cli import main
from videop2r.tools.check import check_served, questions
from test_family_model import make
from rl_child import RECIPE, SAMPLES, fresh, prepared, settings
from tiny_vllm import Tiny, serve

TEACHER = SAMPLES / "teacher"

def lines(path): return [json.loads(line) for line in Path(path).read_text().splitlines()]

def client(url, policy, model="", timeout=600): return Served(OpenAIChat(model, url, retries=0, timeout=timeout), policy.coder, vocab=policy.head.out_features)

@pytest.fixture(scope="module")
def small(tmp_path_factory): return prepared(tmp_path_factory.mktemp("media"), 3)

def test_a_server_of_the_same_weights_is_ours(capsys):
    with serve(Tiny(TEACHER)) as url:
        assert main(["check", str(TEACHER), "--server", url, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["model"] == "base" and done["good"] and [row["name"] for row in done["rows"]] == ["text", "image", "clip", "slow", "all"]
    assert all(row["gap"] < 1e-5 and not row["fault"] for row in done["rows"])
    assert all(row["same"] == row["answer"] for row in done["rows"])
    assert [row["rule"] for row in done["rows"]][3] == "ours" # where the two rules part

@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_5"])
def test_families_that_write_times_in_words(tmp_path, model_type):
    folder = make(tmp_path / "m", model_type)
    with serve(Tiny(folder)) as url: done = check_served(folder, url)
    assert done.good and not any(row.fault for row in done.rows) and max(row.gap for row in done.rows) < 1e-3

@pytest.mark.parametrize("how, name, said", [
    (dict(drop=2), "clip", "the server saw"), (dict(stock=True), "slow", "transformers"), (dict(folder=SAMPLES / "base"), "text", "gap")])
def test_a_server_that_differs_is_told_in_what(how, name, said):
    with serve(Tiny(**{"folder": TEACHER, **how})) as url: done = check_served(TEACHER, url)
    row = next(row for row in done.rows if row.name == name)
    assert not done.good and (said in row.fault or said == row.rule or said == "gap" and row.gap > .1)
    if "drop" in how: assert "'<|vision_end|>" in row.fault and row.tokens > 2

def test_a_server_that_takes_another_rate_is_told_by_its_numbers():
    with serve(Tiny(TEACHER, deaf=True)) as url: done = check_served(TEACHER, url)
    assert not done.good and {row.name: row.gap > .05 for row in done.rows}["slow"]

@pytest.mark.parametrize("model, said", [("other", "does not serve 'other', but base"), ("", "")])
def test_another_name_is_refused(model, said, capsys):
    with serve(Tiny(TEACHER)) as url:
        code = main(["check", str(TEACHER), "--server", url, *(["--model", model] if model else []), "--limit", "2"])
    assert code == (1 if model else 0) and said in capsys.readouterr().err

def test_no_server_is_named(capsys):
    assert main(["check", str(TEACHER), "--server", "http://127.0.0.1:9/v1", "--limit", "2"]) == 1
    assert "the server at http://127.0.0.1:9" in capsys.readouterr().err

def learner(small, engine, out, policy=None, **how):
    _, records, prompts, features = small
    policy = policy or fresh()
    data = Loaded(records, prompts, features, RECIPE.how)
    return Learner(policy, data, ORACLE, settings(prompts=2, g=3, slices=None, reference="base", **how), out, engine)

def engine_at(url, policy, out, timeout=600): return Engine(client(url, policy, timeout=timeout), out / "rollouts")

def test_a_run_by_a_server(small, tmp_path):
    policy, tiny = fresh(), Tiny(TEACHER)
    with serve(tiny) as url:
        run = learner(small, engine_at(url, policy, tmp_path), tmp_path / "run", policy, cap=2.)
        run.run(quiet=True)
    assert len(run.rows) == 2 and all(row["engine_gap_most"] < 1e-4 and row["drift"] < 1e-3 and row["grad_norm"] > 0 for row in run.rows)
    names = [name for what, name in tiny.log if what == "load"]
    assert len(set(names)) == 2 and not tiny.adapters # a name for each policy, and none is left
    assert [what for what, _ in tiny.log] == ["load", "load", "unload", "unload"] and not list((tmp_path / "rollouts").iterdir())
    asked = [body for body in tiny.bodies if body["model"] in names]
    allowed = set(range(policy.head.out_features)) - set(policy.coder.forbidden(policy.head.out_features))
    assert len(asked) == 4 and all(set(body["allowed_token_ids"]) == allowed and body["top_k"] == -1 and body["repetition_penalty"] == 1 for body in asked)
    assert len({body["seed"] for body in asked}) == 4
    assert all(body["media_io_kwargs"]["video"]["num_frames"] == 8 and body["mm_processor_kwargs"]["do_sample_frames"] is False for body in asked)

def test_seeds_give_the_same_samples_again(small, tmp_path):
    policy, (_, records, prompts, features) = fresh(), small
    with serve(Tiny(TEACHER)) as url:
        engine = engine_at(url, policy, tmp_path)
        engine.greet(policy)
        engine.publish(policy, 0)
        def texts(seed): return collect(policy, records, prompts, features, ORACLE, 3, RECIPE, 24, generator=[torch.Generator().manual_seed(seed + i) for i in range(3)], reference=None, engine=engine).texts
        first = texts(0)
        assert first == texts(0) != texts(5)

@pytest.mark.parametrize("how, said", [
    (dict(runtime=False), "404 .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"), (dict(max_rank=2), "LoRA rank 4 is greater than max_lora_rank 2.*--max-lora-rank of at least 4"),
    (dict(drop=2), "step 0: record .*the server saw .* tokens, ours are"), (dict(dies=4), "step 1: the server at http://127.0.0.1:.*finished steps are kept"),
    (dict(folder=SAMPLES / "base"), "serves other weights; serve the base that is trained")])
def test_a_server_that_cannot_is_named_and_nothing_is_lost(small, tmp_path, how, said):
    policy = fresh()
    with serve(Tiny(**{"folder": TEACHER, **how})) as url:
        run = learner(small, engine_at(url, policy, tmp_path), tmp_path / "run", policy)
        with pytest.raises(Unserved, match=said): run.run(quiet=True)
    if "dies" not in how: return
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 1 and (tmp_path / "run/checkpoint.pt").exists()
    again = fresh()
    with serve(Tiny(TEACHER)) as url: # the same command goes on
        whole = learner(small, engine_at(url, again, tmp_path), tmp_path / "run", again)
        whole.run(quiet=True)
    assert [row["step"] for row in whole.rows] == [0, 1]

def test_the_ratio_is_capped_and_a_factor_of_the_advantage(small, tmp_path):
    policy, (_, records, prompts, features) = fresh(), small
    rollout = collect(policy, records, prompts, features, ORACLE, 3, RECIPE, 24, generator=torch.Generator().manual_seed(0), reference=None)
    assert rollout.engine is None and weighed(rollout, 2.) is rollout and gaps(rollout) == {}
    apart = torch.linspace(-2, 2, rollout.old.numel()).view_as(rollout.old)
    rollout = replace(rollout, engine=rollout.old - apart)
    want = rollout.advantages * apart.exp().clamp(max=1.5) * rollout.mask
    assert torch.allclose(weighed(rollout, 1.5).advantages, want, atol=1e-6) and weighed(rollout, None) is rollout
    assert gaps(rollout)["most"] == pytest.approx((apart * rollout.mask).abs().max().item(), abs=1e-5)

def test_an_adapter_of_the_vision_tower_is_refused(tmp_path):
    base = Policy.load(TEACHER)
    policy = Policy(add_lora(base.model, base.family, rank=2, vision=True), base.coder)
    with pytest.raises(ValueError, match="trains the vision tower, which a vLLM leaves as it is"): Engine(client("http://127.0.0.1:9/v1", policy), tmp_path).publish(policy, 0)
