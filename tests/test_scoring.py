"Scores stay in [0, 1], follow a plain restatement of the rules, and refuse a truth that cannot be read."
import json, math, re, subprocess, sys
from pathlib import Path
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from videop2r.cot import example_record, four_rollouts, parse
from videop2r.data import TASKS, RecordError
from videop2r.scoring import FILTERS, MRA, READ, RULES, check_truth, choice, first_answer, mra, number, passes, score, score_record, score_response

settings.register_profile("steady", deadline=None, database=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("steady")

OPTIONS = ["A. left", "B. right", "C. up and away"]
TRUTHS = {"multiple choice": "B", "numerical": "3", "OCR": "GO HOME", "free-form": "the square moves", "regression": "2.5"}
numbers = st.decimals(min_value=-9999, max_value=9999, places=2).map(str)
texts = st.text(max_size=30) | numbers | st.sampled_from(["nan", "inf", "-inf", "1e999", "(B)", "b. right", "%", "1,", "--1", "٣", "½", "<answer>"])


def test_rules_cover_every_task():
    assert all(set(rules) == set(TASKS) for rules in RULES.values())


@given(st.sampled_from(TASKS), texts, st.sampled_from(sorted(RULES)))
def test_any_text_scores_between_0_and_1(task, prediction, how):
    assert 0 <= score(task, prediction, TRUTHS[task], OPTIONS, how) <= 1


@pytest.mark.parametrize("how", sorted(RULES))
@pytest.mark.parametrize("task", TASKS)
def test_truth_scores_1_and_nothing_scores_0(task, how):
    assert score(task, TRUTHS[task], TRUTHS[task], OPTIONS, how) == pytest.approx(1)
    assert score(task, None, TRUTHS[task], OPTIONS, how) == score(task, " \n", TRUTHS[task], OPTIONS, how) == 0


@given(numbers, numbers)
def test_regression_is_one_minus_the_relative_error(x, t):
    expected = 1 - min(1, (abs(float(x) - float(t)) + 1e-9) / (abs(float(t)) + 1e-9))
    assert score("regression", x, t) == pytest.approx(expected)
    lenient = 1 - min(1, abs(float(x) - float(t)) / abs(float(t))) if float(t) else float(float(x) == 0)
    assert score("regression", x, t, how="lenient") == pytest.approx(lenient)


@given(numbers | st.integers(-99, 99).map(str), numbers | st.integers(-99, 99).map(str))
def test_numerical_needs_the_same_kind_of_number(x, t):
    equal = round(float(x), 2) == round(float(t), 2)
    assert score("numerical", x, t) == (equal and ("." in x) == ("." in t))
    assert score("numerical", x, t, how="lenient") == equal


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_word_error_rate_against_a_table(x, t):
    "Edit distance by the textbook's table of (row, column) costs."
    d = {(i, 0): i for i in range(len(t) + 1)} | {(0, j): j for j in range(len(x) + 1)}
    for i, a in enumerate(t, 1):
        for j, b in enumerate(x, 1): d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a != b))
    expected = max(0, 1 - d[len(t), len(x)] / len(t))
    assert score("OCR", "  ".join(x), "\n".join(t)) == pytest.approx(expected)


@pytest.mark.parametrize("text, letter", [
    ("B", "B"), ("(B)", "B"), ("b", "B"), ("B)", "B"), ("B:", "B"), ("B. right", "B"), ("(b) Right.", "B"), ("B.right", "B"), ("right", "B"),
    ("up and  AWAY", "C"), ("D", None), ("**B**", "B"), ("Option B", "B"), ("option (b)", "B"), ("The answer is B.", "B"),
    ("Answer: right", "B"), ("So, the correct answer is **(C)**", "C"), ("`b`", "B"), ('"right"', "B"), ("the answer is B. left", None), ("option", None), ("B. left", None), ("left or right", None), ("A, B", None), ("", None), ("Be", None),
])
def test_choice(text, letter): assert choice(text, OPTIONS) == letter


def test_choice_of_options_without_letters():
    assert choice("right", ["left", "right"]) == choice("b", ["left", "right"]) == "B"
    assert choice("a man", ["A. a man", "B. a dog"]) == "A"
    assert choice("a dog", ["A. a man", "B. a dog"]) == "B"


@pytest.mark.parametrize("text, faithful, lenient", [
    ("7", 7, 7), ("-2.5", -2.5, -2.5), ("1,000", 1000, 1000), ("1,000 m", None, 1000), ("about 12.", None, 12), ("50%", None, 50),
    ("−3", None, -3), ("$3.50", None, 3.5), ("Seven.", None, 7), ("three or so", None, None), ("seven 7", None, 7), ("1_000", 1000, 1000), ("2 or 3", None, None), ("A4", None, None), ("1.2.3", None, None), ("nan", None, None), ("inf", None, None), ("1e999", None, None),
])
def test_number(text, faithful, lenient): assert (number(text), number(text, "lenient")) == (faithful, lenient)


@given(texts | st.text(alphabet="<>/answer x", max_size=60))
def test_first_answer_is_the_first_match_of_the_expression(text):
    for t in (text, f"a<answer>{text}</answer>b", f"</answer><answer> {text}<answer>x</answer></answer>"):
        m = re.search(r"<answer>(.*?)</answer>", t, re.S)
        assert first_answer(t) == (m and m[1].strip())


def test_where_the_answer_is_read():
    record = example_record()
    inside = "<observation>o</observation><think>not <answer>A</answer></think><answer>B</answer>"
    assert [score_response(record, inside, read=read) for read in READ] == [1, 0]
    assert [score_response(record, inside.replace("A", "B"), read=read) for read in READ] == [1, 1]
    assert [score_response(record, t) for t in four_rollouts()] == [1, 0, 1, 1]
    with pytest.raises(ValueError, match="unknown place of the answer 'last'"): score_response(record, inside, read="last")


# Mean relative accuracy, against the two published computations written out with their own libraries

def mra_single(x, t):
    x, t = torch.tensor(x, dtype=torch.float32), torch.tensor(t, dtype=torch.float32)
    return float(((x - t).abs() / (t.abs() + 1e-8) < 1 - torch.arange(.5, .975, .05)).double().mean())

def mra_double(x, t): return float((abs(x - t) / t <= 1 - np.linspace(.5, .95, 10)).mean())

@pytest.mark.parametrize("rule, peer", [("video-r1", mra_single), ("lmms-eval", mra_double)])
def test_mean_relative_accuracy_to_the_last_bit(rule, peer):
    pairs = [(x, t) for t in range(1, 41) for x in range(0, 61)] + [(x / 10, t / 10) for t in range(7, 80, 7) for x in range(0, 120, 3)]
    for x, t in pairs: assert mra(str(x), str(t), rule) == pytest.approx(peer(float(x), float(t)), abs=1e-9), (x, t)

@given(st.integers(0, 60), st.integers(1, 40))
def test_mean_relative_accuracy_is_the_definition_where_rounding_does_not_decide(x, t):
    exact = [(abs(x - t) * 100 < t * (50 - 5 * i), abs(x - t) * 100 == t * (50 - 5 * i)) for i in range(10)]
    if not any(edge for _, edge in exact):
        for rule in MRA: assert mra(str(x), str(t), rule) == sum(below for below, _ in exact) / 10

def test_mean_relative_accuracy_at_its_edges():
    assert [mra("5", "10", rule) for rule in MRA] == [0, .1]
    for rule in MRA: assert [mra(p, t, rule) for p, t in (("0", "0"), ("1", "0"), (None, "3"), ("many", "3"), ("1e300", "3"))] == [1, 0, 0, 0, 0]
    assert (mra("3 m", "3"), mra("3 m", "3", how="lenient")) == (0, 1)
    with pytest.raises(ValueError, match="'many' is not a number"): mra("3", "many")
    with pytest.raises(ValueError, match="unknown rule.*'vsi'.*lmms-eval"): mra("3", "3", "vsi")


# ROUGE with remembered stems is ROUGE

@given(st.lists(st.sampled_from("The moves moving MOVED square squares, running. 3rd é ...".split()), max_size=8).map(" ".join),
       st.lists(st.sampled_from("the move moving squares ran running, 3".split()), min_size=1, max_size=8).map(" ".join))
def test_rouge_against_the_library_as_it_comes(prediction, truth):
    from rouge_score.rouge_scorer import RougeScorer
    plain = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(truth, prediction)
    expected = sum(s.fmeasure for s in plain.values()) / 3 if prediction.strip() else 0
    assert score("free-form", prediction, truth) == expected


def test_filters_differ_at_the_threshold_only():
    assert [[passes(s, rule=rule) for rule in FILTERS] for s in (.59, .6, .61)] == [[False, False], [True, False], [True, True]]
    with pytest.raises(ValueError, match="unknown filter 'ours'"): passes(.6, rule="ours")


@pytest.mark.parametrize("kind, truth, how, message", [
    ("numerical", "many", "faithful", "'many' is not a number.*how='lenient'"), ("numerical", "3 m", "faithful", "'3 m' is not a number"), ("numerical", "3 m", "lenient", None),
    ("regression", "0", "faithful", "no answer to '0' can score above 0"), ("regression", "0", "lenient", None), ("OCR", " ", "faithful", "empty"),
    ("free-form", "...", "faithful", "no answer to '...' can score"), ("free-form", "left", "faithful", None), ("multiple choice", "E", "lenient", "'E' names none"),
    ("poem", "a", "faithful", "unknown problem_type"), ("OCR", "向右", "faithful", None),
])
def test_truths_are_checked_at_the_door(kind, truth, how, message):
    record = example_record()
    record.problem_type, record.solution, record.answer = kind, truth, ""
    if message is None: assert check_truth(record, how) is record
    else:
        with pytest.raises(RecordError, match=f"record 'example': field `solution`: .*{message}") as e: check_truth(record, how)
        assert (e.value.where, e.value.field) == ("example", "solution")


@pytest.mark.parametrize("args, message", [
    (("poem", "a", "b"), "unknown problem_type 'poem'.*multiple choice"), (("OCR", "a", "b", (), "kind"), "unknown way of scoring 'kind'.*lenient"),
    (("OCR", "a", " "), "ground truth is empty"), (("numerical", "3", "many"), "'many' is not a number"), (("regression", "3", "nan"), "'nan' is not a number"),
    (("multiple choice", "A", "Z", OPTIONS, "lenient"), "'Z' names none"),
])
def test_what_cannot_be_scored_is_an_error(args, message):
    with pytest.raises(ValueError, match=message): score(*args)


def test_records_decide_for_themselves():
    record = example_record()
    assert [score_record(record, parse(t).answer) for t in four_rollouts()] == [1, 0, 1, 1]
    assert (score_record(record, "right"), score_record(record, "right", "lenient")) == (0, 1)
    record.problem_type = "numerical"
    with pytest.raises(ValueError, match="record 'example': field `solution`: ground truth 'B'"): score_record(record, "3")


def test_long_answers_are_quick_and_finite():
    for task in TASKS:
        for how in RULES: assert math.isfinite(score(task, "1" * 100_000 + " word" * 1000, TRUTHS[task], OPTIONS, how))


def test_the_benchmark_runs():
    "In small, for its shape; its figures are taken on a quiet machine."
    script = Path(__file__).parent.parent/"benchmarks"/"scoring.py"
    out = subprocess.run([sys.executable, script, "--json", "--n", "8"], capture_output=True, text=True, check=True, cwd=script.parent.parent).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["target"] for r in rows if r["target"]] == [100_000, 2_500] and all(r["traces_per_second"] > 0 for r in rows)
