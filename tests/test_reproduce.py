"""The study of the paper's claims: cells, a spoilt judge, effects against brute force, and a run of two small cells."""
import json, shutil
from dataclasses import replace
from pathlib import Path
import numpy as np
import pytest
from videop2r.data import read_jsonl
from videop2r.engine.runs import fingerprint
from videop2r.judge import ORACLE
from videop2r.model import Policy
from videop2r.recipe import RL
from videop2r.room import events
from videop2r.sft import SFT
from videop2r.tools import demo, reproduce
from videop2r.tools.cli import main
from videop2r.tools.reproduce import (
    Arm, Cell, Results, picked, every_cell, run_cell, spoilt, verdict)
from videop2r.world import SHIPPED, gold_observation, from_record, make_records, samples
from storm import LONG

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")

def result(exact, sufficient="", swaps="", **more):
    n = len(exact)
    signs = dict(exact=exact, sufficient=sufficient or "-" * n, format="1" * n, mismatch="0" * n)
    return dict(cell="", signs=signs, swaps=swaps or "1" * n, seconds=60, **more)

def test_the_plan_names_each_cell_once_and_table_2_first():
    cells = every_cell(5, 2)
    assert len(set(cells)) == len(cells) and all(Cell.parse(str(cell)) == cell for cell in cells)
    assert {cell.seed for cell in cells[:55]} == set(range(5)) and all(cell.point == "shipped" for cell in cells[:55])
    assert {cell.point for cell in cells} == set(Cell.worlds) and len(Cell.worlds) == 9 and {cell.arm for cell in cells} == set(reproduce._PLANNED)
    assert {arm for claim in Results.claims for arm in (claim.before, claim.after)} <= set(Arm.known)

@pytest.mark.parametrize("text,said", [("shipped/0", "world/seed/arm"), ("shipped/x/grpo", "world/seed/arm"),
                                       ("shipped/0/ppo", "arm 'ppo'"), ("foggy/0/grpo", "world 'foggy'"), ("clear/0/grpo", "world 'clear'")])
def test_a_cell_that_cannot_be_is_named(text, said, capsys):
    with pytest.raises(ValueError, match=said): Cell.parse(text)
    assert main(["reproduce", "--list", text]) == 1 and said in capsys.readouterr().err

def test_each_point_of_the_sweep_is_a_world_of_its_own(tmp_path):
    assert len({str(world) for world in Cell.worlds.values()}) == 9 and Cell.worlds["shipped"] == SHIPPED
    runs = {point: Cell(point, 0, "sft").run(tmp_path, "smoke", SAMPLES) for point in Cell.worlds}
    assert runs["shipped"].world is None and all(runs[point].world == world for point, world in Cell.worlds.items() if point != "shipped")

def test_patterns_choose_and_a_cell_outside_the_plan_is_taken_by_its_name():
    found = picked(every_cell(2), ["shipped/*/grpo", "shipped/7/sft"])
    assert [str(cell) for cell in found] == ["shipped/0/grpo", "shipped/1/grpo", "shipped/7/sft"]

@pytest.mark.parametrize("agrees", [.8, .95])
def test_a_spoilt_judge_agrees_as_often_as_told_and_always_says_the_same(tmp_path, agrees):
    records = list(make_records(tmp_path, 9, "spoilt"))
    judge, asked = spoilt(agrees), [(r, f"{gold_observation(from_record(r))} {i}.") for r in records for i in range(60)]
    said = [judge(*each).yes for each in asked]
    right = [ORACLE(*each).yes for each in asked]
    assert abs(np.mean(np.equal(said, right)) - agrees) < 4 * np.sqrt(agrees * (1 - agrees) / len(asked))
    assert said[:50] == [judge(*each).yes for each in asked[:50]]

def test_the_base_s_own_answer_follows_what_was_observed():
    "Of composed questions: right from the whole observation, and from that of another question hardly more often than by luck."
    records = [r for r in read_jsonl(SAMPLES / "heldout.jsonl") if events(r) is not None][:12]
    judge = Arm.known["own"].asks(lambda: Policy.load(SAMPLES / "base"))
    seen = [gold_observation(from_record(r)) for r in records]
    assert sum(judge(*each).yes for each in zip(records, seen)) >= 9
    assert sum(judge(r, "I look at the cups.").yes for r in records) <= 7
    assert judge(records[0], "").yes is False and Arm.known["pagrpo"].asks(None) is ORACLE

def test_each_arm_trains_otherwise_than_every_other_and_open_choices_are_run_by_name(tmp_path):
    run = Cell.parse("shipped/0/no_kl").run(tmp_path, "study", SAMPLES)
    arms = {name: arm for name, arm in Arm.known.items() if arm.rl}
    ways = [(demo._settings(run, name, arm.recipe, arm.start, arm.loop), arm.start, arm.agrees, arm.judge) for name, arm in arms.items()]
    assert [name for i, name in enumerate(arms) if ways[i] in ways[:i]] == []
    ours, no_kl = (demo._settings(run, name, arms[name].recipe, arms[name].start, arms[name].loop) for name in ("pagrpo", "no_kl"))
    assert ours.beta > 0 and replace(no_kl, beta=ours.beta) == ours and len({arm.says for arm in arms.values()}) == len(arms)
    planned = {cell.arm for cell in every_cell()}
    assert {"rloo", "own", "judge80"} <= planned and not {"no_kl", "tags_nobody", "fast"} & planned

def test_an_effect_is_the_mean_over_seeds_of_paired_differences():
    rng = np.random.default_rng(1)
    drawn = {(seed, arm): "".join(rng.choice(list("01-"), 40)) for seed in range(3) for arm in ("grpo", "pagrpo")}
    swaps = "".join(rng.choice(list("c123"), 40))
    results = Results({Cell("shipped", seed, arm): result(signs, swaps=swaps) for (seed, arm), signs in drawn.items()})
    means = []
    for seed in range(3):
        pairs = zip(drawn[seed, "grpo"], drawn[seed, "pagrpo"], swaps)
        gaps = [int(b) - int(a) for a, b, n in pairs if n != "c" and "-" not in (a, b)]
        means.append(sum(gaps) / len(gaps))
    found = results.effect("grpo", "pagrpo")
    assert found["diff"] == pytest.approx(sum(means) / 3) and found["lo"] <= found["diff"] <= found["hi"]
    assert found["seeds"] == {seed: pytest.approx(mean) for seed, mean in enumerate(means)}

def test_the_interval_knows_that_seeds_differ():
    "With no spread within a seed, what is left is the spread of three seeds: −1, 0, 1 drawn with replacement."
    ends = {0: ("1", "0"), 1: ("1", "1"), 2: ("0", "1")}
    results = Results({Cell("shipped", seed, arm): result(sign * 50) for seed, pair in ends.items() for arm, sign in zip(("grpo", "pagrpo"), pair)})
    found = results.effect("grpo", "pagrpo")
    assert found["diff"] == 0 and (found["lo"], found["hi"]) == (-1, 1) # 1 draw in 27 is wholly −1

def test_two_runs_of_a_seed_count_once():
    stats = pytest.importorskip("scipy.stats")
    results = Results({Cell("shipped", seed, arm): result("0" * (10 - n) + "1" * n) for seed in range(4) for arm, n in dict(grpo=4, pagrpo=4 + seed).items()})
    others = [dict(seed=seed, exact=dict(diff=.2)) for seed in (0, 1, 3, 7)]
    found = results.twice(others)
    assert found["seeds"] == {0: (.2, 0.), 1: (.2, pytest.approx(.1)), 3: (.2, pytest.approx(.3))}
    means = [.1, .15, .25]
    low, high = stats.t.interval(.95, 2, np.mean(means), stats.sem(means))
    assert (found["diff"], found["lo"], found["hi"]) == pytest.approx((np.mean(means), low, high), abs=1e-4)
    with pytest.raises(ValueError, match="1 seeds were run twice"): results.twice(others[:1])

def test_student_s_numbers_are_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    assert reproduce._STUDENT == pytest.approx([stats.t.ppf(.975, n) for n in range(1, 10)], abs=6e-4)

def test_arms_that_were_not_run_are_said_to_be_not_run():
    results = Results({Cell("shipped", 0, "grpo"): result("0011")})
    assert results.effect("grpo", "pagrpo") is None and verdict(None) == "not run"
    assert results.verdicts().count("| not run |") == len(Results.claims)
    assert results.verdicts(missing=False).count("\n") == 1 # the head alone
    assert "PA-GRPO beats GRPO, which" in Results(results | {Cell("shipped", 0, "pagrpo"): result("0011", "0011")}).verdicts(missing=False)

@pytest.mark.parametrize("low,high,sign,said", [(.01, .1, 1, "held"), (-.1, -.01, 1, "did not hold"), (-.1, .1, 1, "within noise"), (-.1, -.01, -1, "held")])
def test_a_verdict_is_what_the_interval_says(low, high, sign, said):
    assert verdict(dict(lo=low, hi=high, seeds=dict.fromkeys(range(5))), sign) == said
    assert verdict(dict(lo=low, hi=high, seeds=dict.fromkeys(range(2))), sign) == "too few seeds"

def test_the_gain_in_answers_is_predicted_from_what_was_known_before():
    room = dict(p1=.9, p0=.3, phi=.5, sufficient=.5)
    results = Results({Cell("clear-long", 0, "sft"): result("0011", room=dict(composed=room)),
               Cell("clear-long", 0, "grpo"): result("0011", "0001"), Cell("clear-long", 0, "pagrpo"): result("0111", "0111")})
    [found] = results.where()
    assert found["gains"] == pytest.approx(dict(seen=.5, answers=.25, predicted=.6 * .5))
    axes = results.picture().axes
    drawn = {ax.get_title(): [text.get_text() for text in ax.texts] for ax in axes}
    at = 6 # seeing goes to the right, thinking down
    assert {title: words[at] for title, words in drawn.items()} == {"suffices, %": "50", "p1 − p0, points": "60", "φ, %": "50", "observations": "+50.0", "exact answers": "+25.0", "answers, predicted": "+30.0"}
    assert all(words[:at] + words[at + 1:] == ["not run"] * 8 for words in drawn.values())

def test_a_share_that_nothing_was_counted_for_is_no_number_and_no_point_that_was_not_run():
    room = dict(p1=.9, p0=float("nan"), phi=float("nan"), sufficient=1.)
    results = Results({Cell("shipped", 0, "sft"): result("1111", room=dict(composed=room)),
               Cell("shipped", 0, "grpo"): result("1111", "1111"), Cell("shipped", 0, "pagrpo"): result("1111", "1111")})
    assert [ax.texts[4].get_text() for ax in results.picture().axes] == ["100", "–", "–", "+0.0", "+0.0", "–"]

def test_a_file_that_is_no_result_is_refused_by_name(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match="other.json"): Results.load(tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "other.json").rename(tmp_path / "cells" / "other.json")
    with pytest.raises(ValueError, match="other.json: is no result"): reproduce.run_cells([Cell.parse("shipped/1/sft")], tmp_path, "study", SAMPLES)

@pytest.mark.parametrize("name,other", [("base", "base 00000000"), ("teacher", "teacher 00000000"), ("preset", "smoke")])
def test_results_of_two_studies_are_not_mixed(tmp_path, name, other):
    place = tmp_path / "cells"
    place.mkdir()
    for arm, more in dict(grpo={}, pagrpo={name: other}).items():
        told = result("0011", preset="study", base=fingerprint(SAMPLES / "base"), teacher=fingerprint(SAMPLES / "teacher")) | more | dict(cell=f"shipped/0/{arm}")
        (place / f"shipped_0_{arm}.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"shipped_0_pagrpo.json: settings differ: {name} was"): Results.load(place)
    with pytest.raises(ValueError, match=f"shipped_0_pagrpo.json: settings differ: {name} was {other}"): reproduce.run_cells([Cell.parse("shipped/1/sft")], tmp_path, "study", SAMPLES)
    assert not (tmp_path / "shipped").exists()

def test_a_result_of_before_goes_with_later_ones_of_one_base(tmp_path):
    def keep(arm, **more): (tmp_path / f"shipped_0_{arm}.json").write_text(json.dumps(result("0011", preset="study", **more) | dict(cell=f"shipped/0/{arm}")))
    keep("agnostic"), keep("grpo", base="base 1"), keep("pagrpo", base="base 1")
    assert len(Results.load(tmp_path)) == 3
    keep("sft", base="base 2")
    with pytest.raises(ValueError, match="shipped_0_sft.json: settings differ: base was base 1, now base 2"): Results.load(tmp_path)

def test_a_cell_does_not_go_on_with_another_base_s_traces(tmp_path):
    other = tmp_path / "samples"
    shutil.copytree(SAMPLES, other)
    shutil.copytree(SAMPLES / "teacher", other / "base", dirs_exist_ok=True)
    cell, made = Cell.parse("shipped/0/base"), tmp_path / "out" / "shipped" / "seed0"
    run = cell.run(tmp_path / "out", "smoke", SAMPLES)
    run.folder.bind()
    with pytest.raises(ValueError, match="settings differ: base was base .*, now base"): run_cell(cell, tmp_path / "out", "smoke", other)
    with pytest.raises(ValueError, match="settings differ: preset was smoke, now study"): run_cell(cell, tmp_path / "out", "study", SAMPLES)
    assert not list((made / "stages").iterdir())
    assert main(["demo", "--preset", "smoke", "--out", str(made), "--samples", str(other)]) == 1

def test_leads_stand_over_what_sampling_told_before_rl():
    room = dict(p1=.9, p0=.3, phi=.5, sufficient=.4)
    cells = {Cell(point, 1, arm): told for point in ("shipped", "clear-long") for arm, told in dict(
        sft=result("0011", room=dict(composed=room)), grpo=result("0011", "0001"), pagrpo=result("0111", "0111")).items()}
    results = Results(cells | {Cell("shipped", 2, "grpo"): result("0011", "0001")})
    found = results.by_seed()
    assert [(each["point"], each["seed"]) for each in found] == [("shipped", 1), ("clear-long", 1)]
    assert found[0]["answers"]["diff"] == .25 and found[0]["predicted"] == pytest.approx(.3) and found[0]["sufficient"] == .4
    left, right = reproduce.leads(dict(here=results, nothing=Results())).axes
    at = [ax.containers[0].lines[0].get_xydata().tolist() for ax in (left, right)]
    assert at == [[pytest.approx([40, 25])] * 2, [pytest.approx([30, 25])] * 2] and len(left.containers) == 1

@pytest.mark.parametrize("words, why", [
    (["--draw"], "holds no result of a cell"), (["--workers", "-1", "shipped/0/sft"], "workers: -1 is too low"), (["--seeds", "0", "--list"], "seeds: 0 is too low"),
    (["--preset", "smok", "--workers", "0", "shipped/0/sft"], "unknown preset 'smok'; known: ")])
def test_a_command_that_cannot_be_meant_is_refused_and_makes_nothing(tmp_path, capsys, words, why):
    assert main(["reproduce", "--out", str(tmp_path / "out"), *words]) == 1 and why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["reproduce", "--out", str(tmp_path / "out"), "--hours", "0", "shipped/0/sft"]) == 0 # no time to begin one
    assert {cell.seed for cell in every_cell(1)} == {0}

def test_pictures_are_made_of_what_is_there(tmp_path):
    results = Results({Cell("shipped", 0, arm): result("0011" if arm == "grpo" else "0111") for arm in ("grpo", "pagrpo")})
    table, *pictures = results.draw(tmp_path)
    assert "PA-GRPO beats GRPO" in table.read_text(encoding="utf-8")
    assert [path.name for path in pictures] == ["where.png", "dynamics.png", "leads.png"] and all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    assert "| PA-GRPO | 1 | 75.0% |" in results.arms()

def test_arms_are_held_to_another_on_the_seeds_that_both_have():
    kept = {Cell("shipped", seed, arm): result(exact) for arm, runs in dict(
        grpo=["0001", "0011", "1111"], pagrpo=["0111", "0111"], rloo=["0111"]).items() for seed, exact in enumerate(runs)}
    lines = Results(kept).beside().splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [["| GRPO: without R_P", "2"], ["| leave one out", "1"]]
    assert "-37.5 [" in lines[0] and "+0.0 [+0.0, +0.0] | – |" in lines[1]
    assert Results(kept).beside("rloo").count("| 1 |") == 2 and Results().beside().count("\n") == 1

def test_curves_are_means_and_spans_over_the_seeds_that_have_them():
    curves = {0: [.1, .2, .6], 1: [.3, .4, .8]}
    kept = {Cell("shipped", i, "pagrpo"): result("01", "01", curves=dict(accuracy_perception=curves[i])) for i in curves}
    other = {Cell("clear-long", 0, "pagrpo"): result("01", "01", curves=dict(accuracy_perception=[9., 9., 9.])), Cell("shipped", 0, "sft"): result("01", "01")}
    panel = Results(kept | other).dynamics().axes[0]
    [line], [band] = panel.lines, panel.collections
    assert line.get_ydata() == pytest.approx([.2, .3, .7]) and list(line.get_xdata()) == [0, 50, 100]
    assert set(band.get_paths()[0].vertices[:, 1].round(6)) == {.1, .2, .3, .4, .6, .8}

def test_cells_share_traces_and_a_result_is_kept_as_it_was_measured(tmp_path, monkeypatch):
    small = replace(demo.Sizes.known["smoke"], records=40, rl_records=4, heldout=20, probe=29,
                    sft=SFT(steps=4, batch=8, lr=2e-3), rl=RL(demo.RECIPE, steps=1, prompts=2, g=2, limit=48))
    monkeypatch.setitem(demo.Sizes.known, "smoke", small)
    arms = ("sft", "rl_only", "judge80") if LONG else ("sft", "judge80")
    cells = [Cell.parse(f"shipped/0/{arm}") for arm in arms]
    told = [run_cell(cell, tmp_path, "smoke", SAMPLES) for cell in cells]
    kept = Results.load(tmp_path / "cells")
    assert list(kept) == sorted(cells, key=str) and [kept[cell] for cell in cells] == json.loads(json.dumps(told))
    assert all(len(each["swaps"]) == len(each["signs"]["exact"]) == 20 for each in told) and "composed" in told[0]["room"]
    assert all(each["curves"]["reward_reasoning"] for each in told[1:]) and not told[0]["curves"]
    assert sorted(p.stem for p in (tmp_path / "shipped" / "seed0" / "stages").iterdir()) == sorted((*arms, "traces"))
    before = (tmp_path / "shipped" / "seed0" / "stages" / "sft.json").read_bytes()
    again = run_cell(cells[-1], tmp_path, "smoke", SAMPLES)
    assert again["signs"] == told[-1]["signs"] and (tmp_path / "shipped" / "seed0" / "stages" / "sft.json").read_bytes() == before
