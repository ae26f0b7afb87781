"Runs compared: pairs, their statistics, a page that holds, and runs that cannot be compared."
import json, random, re, shutil
from html.parser import HTMLParser
from pathlib import Path
import pytest
from videop2r.data import Record
from videop2r.engine.outcomes import ArmRun
from videop2r.tools.cli import main
from videop2r.tools.compare import Pair, compare_runs

STORED = Path(__file__).resolve().parents[1] / "nbs" / "4_evidence" / "demo" / "whole"
TRACE = "<observation>It goes {}.</observation> <think>So {}.</think><answer>{}</answer>"
VOID = {"meta", "img", "br", "hr", "path", "rect", "use", "input"}

def record(i, truth="A", problem="Which way?"):
    return Record(problem_id=f"q{i}", problem=problem, problem_type="multiple choice", path=f"{i}.mp4", options=["A. left", "B. right"], solution=f"<answer>{truth}</answer>")

def outcome(run, arm, rights, home=Path("."), records=None, text=TRACE):
    rows = [dict(problem_id=f"q{i}", kind="way", type="multiple choice", answer=float(r), exact=float(r), format=True, sufficient=bool(r), mismatch=False,
                 output=text.format("left", "A", "A" if r else "B")) for i, r in enumerate(rights)]
    return ArmRun(run, arm, home, rows=rows, records=records or {f"q{i}": record(i) for i in range(len(rights))})

class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags, self.unnamed = [], [], [], []
    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID: self.open.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "poster", "data", "srcset")]
        if tag == "img" and not told.get("alt") or tag in ("video", "svg") and not told.get("aria-label"): self.unnamed.append(tag)
    def handle_endtag(self, tag):
        if tag not in VOID: assert self.open.pop() == tag

def parsed(html):
    page = Page()
    page.feed(html)
    assert not page.open and not page.unnamed and all(load.startswith(("data:", "#")) for load in page.loads)
    return page

def mcnemar(b, c):
    "The p-value of b questions that the first of two arms alone got right, and c that the second did."
    right, wrong = dict(exact=1.), dict(exact=0.)
    return Pair(None, None, [(right, wrong)] * b + [(wrong, right)] * c + [(right, right), (wrong, wrong)], []).mcnemar()

@pytest.mark.parametrize("b, c", [(0, 0), (3, 9), (10, 2), (5, 5)])
def test_mcnemar_is_a_fair_coin(b, c):
    rng, k = random.Random(0), b + c
    tosses = [sum(rng.random() < .5 for _ in range(k)) for _ in range(20_000)]
    share = sum(min(t, k - t) <= min(b, c) for t in tosses) / len(tosses)
    assert mcnemar(b, c) == pytest.approx(share, abs=.012)

def test_mcnemar_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for b, c in ((1, 5), (0, 7), (30, 45)): assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c, .5).pvalue)

def test_pairs_are_matched_by_question_and_not_by_place():
    a = outcome("r", "grpo", [1, 0, 0, 1])
    b = outcome("r", "pagrpo", [1, 1, 0, 0])
    b.rows = b.rows[::-1]
    pair, = Pair.every([a, b])
    assert pair.name == "r PA-GRPO − r GRPO" and pair.gap()["diff"] == 0
    assert dict(pair.split()) == {(True, True): 1, (False, True): 1, (False, False): 1, (True, False): 1}

def test_an_id_that_stands_for_another_question_is_left_out_and_named():
    a = outcome("one", "pagrpo", [1, 0, 1])
    b = outcome("two", "pagrpo", [1, 1, 1], records={f"q{i}": record(i, problem="How far?" if i == 1 else "Which way?") for i in range(3)})
    pair, = Pair.every([a, b])
    assert len(pair.rows) == 2 and pair.foreign == ["q1"]
    assert "1 ids stand for different questions" in Pair.page([a, b])
    other = outcome("two", "pagrpo", [1, 1], records={f"q{i}": record(i, problem="Where?") for i in range(2)})
    with pytest.raises(ValueError, match="have no question in common"): Pair.page([a, other])

def test_seeds_with_questions_of_their_own_are_compared_within():
    def seed(name, shift):
        found = [outcome(name, arm, rights) for arm, rights in dict(grpo=[0, 1, 0], pagrpo=[1, 1, 0]).items()]
        for each in found:
            each.records = {f"{shift}{k}": v for k, v in each.records.items()}
            for row in each.rows: row["problem_id"] = f"{shift}{row['problem_id']}"
        return found
    pairs = Pair.every(seed("seed0", "a") + seed("seed1", "b"))
    assert [(pair.name, len(pair.rows)) for pair in pairs] == [("seed0 PA-GRPO − seed0 GRPO", 3), ("seed1 PA-GRPO − seed1 GRPO", 3)]

def test_against_whom():
    found = [outcome("r", arm, [1, 0]) for arm in ("base", "sft", "pagrpo")]
    assert {pair.a.arm for pair in Pair.every(found)} == {"sft"}
    assert {pair.a.arm for pair in Pair.every(found, "base")} == {"base"}
    with pytest.raises(ValueError, match="no run has an arm 'grpo' to compare with, only base, sft, pagrpo"): Pair.every(found, "grpo")
    with pytest.raises(ValueError, match="one arm alone"): Pair.page(found[:1])

def test_the_page_is_whole_and_shows_what_models_wrote_as_text():
    evil = "<observation>{}<script>alert(1)</script></observation> <think><img src=x onerror=alert(1)></think><answer>{}{}</answer>"
    a, b = outcome("<b>r</b>", "grpo", [1, 0] * 6), outcome("<b>r</b>", "pagrpo", [1, 1] * 6, text=evil)
    a.steps = [dict(step=i, reward_perception=i / 9, kl=float("nan")) for i in range(9)]
    page = Pair.page([a, b])
    found = parsed(page)
    assert "script" not in found.tags and "b" in found.tags and "<b>r</b>" not in page and "onerror" not in str(found.loads)
    assert "is above" in page and "prefers-color-scheme:dark" in page

def test_a_run_that_only_trained_gives_curves():
    trained = [ArmRun(name, "pagrpo", Path("."), steps=[dict(step=i, reward_perception=1 + i / 9) for i in range(9)], notes=["x was not evaluated"]) for name in "ab"]
    page = Pair.page(trained)
    assert "curves only" in page and "Perception reward" in page and "x was not evaluated" in page
    parsed(page)

def test_a_clip_plays_in_the_page_or_is_named_as_missing(tmp_path):
    from videop2r.world import make_records
    made = list(make_records(tmp_path, 3, seed=2))
    records = {f"q{i}": each for i, each in enumerate(made)}
    a, b = (outcome("r", arm, rights, tmp_path, records) for arm, rights in dict(sft=[0, 1, 0], pagrpo=[1, 1, 1]).items())
    (tmp_path / made[0].path).unlink()
    page = Pair.page([a, b])
    assert "data:video/mp4;base64," in page and "is not in the run" in page and "contact" not in page
    parsed(page)

def test_the_command(tmp_path, capsys):
    def file(name, responses):
        rows = [dict(id=str(i), benchmark="records", kind="multiple choice", question="Which way?", options=["A. left", "B. right"], truth="A", video=f"{i}.mp4", response=r)
                for i, r in enumerate(responses)]
        path = tmp_path / name / "predictions.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path.parent)
    one, two = file("one", ["A", "B", "B", "A"]), file("two", ["A", "A", "A", None])
    assert main(["compare", one, two, "--out", str(tmp_path / "page.html")]) == 0
    said, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert "page.html" in said and "two − one" in page and "no response" in page
    parsed(page)
    assert main(["compare", one, str(tmp_path / "none")]) == 1 and "no such run" in capsys.readouterr().err
    assert main(["compare", one, two, "--against", "grpo"]) == 1 and "no run has an arm 'grpo'" in capsys.readouterr().err

@pytest.mark.skipif(not STORED.exists(), reason="no stored run")
def test_three_runs_of_one_name_are_three(tmp_path):
    "As of `reproduce` on several bases: all are shipped/seed0."
    places = [tmp_path / letter / "shipped" / "seed0" for letter in "abc"]
    for place in places: shutil.copytree(STORED, place)
    page = compare_runs(places, tmp_path / "p.html", examples=1).read_text()
    names = ("seed0", "shipped/seed0", "b/shipped/seed0", "c/shipped/seed0")
    assert sum(f">{name}" in page or f"{name} " in page for name in names) >= 3 and "c/shipped/seed0" in page

def test_the_stored_run_is_compared(tmp_path):
    page = compare_runs([STORED], tmp_path / "c.html", examples=2).read_text()
    parsed(page)
    assert page.count("<svg") >= 4 and len(page) < 1_500_000
