"Scores stay in [0, 1], follow a plain restatement of the rules, and refuse a truth that cannot be read."
import math
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.cot import example_record, four_rollouts, parse
from videop2r.data import TASKS
from videop2r.scoring import RULES, choice, number, score, score_record

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
    assert score("regression", x, t, how="lenient") == pytest.approx(1 if float(x) == float(t) else expected)


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
    ("up and  AWAY", "C"), ("D", None), ("B. left", None), ("left or right", None), ("A, B", None), ("", None), ("Be", None),
])
def test_choice(text, letter): assert choice(text, OPTIONS) == letter


def test_choice_of_options_without_letters():
    assert choice("right", ["left", "right"]) == choice("b", ["left", "right"]) == "B"
    assert choice("a man", ["A. a man", "B. a dog"]) == "A"
    assert choice("a dog", ["A. a man", "B. a dog"]) == "B"


@pytest.mark.parametrize("text, faithful, lenient", [
    ("7", 7, 7), ("-2.5", -2.5, -2.5), ("1,000", 1000, 1000), ("1,000 m", None, 1000), ("about 12.", None, 12), ("50%", None, 50),
    ("−3", None, -3), ("2 or 3", None, None), ("A4", None, None), ("1.2.3", None, None), ("nan", None, None), ("inf", None, None), ("1e999", None, None),
])
def test_number(text, faithful, lenient): assert (number(text), number(text, "lenient")) == (faithful, lenient)


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
    with pytest.raises(ValueError, match="record example: ground truth 'B'"): score_record(record, "3")


def test_long_answers_are_quick_and_finite():
    for task in TASKS:
        for how in RULES: assert math.isfinite(score(task, "1" * 100_000 + " word" * 1000, TRUTHS[task], OPTIONS, how))
