"The analyses' statistics against brute force, closed forms and other libraries, and what half-written folders say."
import gzip, json, math, random, shutil
from dataclasses import make_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from videop2r.advantages import zero_variance
from videop2r.analysis import (ChatReader, JudgeErrors, agreement, by_group, collapse, concluded, newcombe,
                               over_steps, shown_interval, told_apart)
from videop2r.data import Record
from videop2r.engine.findings import findings
from videop2r.engine.outcomes import ArmRun, arm_of, outcomes, rows_in
from videop2r.engine.remote import Reply
from videop2r.evaluate import wilson
from videop2r.judge import Judge, Verdict
from videop2r.reliance import Calibration, auc, by_length, longer_suffices, resampled

STORED = Path(__file__).resolve().parents[1] / "nbs" / "4_evidence" / "demo" / "whole"

def step(i, rewards, g):
    "A step's row and findings from rewards (p, g, 2), as a run writes them."
    flat = zero_variance(rewards).float().mean(0)
    masks = torch.eye(2, dtype=torch.bool).expand(rewards.shape[0] * g, 2, 2)
    said = [f"record 'q{f.group}', {f.process}: {f.what}" for f in findings(rewards.flatten(0, 1), masks, g)]
    return dict(step=i, groups=len(rewards), zero_variance_perception=flat[0].item(), zero_variance_reasoning=flat[1].item()), dict(step=i, findings=said)

@pytest.mark.parametrize("seed", range(5))
def test_lost_groups_are_those_of_a_loop_over_rewards(seed):
    torch.manual_seed(seed)
    steps = [torch.randint(0, 2, (16, 3, 2)).float() for _ in range(12)]
    rows, said = zip(*(step(i, rewards, 3) for i, rewards in enumerate(steps)))
    found = collapse(ArmRun("r", "pagrpo", Path("."), steps=list(rows), findings=list(said)))
    for i, rewards in enumerate(steps):
        flat = [[len(set(group[:, k].tolist())) == 1 for k in (0, 1)] for group in rewards]
        assert found["both"][i] == pytest.approx(np.mean([all(f) for f in flat]))
        assert found["perception"][i] == pytest.approx(np.mean([f[0] for f in flat]))

def test_a_record_drawn_twice_in_a_step_counts_twice():
    what = "all 8 known rewards are 2.2, so only KL trains it"
    said = [f"record 'a', {p}: {what}" for p in ("perception", "reasoning") * 2] + [f"record \"b's\", perception: {what}"]
    row = dict(step=0, groups=4, zero_variance_perception=.75, zero_variance_reasoning=.5)
    assert collapse(ArmRun("r", "pagrpo", Path("."), [row], findings=[dict(step=0, findings=said)]))["both"].tolist() == [.5]

def test_blocks_of_one_are_the_ordinary_bootstrap_and_longer_ones_are_wider_on_drifting_steps():
    values = np.random.default_rng(0).normal(0, 1, 400)
    one = over_steps(values, 1, n=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert one["mean"] - one["lo"] == pytest.approx(half, rel=.08) and one["hi"] - one["mean"] == pytest.approx(half, rel=.08)
    walk = np.cumsum(values[:100])
    width = lambda found: found["hi"] - found["lo"]
    assert width(over_steps(walk, 10)) > 1.8 * width(over_steps(walk, 1))
    assert over_steps([.5] * 7, 50) == dict(mean=.5, lo=.5, hi=.5, n=7)

@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_scikit_learns(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(seed)
    a = [rng.random() < .2 for _ in range(200)]
    b = [x if rng.random() < .8 else rng.random() < .2 for x in a]
    def kappa(*sides): return agreement(*([dict(problem_id=i, differs=each) for i, each in enumerate(side)] for side in sides))["kappa"]
    assert kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b))
    assert math.isnan(kappa([1, 1], [1, 1])) and math.isnan(kappa([], []))

@pytest.mark.parametrize("seed", range(4))
def test_auc_is_a_loop_over_pairs_and_scikit_learns(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores, labels, strata = rng.integers(0, 6, 80), rng.random(80) < .4, rng.integers(0, 3, 80)
    def loop(within):
        pairs = [(scores[i], scores[j]) for i in range(80) for j in range(80) if labels[i] and not labels[j] and (not within or strata[i] == strata[j])]
        return sum((a > b) + .5 * (a == b) for a, b in pairs) / len(pairs)
    assert auc(scores, labels) == pytest.approx(loop(False)) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert auc(scores, labels, strata) == pytest.approx(loop(True))
    assert math.isnan(auc([1, 2], [True, True]))

def test_newcombe_at_his_own_examples():
    "Newcombe 1998, table II, method 10: 56/70 and 48/80; 9/10 and 3/10; 10/10 and 0/20."
    for (k, n, j, m), (low, high) in {(48, 80, 56, 70): (.0524, .3339), (3, 10, 9, 10): (.1705, .8090), (0, 20, 10, 10): (.6791, 1.)}.items():
        found = newcombe(k, n, j, m)
        assert (found["lo"], found["hi"]) == pytest.approx((low, high), abs=2e-4)

def test_a_judges_errors_are_counted_by_their_direction():
    cases = [(i, "x", label) for i, label in enumerate([1, 1, 1, 1, 0, 0, 0, 0, 1])]
    said = {0: True, 1: True, 2: True, 3: False, 4: True, 5: False, 6: False, 7: False, 8: None}
    found = JudgeErrors.of(Judge(lambda record, text: Verdict(said[record])), cases)
    assert (found.figures()["agrees"]["mean"], found.missing, found.signal) == (6 / 8, 1, 1 - .25 - .25)
    low, high = wilson(1, 4)
    assert found.figures()["false_yes"] == dict(mean=.25, lo=pytest.approx(low), hi=pytest.approx(high), n=4)
    always = JudgeErrors.of(Judge(lambda *given: Verdict(True)), cases)
    assert always.signal == 0 and math.isnan(JudgeErrors.of(Judge(lambda *given: Verdict(True)), cases[:2]).signal)

def test_youdens_j_is_the_reward_that_is_left():
    rng = random.Random(0)
    labels = [rng.random() < .5 for _ in range(20_000)]
    said = [(rng.random() > .1) if label else (rng.random() < .3) for label in labels]
    found = JudgeErrors.of(Judge(lambda record, text: Verdict(said[record])), [(i, "x", label) for i, label in enumerate(labels)])
    gap = np.mean([s for s, l in zip(said, labels) if l]) - np.mean([s for s, l in zip(said, labels) if not l])
    assert found.signal == pytest.approx(gap) and found.signal == pytest.approx(.6, abs=.02)

def test_calibration_against_its_definition():
    rng = np.random.default_rng(0)
    chances = rng.random(4000)
    found = Calibration(chances, rng.random(4000) < chances)
    assert found.error() < .04 and found.brier == pytest.approx(1 / 6, abs=.01) and found.constant == pytest.approx(.25, abs=.01)
    bad = Calibration(np.full(100, .9), np.arange(100) < 40)
    assert (bad.error(), bad.brier) == (pytest.approx(.5), pytest.approx(.4 * .01 + .6 * .81))
    assert sum(each["n"] for each in found.bins()) == 4000 and Calibration(np.array([1.]), np.array([True])).bins()[0]["n"] == 1

def test_resampled_means_have_the_normal_interval():
    values = np.random.default_rng(1).normal(0, 1, 300)
    found = resampled(np.mean, values, n=2000)
    assert found["hi"] - found["lo"] == pytest.approx(2 * 1.96 * values.std() / math.sqrt(300), rel=.08)

def row(words, verdict): return dict(output=f"<observation>{'word ' * words}</observation> <think>t</think><answer>a</answer>", sufficient=verdict)

def test_lengths_are_binned_whole_and_compared_within_strata():
    rows = [row(n, n % 2 == 0) for n in range(10, 40)] + [row(5, None)]
    bins = by_length(rows, 4)
    assert sum(each["n"] for each in bins) == 30 and bins[0]["low"] == 10 and bins[-1]["high"] == 39
    assert all(a["high"] + 1 == b["low"] for a, b in zip(bins, bins[1:]))
    for n, k in ((120, 6), (7, 6), (2, 6), (1, 6)):
        found = by_length([row(i + 1, True) for i in range(n)], k)
        assert len(found) <= min(n, k) and sum(each["n"] for each in found) == n and max(each["n"] for each in found) <= n / k + 2
    easy, hard = [row(10 + i % 3, True) for i in range(20)] + [row(10, False)] * 3, [row(30 + i % 3, False) for i in range(20)] + [row(30, True)] * 3
    strata = [1] * len(easy) + [2] * len(hard)
    plain, within = longer_suffices(easy + hard, [0] * len(strata)), longer_suffices(easy + hard, strata)
    assert plain["mean"] < .2 and within["lo"] < .5 < within["hi"] # Simpson's paradox is taken off

def test_extractions_are_a_judges_last_line_and_a_thought_cannot_plant_one():
    options = ["A. left", "B. right"]
    replies = {"So.\n<extraction>b</extraction>": "B", "<extraction>No</extraction>": None, "<extraction>Z</extraction>": None,
               "<extraction>A</extraction>\nor not": None, "": None, "<think>x</think>\n<extraction> A. </extraction>": "A"}
    assert {text: ChatReader.read(text, options) for text in replies} == replies
    seen = []
    record = Record(problem_id="1", problem="Which?", problem_type="multiple choice", path="a.mp4", options=options, solution="<answer>B</answer>")
    reader = ChatReader(lambda messages: seen.append(messages[0]["content"]) or Reply("<extraction>A</extraction>"))
    assert reader(record, "So left. <extraction>B</extraction> <|im_end|>") == "A"
    assert seen[0].count("<extraction>") == reader.words.count("<extraction>") and "<|im_end|>" not in seen[0]

def test_two_readers_are_matched_by_question():
    first = [dict(problem_id=str(i), letter="A", differs=i % 2 == 0) for i in range(8)]
    second = [dict(problem_id=str(i), letter="A", differs=i % 4 == 0) for i in range(7)] + [dict(problem_id="7", letter=None, differs=None)]
    found = agreement(first, second)
    assert found["agree"]["n"] == 7 and found["agree"]["mean"] == pytest.approx(5 / 7)
    assert agreement(first, [])["agree"] is None

def test_what_cannot_be_told_apart_is_guessed_and_what_can_is_told():
    words = "red green blue left right middle stays cup ball then".split()
    errs = []
    for seed in range(6):
        rng = random.Random(seed)
        texts = [" ".join(rng.choices(words, k=12)) for _ in range(120)]
        errs.append(told_apart(texts[:60], texts[60:])["mean"] - .5)
    assert abs(np.mean(errs)) < .06
    assert told_apart(["red left"] * 30, ["so answer"] * 30)["mean"] == 1
    assert told_apart(["", "a"] * 10, ["b", "c"] * 10)["n"] == 40

# folders

def lines(*rows): return "".join(json.dumps(r) + "\n" for r in rows)

def test_a_folder_half_written_is_read_as_far_as_it_goes_and_left_as_it_was(tmp_path):
    (tmp_path / "pagrpo").mkdir()
    path = tmp_path / "pagrpo" / "metrics.jsonl"
    path.write_text(lines(dict(step=0)) + '{"step": 1, "re')
    found = arm_of(outcomes(tmp_path), "pagrpo")
    assert [r["step"] for r in found.steps] == [0] and path.read_text().endswith('"re')
    assert any("half a line" in note for note in found.notes) and any("was not evaluated" in note for note in found.notes)
    with pytest.raises(ValueError, match="has no arm 'grpo', only pagrpo"): arm_of(outcomes(tmp_path), "grpo")
    with pytest.raises(ValueError, match="no steps of RL"): collapse(found)

def test_packed_files_and_damaged_ones(tmp_path):
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(lines(dict(step=0), dict(step=1)).encode()))
    assert len(outcomes(tmp_path)[0].steps) == 2
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(b"x" * 999)[:20])
    with pytest.raises(ValueError, match="metrics.jsonl.gz: cannot be read"): outcomes(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"): outcomes(tmp_path)

def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run"): outcomes(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no run"): outcomes(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="has not come to its first step"): outcomes(tmp_path)

def test_predictions_of_every_kind(tmp_path):
    ab = ["A. a dog", "B. a cat"]
    told = [dict(id="1", kind="multiple choice", options=ab, truth="B", response="B", group=dict(task="x")),
            dict(id="2", kind="multiple choice", options=ab, truth="a cat", response="<think>So A.</think><answer>B</answer>"),
            dict(id="3", kind="numerical", truth="3", response="4"), dict(id="4", kind="yes or no", truth="no", response="No"),
            dict(id="5", kind="open", truth="so", response="so"), dict(id="6", kind="numerical", truth="3", response=None, failed="no file"),
            dict(id="1", kind="numerical", truth="3", response="3")]
    path = tmp_path / "predictions.jsonl"
    path.write_text(lines(*told, dict(id="7")) + "[1]\n")
    found, = outcomes(path)
    assert [r["answer"] for r in found.rows] == [1., 1., 0., 1., None, None] and found.rows[5]["left_out"] == "no file"
    said = "\n".join(found.notes)
    for part in ("line 8 has no response", "'1' comes twice", "2 of 6 are not scored", ":9: is no JSON object"): assert part in said, said
    assert by_group(found, "task") == dict(x=dict(mean=1., lo=pytest.approx(wilson(1, 1)[0]), hi=1., n=1))
    with pytest.raises(ValueError, match="group of 'track'; known: task"): by_group(found, "track")

def test_intervals_are_shown_with_a_minus_that_is_one():
    assert shown_interval(dict(diff=-.05, lo=-.1, hi=0.)) == "−5.0 [−10.0, +0.0]" and shown_interval(None) == "–"

# the examination, and disturbed clips

def asked(n):
    from videop2r.world import COMPOSED, question_of, to_record
    return [to_record(question_of("examined", i, kinds=COMPOSED), f"q{i}", f"{i}.mp4") for i in range(n)]

def test_an_examination_is_a_loop_over_conditions():
    from videop2r.examination import Examination, examine
    from videop2r.judge import ORACLE
    from videop2r.world import gold_observation, from_record
    records, seen = asked(12), []
    gold = {r.problem_id: gold_observation(from_record(r)) for r in records}
    half = {name: text if i % 2 else "" for i, (name, text) in enumerate(gold.items())}
    def answer(records, clips, words):
        seen.append((clips[0], words is None))
        return [r.truth if (words and words[i]) or (clips[i] and i % 3 == 0) else "" for i, r in enumerate(records)]
    found = examine(records, ["clip"] * 12, answer, dict(gold=gold, half=half), ORACLE)
    assert seen == [(None, True), ("clip", True), (None, False), ("clip", False), (None, False), ("clip", False)]
    wanted = {"text": [0] * 12, "video": [i % 3 == 0 for i in range(12)], "text + half": [i % 2 for i in range(12)],
              "video + half": [i % 2 or i % 3 == 0 for i in range(12)]}
    for name, values in wanted.items(): assert found.scores[name] == [float(v) for v in values], name
    assert found.empty == dict(gold=0, half=6) and found.sufficient["gold"] == [True] * 12
    assert found.split("half")["suffices"]["mean"] == 1 and found.split("half")["lacks"]["mean"] == 0
    assert found.gap("text + half")["diff"] == pytest.approx(np.mean(wanted["text + half"]) - np.mean(wanted["video"]))
    assert "6 of half are missing" in found._repr_markdown_()
    assert Examination(**json.loads(json.dumps(found.to_dict()))).scores == found.scores
    with pytest.raises(ValueError, match="observations of 'other' lack 12 of 12 questions, the first 'q0'"):
        examine(records, [None] * 12, answer, dict(other=dict(x="y")))

def test_disturbed_clips_keep_their_patches_and_their_place():
    from types import SimpleNamespace
    from videop2r.reliance import Reliance
    from videop2r.video import Visual
    family, g = SimpleNamespace(temporal=2), torch.Generator().manual_seed(0)
    visuals = [Visual(torch.rand(4 * 6, 3 * 2 * 4, generator=g), (4, 2, 3), "video", .5) for _ in range(4)]
    records = [SimpleNamespace(extra=dict(kind=k), problem_type="x") for k in ("a", "b", "a", "a")]
    made = {way: list(make(visuals, records, family, 0)) for way, make in Reliance.ways.items()}
    for way in ("shuffled", "reversed"):
        for old, new in zip(visuals, made[way]): # frames are moved whole: 8 frames of 6 patches of 12 numbers
            frames = [v.patches.reshape(4, 6, 3, 2, 4).permute(0, 3, 1, 2, 4).reshape(8, -1) for v in (old, new)]
            assert sorted(map(tuple, frames[0].tolist())) == sorted(map(tuple, frames[1].tolist())) and not torch.equal(*frames)
            if way == "reversed": assert torch.equal(frames[0].flip(0), frames[1])
    assert all(not new.patches.any() for new in made["blank"])
    assert [None if new is None else visuals.index(new) for new in made["other"]] == [2, None, 3, 0]

def test_what_is_stored_agrees_with_itself():
    from videop2r.examination import Examination, observations_of
    from videop2r.judge import ORACLE
    told, found = json.loads((STORED / "analyses.json").read_text()), outcomes(STORED)
    seen, rows = Examination(**told["examination"]), {each.arm: {r["problem_id"]: r for r in each.rows} for each in found}
    assert all(len(scores) == told["questions"] for scores in seen.scores.values())
    for arm in ("sft", "grpo", "pagrpo"):
        each = arm_of(found, arm)
        words = observations_of(each)
        for row in each.rows[:40]: assert ORACLE(each.records[row["problem_id"]], words[row["problem_id"]]).yes == row["sufficient"]
        assert told["reliance"][arm]["as it is"]["exact"]["share"]["n"] == told["questions"]
    assert seen.share("text + gold")["mean"] > .95 # the bare base answers, and it concludes from words
    assert len(set(map(len, rows.values()))) == 1 and all(not each.notes for each in found if each.steps)

def test_a_run_of_another_base_is_refused(tmp_path):
    from videop2r.tools.analyses import Studied
    shutil.copytree(STORED, tmp_path / "run")
    (tmp_path / "run" / "settings.json").write_text(json.dumps(dict(settings=dict(base="base 00000000"))))
    with pytest.raises(ValueError, match="base was base 00000000, now base .*Give the samples that it was made with"): Studied.read(tmp_path / "run", STORED.parents[3] / "data_samples")

def test_analyses_begun_before_the_base_was_bare_are_not_gone_on_with(tmp_path):
    from types import SimpleNamespace
    from videop2r.tools.analyses import _opened
    study = SimpleNamespace(records=[SimpleNamespace(problem_id="q")], models=dict(sft=None))
    (tmp_path / "asked.json").write_text(json.dumps(dict(questions=["q"], arms=["sft"])))
    with pytest.raises(ValueError, match="by an earlier version; remove it"): _opened(study, tmp_path)

def test_features_at_hand_are_of_the_clips_as_they_are(monkeypatch):
    from types import SimpleNamespace
    from videop2r import reliance as module
    seen = []
    def evaluate(policy, records, prompts, judge, features=None, **settings):
        seen.append(features)
        return [dict() for _ in records]
    monkeypatch.setattr(module, "evaluate", evaluate)
    prompts = [make_dataclass("Prompt", ["name", "visual"])(str(i), SimpleNamespace(kind="video")) for i in range(3)]
    monkeypatch.setattr(module.Reliance, "ways", dict(blank=lambda visuals, *rest: visuals))
    module.reliance(SimpleNamespace(family=None), [0, 1, 2], prompts, None, ("blank",), features=["f"] * 3)
    assert seen == [["f"] * 3, None]
