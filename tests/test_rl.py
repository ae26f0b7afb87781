"Rollouts, the loop on one and two processes, resume after a kill, and bad input that must not be trained on."
import json, os, signal, subprocess, sys, threading, time, warnings
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
import pytest, torch
from loopback import serve
from rl_child import SAMPLES, RECIPE, WORK, fresh, prepared, run, settings, weights_of
from videop2r.engine.findings import findings
from videop2r.health import Health
from videop2r.judge import ORACLE, Judge, Verdict, chat_judge
from videop2r.cot import SHORT
from videop2r.data import read_jsonl
from videop2r.engine.learner import Learner, Loaded, Media, is_best, train_rl
from videop2r.engine.media import Reader
from videop2r.loop import order_of, seeded, train as plain_train
from videop2r.model import Policy
from videop2r.engine.remote import OpenAIChat
from videop2r.recipe import RECIPES, Recipe
from videop2r.rollout import assign, collect, join, shuffled, take
from videop2r.tokens import collate
from videop2r.tools.launch import PRESETS, Preset, run_rl
from videop2r.tools.keyframes import ByQuestion
from videop2r.update import NotFinite, backward, describe
from storm import LONG, storm
from team import check_both, on_two

torch.set_num_threads(1)
CHILD = Path(__file__).parent / "rl_child.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parent.parent)}

@pytest.fixture(scope="module")
def given(tmp_path_factory): return prepared(tmp_path_factory.mktemp("media"))

@pytest.fixture
def model(): return fresh()

def rollout(given, model, judge=ORACLE, recipe=RECIPE, n=3, g=4, **kw):
    coder, records, prompts, features = given
    return collect(model, records[:n], prompts[:n], features[:n], judge, g, recipe, **{"limit": 48, "generator": torch.Generator().manual_seed(3), **kw})

# ---- what the loss gets

@pytest.mark.parametrize("temperature, top_p", ((1., 1.), (.7, .5), (1.3, .9)))
def test_old_logprobs_are_those_of_the_whole_distribution(given, model, temperature, top_p):
    coder, records, prompts, features = given
    r = rollout(given, model, temperature=temperature, top_p=top_p)
    examples = [replace(p, response=row[m].tolist()) for p, row, m in zip([p for p in prompts[:3] for _ in range(4)], r.ids, r.mask)]
    batch = collate(coder, examples)
    with torch.no_grad(): plain = model.logprobs(batch, [f for f in features[:3] for _ in range(4)], temperature)
    assert (plain - r.old).abs().max() < 1e-4

def test_a_missing_verdict_leaves_out_its_rollout_and_no_other(given, model):
    "The mean, deviation and gradient are those of the group without that rollout."
    r = rollout(given, model, n=1, g=6)
    lost = [None if v is None else v if i != 2 else Verdict(None, "busy") for i, v in enumerate(r.verdicts)]
    r.table.accuracy[:, 0] = torch.tensor([1., 0., float("nan"), 1., 0., 1.])
    r.table.format[:, 0], r.table.length[:, 0] = 1., 0.
    got, known = assign(replace(r, verdicts=lost), RECIPE), torch.tensor([2., 1., 2., 1., 2.])
    assert torch.allclose(got.advantage[[0, 1, 3, 4, 5], 0], (known - known.mean()) / (known.std() + 1e-4), atol=1e-5)
    own = got.masks[2, 0] & ~got.masks[2, 1]
    assert (got.weights[2][own] == 0).all() and describe(got)["missing_verdicts"] == 1 and (got.weights[2][got.masks[2, 1] & ~own] > 0).all()

def test_truncated_responses_are_counted_and_masked_where_wanted(given, model):
    cut = dict(limit=16)
    keep, mask = rollout(given, model, **cut), rollout(given, model, recipe=replace(RECIPE, overlong="mask"), **cut)
    assert keep.truncated.all() and describe(keep)["truncated"] == 1. and keep.weights.sum() > 0
    assert mask.weights.sum() == 0 and torch.equal(mask.advantage, keep.advantage)

@pytest.mark.parametrize("recipe", (dict(form="video-r1"), dict(advantage="dr_grpo"), dict(advantage="rloo"), dict(advantage="dapo"), dict(owner="reasoning"), dict(owner="nobody"),
                                    dict(tags=False), dict(weights="batch"), dict(weights="response"), dict(missing=0.), dict(accuracy=.5, format=0., length=0.), dict(credit="no_separation"), dict(credit=[[1, .5], [0, 1]]), dict(bounds="dynamic")))
def test_every_switch_trains(given, model, recipe):
    r = rollout(given, model, recipe=replace(RECIPE, **recipe))
    metrics = backward(model, given[2][:3], given[3][:3], r, settings())
    assert all(map(torch.isfinite, map(torch.tensor, metrics.values()))) and (r.advantages[~r.mask] == 0).all()

def test_shuffled_frames_earn_video_r1s_bonus(given, model):
    coder, records, prompts, _ = given
    videos = [i for i, p in enumerate(prompts) if p.visual.kind == "video"][:2]
    v = prompts[videos[0]].visual
    still = replace(v, kind="image")
    assert shuffled(still, coder.family) is still
    mixed = shuffled(v, coder.family, torch.Generator().manual_seed(1))
    assert not torch.equal(mixed.patches, v.patches) and torch.equal(mixed.patches.flatten().sort()[0], v.patches.flatten().sort()[0])
    r = rollout(given, model, recipe=replace(RECIPE, credit="grpo", shuffled=2), n=4)
    assert set(r.extra.unique().tolist()) <= {0., torch.tensor(.3).item()} and torch.equal(r.table.total()[:, 1] - r.extra, (r.table.accuracy + r.table.format + r.table.length)[:, 1])

def test_rollouts_are_cut_and_joined_by_groups(given, model):
    r = rollout(given, model)
    again = assign(join([take(r, [0]), take(r, [1, 2])]), RECIPE)
    assert again.texts == r.texts and torch.equal(again.advantages, r.advantages) and again.records == r.records
    assert take(r, [2]).texts == r.texts[8:]

def test_the_step_in_one_cell_is_the_step_of_the_loop(given, model):
    "The lesson's own cell, run as it stands, has the gradient of `collect` and `backward` for the same luck."
    coder, records, prompts, features = given
    cells = json.loads((CHILD.parent.parent / "nbs/3_training/5_rollout.ipynb").read_text())["cells"]
    source, = ["".join(c["source"]) for c in cells if "policy.sample_plainly(" in "".join(c["source"])]
    assert len(source.splitlines()) <= 40
    names = {}
    for c in cells:
        lines = "".join(c["source"])
        if c["cell_type"] == "code" and "\nimport " in "\n" + lines: exec(lines, names)
        if "policy.sample_plainly(" in lines: break
    names.update(policy=model, record=records[0], prompt=prompts[0])
    exec(source, names)
    one, other = names["gradient"], fresh()
    how = dict(limit=56, generator=[torch.Generator().manual_seed(3)], reference=None)
    whole = collect(other, records[:1], prompts[:1], features[:1], ORACLE, 4, names["recipe"], **how)
    assert whole.texts == [coder.text(row) for row in names["rows"]]
    backward(other, prompts[:1], features[:1], whole, settings(recipe=names["recipe"], beta=0., temperature=1.))
    got = [p.grad for p in other.model.parameters() if p.grad is not None]
    size = sum(x.norm() for x in one)
    assert size > 0 and len(one) == len(got) and sum((x - y).norm() for x, y in zip(one, got)) < 1e-4 * size

# ---- judges

def test_verdicts_do_not_depend_on_threads(given, model):
    def moody(record, observation):
        time.sleep(len(observation) % 7 / 200)
        return Verdict(len(observation) % 3 > 0, observation)
    one, many = (rollout(given, model, Judge(moody), slices=1, workers=n) for n in (0, 6))
    assert one.texts == many.texts and one.verdicts == many.verdicts and torch.equal(one.advantages, many.advantages)

def test_a_judge_that_hangs_is_not_waited_for(given, model):
    end = threading.Event()
    r = rollout(given, model, Judge(lambda *a: end.wait()), workers=2, patience=.2)
    asked = [v for v in r.verdicts if v]
    end.set()
    assert asked and all(v.yes is None and "within 0.2 s" in v.reason for v in asked)

def test_an_error_of_a_judge_is_not_swallowed(given, model):
    def broken(record, observation): raise KeyError("a fault of the judge's code")
    for workers in (0, 2):
        with pytest.raises(KeyError, match="fault"): rollout(given, model, Judge(broken), workers=workers)

def test_a_judge_behind_a_server_is_asked_meanwhile(given, model):
    inside, three = [], threading.Event()
    def answer(body):
        "Nobody is answered before three have asked."
        inside.append(body)
        if len(inside) >= 3: three.set()
        three.wait(600)
        return "It says so.\n<judgement>Yes</judgement>"
    with serve(answer) as s: r = rollout(given, model, chat_judge(OpenAIChat("m", s.url + "/v1", timeout=600)), workers=12, slices=1)
    asked = [v for v in r.verdicts if v]
    assert three.is_set() and len(asked) > 2 and all(v.yes for v in asked)

# ---- machines

@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    "Folders of what one process and two did: a gradient of given rollouts, and in a storm a whole run."
    one, two = (tmp_path_factory.mktemp(n) for n in ("one", "two"))
    work = "both" if LONG else "grads"
    check_both(on_two([sys.executable, CHILD, work, two], ENV))
    WORK[work](one)
    return one, two

def test_two_processes_have_one_processs_gradients(shares):
    one, two = (torch.load(f / "grads.pt") for f in shares)
    for how in one: assert one[how].norm() > 0 and ((one[how] - two[how]).norm() / one[how].norm()) < 1e-5, how

@storm # test_ranks has the command in two processes
def test_a_run_on_two_processes_is_the_run_on_one(shares):
    rows = [[json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in shares]
    assert len(rows[0]) == len(rows[1]) == 2 and (shares[1] / "last" / "adapter_config.json").exists()
    for a, b in zip(*rows):
        assert a.keys() == b.keys()
        for k in a: assert k.startswith(("seconds", "memory")) or a[k] == pytest.approx(b[k], rel=2e-3, abs=1e-5, nan_ok=True), k
    one, two = (torch.load(f / "weights.pt") for f in shares)
    gaps = torch.cat([(one[k] - two[k]).abs().flatten() for k in one])
    # Adam moves a weight by the sign of its gradient, so the few whose gradient is all but 0 may part
    assert gaps.mean() < 2e-6 and gaps.max() < 5e-4

def test_rollouts_depend_neither_on_slices_nor_on_ranks(given, model):
    "All at once, slices of one and of two, and the share of each of two ranks."
    for recipe in (RECIPE, replace(RECIPE, credit="grpo", shuffled=2)):
        def drawn(indices, slices):
            columns = [[column[i] for i in indices] for column in given[1:]]
            seeds = [seeded(0, 3, record, i) for i, record in zip(indices, columns[0])]
            return collect(model, *columns, ORACLE, 4, recipe, limit=48, slices=slices, generator=seeds)
        whole = drawn(range(5), None)
        for slices in (1, 2):
            other = drawn(range(5), slices)
            assert other.texts == whole.texts and torch.allclose(other.advantages, whole.advantages, atol=1e-5) and torch.allclose(other.old, whole.old, atol=1e-4)
            assert not recipe.shuffled or torch.equal(other.extra, whole.extra)
        for rank in (0, 1):
            mine = list(range(5))[rank::2]
            assert drawn(mine, None).texts == take(whole, mine).texts
    first, again = (seeded(0, 3, given[1][0], place).initial_seed() for place in (0, 6))
    assert first != again

# ---- interruptions

@storm # test_kills stops it at writes
def test_a_run_killed_at_any_moment_ends_in_the_same_weights(tmp_path):
    run(tmp_path / "whole", steps=5)
    p = subprocess.Popen([sys.executable, str(CHILD), "slow", str(tmp_path / "killed")], env=ENV, stderr=subprocess.DEVNULL)
    written = tmp_path / "killed" / "metrics.jsonl"
    while p.poll() is None and not (written.exists() and written.read_bytes().count(b"\n") >= 3): time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    assert p.wait() == -signal.SIGKILL
    run(tmp_path / "killed", steps=5)
    one, two = (torch.load(tmp_path / n / "weights.pt") for n in ("whole", "killed"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    steps = [json.loads(x)["step"] for x in written.read_text().splitlines()]
    assert steps == list(range(5))

def train(given, model, out=None, judge=ORACLE, hook=None, **kw):
    coder, records, prompts, features = given
    return train_rl(model, records, prompts, features, judge, settings(**kw), out, quiet=True, hook=hook)

def test_ctrl_c_keeps_every_finished_step_and_other_settings_are_refused(tmp_path, given):
    def stop(step, row, r):
        if step == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(given, fresh(), tmp_path, hook=stop, steps=4, save_every=10)
    assert len(torch.load(tmp_path / "checkpoint.pt")["rows"]) == 2
    with pytest.raises(ValueError, match="beta was 0.02, now 0.5"): train(given, fresh(), tmp_path, steps=4, beta=.5)
    with pytest.raises(ValueError, match="records was"): train([given[0], *(x[1:] for x in given[1:])], fresh(), tmp_path, steps=4)
    rows = train(given, fresh(), tmp_path, steps=3, micro=1) # what only costs time or memory may change
    whole = train(given, fresh(), steps=3)
    assert [r["loss"] for r in rows[:2]] == [r["loss"] for r in whole[:2]] and [r["step"] for r in rows] == [0, 1, 2]

def test_a_folder_in_use_is_refused(tmp_path, given):
    from filelock import FileLock
    tmp_path.mkdir(exist_ok=True)
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(RuntimeError, match="another process is at work in this folder"): train(given, fresh(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()

def test_another_base_is_refused(tmp_path, given):
    from videop2r.model import add_lora
    from rl_child import SAMPLES
    train(given, fresh(), tmp_path, steps=1)
    base = Policy.load(SAMPLES / "base")
    other = Policy(add_lora(base.model, base.family, rank=4), base.coder)
    with pytest.raises(ValueError, match="base was teacher .*, now base "): train(given, other, tmp_path, steps=2, reference="base")

@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_sigterm_finishes_the_step(tmp_path, given):
    def stop(step, row, r):
        if step == 1: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt): train(given, fresh(), tmp_path, hook=stop, steps=5, save_every=10)
    assert len(torch.load(tmp_path / "checkpoint.pt")["rows"]) == 2 and (tmp_path / "last" / "adapter_config.json").exists()

@pytest.mark.parametrize("beta", (0., .02))
def test_the_lessons_loop_is_the_run_that_survives(given, beta):
    one, two, own = fresh(), fresh(), dict(steps=3, slices=None, micro=2, beta=beta)
    plain, kept = plain_train(one, *given[1:], ORACLE, settings(**own)), train(given, two, **own)
    for a, b in zip(plain, kept): assert all(a[k] == b[k] or a[k] != a[k] for k in a)
    assert all(torch.equal(w, weights_of(two.model)[k]) for k, w in weights_of(one.model).items())

def test_adapters_are_plain_peft(tmp_path, given, model):
    from peft import PeftModel
    from videop2r.model import load
    from rl_child import SAMPLES
    train(given, model, tmp_path, save_every=1)
    for name in ("last", "best"): assert "Settings:" in (tmp_path / name / "README.md").read_text()
    plain = dict(PeftModel.from_pretrained(load(SAMPLES / "teacher"), str(tmp_path / "last")).named_parameters())
    for n, w in weights_of(model.model).items(): assert torch.equal(plain[n.replace(".policy.", ".default.")], w)

def test_best_is_the_window_with_the_highest_reward():
    rows = [dict(reward_perception=p, reward_reasoning=1.) for p in (1, 1, 2, 2, 1.5, 1.5, 3, 3)]
    assert [is_best(rows[:n], 2) for n in (2, 3, 4, 6, 8)] == [True, False, True, False, True]
    one = dict(reward_perception=1.9, reward_reasoning=1.9)
    for lost in (dict(reward_perception=float("nan"), reward_reasoning=2.), dict(skipped="no group has a signal"), dict(one, reward_perception=float("nan"))):
        rows = [one, one, lost, dict(reward_perception=.1, reward_reasoning=0.), lost, lost, dict(one, reward_perception=1.95), lost]
        assert [is_best(rows[:n], 2) for n in (2, 4, 6, 8)] == [True, False, False, True]
    alone = [dict(reward_reasoning=r) for r in (1., 2., 3., 2.)] # no judge was asked
    assert [is_best(alone[:n], 1) for n in (1, 2, 3, 4)] == [True, True, True, False]

def test_two_records_of_one_id_are_two_and_a_bad_one_costs_itself(given, model):
    _, records, prompts, features = given
    twins = [replace(r, problem_id="1") for r in records[:3]]
    twins[0] = replace(twins[0], solution="<answer></answer>", answer="")
    data = Loaded(twins, prompts[:3], features[:3], "lenient")
    assert [r.problem_id for r in data.records] == ["1 (2)", "1 (3)"] and [bad["where"] for bad in data.bad] == ["1"]
    assert len(data.prompts) == 2 and data.prompts[0] is prompts[1]

def test_what_diverged_replaces_no_checkpoint_and_the_run_goes_on_at_a_lower_rate(tmp_path, given):
    def spoil(step, row, rollout):
        if step == 1:
            with torch.no_grad(): next(p for n, p in model.model.named_parameters() if "lora_B.policy" in n).fill_(float("nan"))
    model = fresh()
    with pytest.raises(NotFinite, match="lower the learning rate"): train(given, model, tmp_path, steps=3, save_every=1, hook=spoil)
    assert len(torch.load(tmp_path / "checkpoint.pt")["rows"]) == 1
    assert len(train(given, fresh(), tmp_path, steps=3, save_every=1, lr=1e-5)) == 3
    with pytest.raises(ValueError, match="settings differ: judge was oracle, now other"):
        train(given, fresh(), tmp_path, steps=3, save_every=1, lr=1e-5, judge=replace(ORACLE, name="other"))

def test_what_dropped_groups_cost_is_counted(given, model):
    asked = []
    def paid(record, text):
        asked.append(record.problem_id)
        return Verdict(True, "yes", 1.)
    rows = train(given, model, judge=Judge(paid, "paid"), steps=1, refill=2)
    assert rows[0]["asked"] == rows[0]["dollars"] == len(asked) > 0

def test_rows_go_to_trackers_and_files_as_they_come(tmp_path, given, model):
    seen = []
    train(given, model, tmp_path, hook=lambda step, row, r: seen.append((tmp_path / "metrics.jsonl").read_text().count("\n")), trackers=("tensorboard",))
    assert seen == [1, 2] and list(tmp_path.rglob("events.out.tfevents*"))
    row, each = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]), "accuracy format length reward reward_std zero_variance tokens coverage kl entropy clip_share".split()
    assert {f"{k}_{p}" for k in each for p in ("perception", "reasoning")} | {f"seconds_{k}" for k in ("sampling", "judge", "reference", "update")} <= row.keys()
    assert {"drift", "truncated", "missing_verdicts", "two_spans", "grad_norm", "loss"} <= row.keys()

# ---- refill

def test_groups_without_a_signal_are_dropped_and_refilled(given, model):
    first = train(given, model, steps=1, refill=0, g=2)[0]
    row = train(given, fresh(), steps=1, refill=3, g=2, temperature=.5)[0]
    assert first["dropped"] == 0 and first["drawn"] == 4 and 0 < row["dropped"] and row["drawn"] == row["dropped"] + row["groups"] and 1 <= row["groups"] <= 4
    assert min(row["zero_variance_perception"], row["zero_variance_reasoning"]) < 1

# ---- bad input: named, and not trained on

def untouched(model, before): return all(torch.equal(w, before[n]) for n, w in weights_of(model.model).items())

def test_a_group_of_one(given, model):
    with pytest.raises(ValueError, match="at least 2"): train(given, model, g=1)

def test_all_rewards_equal(given, model):
    "No gradient but KL's; with refill the step is not applied and the run stops with the reason."
    same = replace(RECIPE, accuracy=0., format=0., length=0.)
    r = rollout(given, model, recipe=same)
    assert r.flat.all() and (r.advantages == 0).all() and {f.kind for f in findings(r.credited, r.masks, 4)} >= {"flat"}
    assert [f.kind for f in Health([dict(describe(r), step=0)]).findings][0] == "all rewards equal"
    before = weights_of(model.model)
    with pytest.raises(RuntimeError, match="not applied: no group has a signal"): train(given, model, recipe=same, refill=1, steps=5)
    assert untouched(model, before)

def test_a_completion_of_no_tokens(given, model):
    "It weighs nothing, and is counted and named."
    r = rollout(given, model)
    gone = replace(r, mask=r.mask.clone(), masks=r.masks.clone(), texts=["", *r.texts[1:]])
    gone.mask[0], gone.masks[0] = False, False
    gone = assign(gone, RECIPE)
    metrics = backward(model, given[2][:3], given[3][:3], gone, settings())
    assert gone.weights[0].sum() == 0 and all(torch.isfinite(torch.tensor(v)) for v in metrics.values())
    row = dict(describe(gone), step=0, **metrics)
    assert row["empty"] == 1 and "empty responses" in {f.kind for f in Health([row]).findings}

def test_a_reward_that_falls_and_flat_groups_at_the_end_are_found_in_a_run_of_four_steps():
    seen = [(1.97, .5), (1.82, .5), (1.6, .75), (1.38, 1.)]
    rows = [dict(step=i, reward_perception=x, zero_variance_perception=flat, reward_reasoning=1.5, zero_variance_reasoning=.2) for i, (x, flat) in enumerate(seen)]
    found = {f.kind: f.what for f in Health(rows).findings}
    assert found.keys() == {"reward falls", "all rewards equal"} and "fell from 1.97 to 1.38" in found["reward falls"] and "last step" in found["all rewards equal"]
    assert Health([dict(r, reward_perception=1.9 + .05 * (i % 2), zero_variance_perception=.3) for i, r in enumerate(rows * 10)]).findings == []

def test_any_matrix_makes_a_recipe():
    half, again = (Recipe(credit=m, bounds="dynamic") for m in ([[1, .5], [0, 1]], ((1., .5), (0., 1.))))
    assert half == again and hash(half) == hash(again) and Recipe(**json.loads(json.dumps(asdict(half)))) == half
    for wrong in ([[1, 0]], [1, 0], "ppo", None, [[1, 0], [0, float("nan")]], [["a", 0], [0, 1]], [[1, 0, 0], [0, 1, 0]]):
        with pytest.raises(ValueError, match="recipe: credit is .* or 2 × 2 numbers"): Recipe(credit=wrong)

def test_no_observation_in_any_rollout(given, model):
    "Both processes own every token; said by findings, metrics and panel."
    r = rollout(given, model, limit=6)
    assert (r.masks[:, 0] == r.masks[:, 1]).all() and describe(r)["two_spans"] == 0. and all(v is None for v in r.verdicts)
    assert {f.kind for f in findings(r.credited, r.masks, 4)} >= {"no observation"} and "no observation" in {f.kind for f in Health([dict(describe(r), step=0)]).findings}

def silent(record, observation): raise TimeoutError("no answer in 30 s")

def test_a_judge_that_never_answers(given, model, tmp_path):
    rows = []
    with pytest.raises(RuntimeError, match="steps 0 to 2: the judge gave no verdict.*no answer in 30 s"):
        train(given, model, tmp_path, Judge(silent), hook=lambda step, row, r: rows.append((row, r)), steps=9)
    assert len(rows) == 3 and "judge is silent" in {f.kind for f in Health([row for row, _ in rows]).findings} and (tmp_path / "checkpoint.pt").exists()
    for _, r in rows:
        asked = torch.tensor([v is not None for v in r.verdicts])
        assert (r.weights[asked][(r.masks[:, 0] & ~r.masks[:, 1])[asked]] == 0).all()

def test_grpo_needs_no_verdict(given, model):
    assert len(train(given, model, judge=Judge(silent), recipe=replace(RECIPE, credit="grpo"), steps=4)) == 4

def test_nan_in_a_log_probability(given, model, monkeypatch):
    "The step is not applied and says why; after three in a row the run stops."
    true, before = Policy.token_logprobs, weights_of(model.model)
    def spoiled(*a, **kw):
        logp, entropy = true(*a, **kw)
        return torch.where(torch.arange(logp.shape[1]) == 1, float("nan"), logp), entropy
    monkeypatch.setattr(Policy, "token_logprobs", spoiled)
    rows = []
    with pytest.raises(RuntimeError, match="not applied: log-probabilities of a response to record .* not finite"):
        train(given, model, hook=lambda step, row, r: rows.append(row), steps=9)
    assert untouched(model, before) and len(rows) == 3 and all("skipped" in r for r in rows) and "steps not applied" in {f.kind for f in Health(rows).findings}

def test_a_reference_that_is_not_finite_is_named_too(given, model):
    r = rollout(given, model)
    r.ref[0, 0] = float("inf")
    with pytest.raises(ValueError, match="ref is not finite"): backward(model, given[2][:3], given[3][:3], r, settings())

def test_broken_weights_are_named(given, model):
    with torch.no_grad(): next(p for n, p in model.model.named_parameters() if "lora_B.policy" in n).fill_(float("nan"))
    with pytest.raises(NotFinite, match="probabilities are not finite"): train(given, model)

def test_drift_is_warned_of(given, model):
    learner = Learner(model, Loaded(*given[1:], "lenient"), ORACLE, settings())
    learner.folder.rows = [dict(step=0, drift=.2)]
    with pytest.warns(UserWarning, match="step 0.*differ by 0.200 nats"): learner.check(None)

def test_a_truth_that_cannot_be_read_never_kills_a_run(given, model, tmp_path):
    coder, records, prompts, features = given
    bad = [replace(records[0], problem_id="broken", problem_type="numerical", options=[], solution="<answer>many</answer>", answer="many"), *records[1:]]
    with pytest.warns(UserWarning, match="1 records were left out: broken.*many"): rows = train((coder, bad, prompts, features), model, tmp_path)
    assert rows[-1]["quarantined"] == 1 and json.loads((tmp_path / "quarantine.jsonl").read_text())["where"] == "broken"
    with pytest.raises(ValueError, match="no record to train on: 1 are in quarantine"): train((coder, bad[:1], prompts[:1], features[:1]), model)

# ---- from files

def test_every_preset_with_every_recipe():
    for p in PRESETS:
        for r in RECIPES: assert Preset.named(p, r, steps=7).rl.steps == 7

def test_run_from_files_leaves_out_what_does_not_open(tmp_path):
    from rl_child import SAMPLES
    from videop2r.data import read_records, write_jsonl
    records = list(read_records(SAMPLES / "train.jsonl"))[:4]
    write_jsonl([*records, replace(records[0], problem_id="lost", path="clips/none.mp4")], tmp_path / "r.jsonl")
    kw = dict(prompts=5, steps=1, g=2, limit=40, quiet=True)
    with pytest.warns(UserWarning, match="lost"): done = run_rl(tmp_path / "r.jsonl", SAMPLES, SAMPLES / "teacher", None, "base", tmp_path / "out", "tiny", **kw)
    assert [b["where"] for b in done.quarantine] == ["lost"] and done.rows[0]["groups"] == 5 and "left out: lost" in done._repr_markdown_()
    with pytest.raises(ValueError, match="g was 2, now 3"): run_rl(tmp_path / "r.jsonl", SAMPLES, SAMPLES / "teacher", None, "base", tmp_path / "out", "tiny", **dict(kw, g=3))
    with pytest.raises(ValueError, match="holds no checkpoint"): run_rl(tmp_path / "r.jsonl", SAMPLES, SAMPLES / "teacher", None, "base", tmp_path / "none", "tiny", resume=True, **kw)
    with pytest.raises(ValueError, match="adapter_config.json"): run_rl(tmp_path / "r.jsonl", SAMPLES, SAMPLES / "teacher", tmp_path, "oracle", tmp_path / "o", "tiny", **kw)

# ---- what is read while a step is at work

class Slow(Reader):
    "Notes when each medium is read, and may fail."
    def visual(self, record, family):
        self.log.append(record.problem_id)
        if record.problem_id in self.lost: raise ValueError(f"{record.problem_id} is damaged")
        return Reader.visual(self, record, family)

def by_media(lost=(), sampler=None, steps=3):
    policy, records = fresh(), read_jsonl(SAMPLES / "train.jsonl")[:8]
    reader = Slow(SAMPLES, 4, **(dict(sampler=sampler(policy)) if sampler else {}))
    reader.log, reader.lost, said = [], set(lost), []
    learner = Learner(policy, Media(records, reader, policy, "faithful", SHORT), ORACLE, settings(steps=steps, prompts=2, slices=None, beta=0.))
    with warnings.catch_warnings(action="ignore"): learner.run(quiet=True, hook=lambda step, row, rollout: said.append(sorted(set(reader.log))))
    return learner, reader.log, said

def test_the_next_step_s_media_are_read_while_one_is_at_work():
    learner, log, said = by_media()
    order = [learner.data.records[i].problem_id for i in islice(order_of(8, learner.settings.seed), 8)]
    for step in range(3): assert {*order[:2 * step + 2]} <= {*said[step]} <= {*order[:2 * step + 4]}
    assert said[1] != sorted(order[:4]) or said[2] != sorted(order[:6]) # some of the next step's too
    assert len(log) == len(set(log)) # none twice

def test_what_is_read_ahead_is_what_is_read_at_once(monkeypatch):
    want = by_media()[0]
    monkeypatch.setattr(Media, "soon", lambda self, indices: None)
    got = by_media()[0]
    for a, b in zip(want.rows, got.rows): assert all(a[k] == b[k] for k in a if not k.startswith(("seconds", "memory")))

def test_a_lost_medium_is_drawn_past_and_named_though_it_was_read_ahead():
    first = [r.problem_id for r in read_jsonl(SAMPLES / "train.jsonl")[:8]]
    learner, log, _ = by_media(lost=first[:3])
    assert learner.folder.bad and {bad["where"] for bad in learner.folder.bad} <= set(first[:3]) and len(learner.rows) == 3 and all(row["groups"] for row in learner.rows)

def test_a_sampler_that_asks_the_policy_is_not_run_beside_it():
    learner, log, said = by_media(sampler=lambda policy: ByQuestion(policy, SHORT, 2, name="tiny"), steps=2)
    assert [len(each) for each in said] == [2, 4] and not learner.data.waiting

# ---- a fault in one of two processes

FAILING = """
import sys, torch
from accelerate import PartialState
PartialState(cpu=True)
from videop2r.engine.runs import Team
team = Team()
def work():
    if team.rank == 1: raise OSError(5, "Input/output error", "a.mp4")
    return "mine"
try: print(team.together(work))
except Exception as e: print(f"{team.rank}: {type(e).__name__}: {e}"); sys.exit(3)
"""

@storm # test_ranks has faults of each kind
def test_a_fault_in_one_process_ends_all_and_names_itself(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    both = on_two([sys.executable, tmp_path / "failing.py"], ENV)
    said = [end.stdout for end in both]
    assert [end.returncode for end in both] == [3, 3] and "1: OSError" in said[1] and "a.mp4" in said[1]
    assert "another process failed, so this one ends too: process 2, before the first step: OSError" in said[0]
