"Scores stay in [0, 1], follow a plain restatement of the rules, and refuse a truth that cannot be read."
import json, math, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from videop2r.cot import example_record, four_rollouts, parse
from videop2r.data import TASKS, Record, RecordError
from videop2r.engine.notation import lettered, mentioned, shown
from videop2r.engine.numerals import numerals
from videop2r.evaluate import conclusion, evaluate, mismatch
from videop2r.judge import Judge, Verdict
from videop2r.scoring import MRA, RULES, check_truth, choice, first_answer, mra, number, passes, score, score_record

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
    for text, scores in (inside, [1, 0]), (inside.replace("A", "B"), [1, 1]):
        assert [score_record(record, answer) for answer in (parse(text).answer, first_answer(text))] == scores
    assert [score_record(record, parse(text).answer) for text in four_rollouts()] == [1, 0, 1, 1]


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
    assert [[passes(s, rule=rule) for rule in ("paper", "video-r1")] for s in (.59, .6, .61)] == [[False, False], [True, False], [True, True]]
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


# The lenient reading, reply by reply: what a person reads at once, and nothing that could be read in two ways

SIDES = ["A. left", "B. right", "C. up and away"]
PETS = ["(A) a dog", "(B) a man", "(C) a small dog"]
BARE = ["Sitting", "Standing", "Lying down"]
YES = ["A. Yes", "B. No"]
COUNTS = ["A. 2", "B. 3", "C. 12"]
NOTES = ["C", "D", "E"]
NAMES = ["I. Newton", "A. Einstein", "M. Curie"]
TIMES = ["A.M.", "P.M."]
HAN = ["A、左边", "B、右边", "C、上面"]
RUSSIAN = ["А) кот", "Б) пёс", "В) конь"]
FIGURES = ["1. red", "2. blue", "3. green"]
LONG = ["A. The man picks up the cup.", "B. The man puts down the cup.", "C. The man drinks."]
LINES = ["A. left\nand down", "B. right\nand up"]


CHOICES = [
    # markup
    (r"$\boxed{B}$", SIDES, "B"), (r"\boxed{\text{B}}", SIDES, "B"), (r"\boxed{B. right}", SIDES, "B"), (r"\text{B}", SIDES, "B"),
    (r"\mathbf{C}", SIDES, "C"), (r"\(C\)", SIDES, "C"), (r"\[ C \]", SIDES, "C"), ("$$C$$", SIDES, "C"), ("<b>C</b>", SIDES, "C"), ("`C`", SIDES, "C"),
    ("***C***", SIDES, "C"), ("__C__", SIDES, "C"), ("**C.** up and away", SIDES, "C"), ("**Answer:** C", SIDES, "C"), ("### C", SIDES, "C"), ("> C", SIDES, "C"),
    ("- C", SIDES, "C"), ("&nbsp;C", SIDES, "C"), (r"It goes left first, then up: \boxed{C}", SIDES, "C"), (r"\boxed{A} or \boxed{C}", SIDES, None),
    # signs of other widths and scripts
    ("Ｃ", SIDES, "C"), ("（Ｃ）", SIDES, "C"), ("ｃ．", SIDES, "C"), ("Ⓒ", SIDES, "C"), ("𝐂", SIDES, "C"), ("「C」", SIDES, "C"), ("《C》", SIDES, "C"), ("〔C〕", SIDES, "C"),
    ("“C”", SIDES, "C"), ("«C»", SIDES, "C"), ("C\u200b", SIDES, "C"), ("\ufeffC", SIDES, "C"), ("\u202aC\u202c", SIDES, "C"), ("\u00a0C\u3000", SIDES, "C"), ("C!", SIDES, "C"),
    ("C：up and away", SIDES, "C"), ("C — up and away", SIDES, "C"), ("C=up and away", SIDES, "C"), ("[C] up and away", SIDES, "C"), ("C/up and away", SIDES, "C"), ("{C}", SIDES, "C"),
    # words round the letter
    ("My answer is C.", SIDES, "C"), ("Final answer: C", SIDES, "C"), ("The best choice is option C", SIDES, "C"), ("I choose C", SIDES, "C"), ("I would go with (C).", SIDES, "C"),
    ("It's C.", SIDES, "C"), ("Answer - C", SIDES, "C"), ("Choice C", SIDES, "C"), ("C is the right answer.", SIDES, "C"), ("C is correct", SIDES, "C"), ("Option C is correct.", SIDES, "C"),
    ("The answer to the question is C.", SIDES, "C"), ("Answer:\n\nC", SIDES, "C"), ("up and away (C)", SIDES, "C"), ("up and away, C", SIDES, "C"), ("C, not A", SIDES, "C"),
    ("答案为C", SIDES, "C"), ("答案：C", SIDES, "C"), ("正确答案是 C。", SIDES, "C"), ("故选C", SIDES, "C"), ("应该选择C", SIDES, "C"), ("C选项", SIDES, "C"), ("选C项", SIDES, "C"),
    ("正解はCです", SIDES, "C"), ("答え：C", SIDES, "C"), ("Cが正解です", SIDES, "C"), ("정답: C", SIDES, "C"), ("답은 C입니다.", SIDES, "C"), ("C번", SIDES, "C"),
    ("Ответ: C", SIDES, "C"), ("Правильный ответ — C.", SIDES, "C"), ("Die richtige Antwort ist C.", SIDES, "C"), ("Antwort: C", SIDES, "C"), ("La réponse est C", SIDES, "C"),
    ("Réponse : C", SIDES, "C"), ("La respuesta correcta es la C.", SIDES, "C"), ("Respuesta: C", SIDES, "C"), ("La risposta corretta è la C.", SIDES, "C"), ("A resposta certa é a C", SIDES, "C"),
    ("الجواب: C", SIDES, "C"), ("सही उत्तर: C", SIDES, "C"), ("คำตอบที่ถูกต้องคือ C", SIDES, "C"), ("Đáp án: C", SIDES, "C"), ("Jawaban: C", SIDES, "C"), ("Cevap: C", SIDES, "C"),
    ("right, because it does not go left", SIDES, "B"), ("right because left is taken", SIDES, None), ("Pick C", SIDES, "C"), ("Je choisis C", SIDES, "C"), ("Απάντηση: C", SIDES, "C"), ("תשובה: C", SIDES, "C"), ("پاسخ: C", SIDES, "C"), ("A resposta é a letra C", SIDES, "C"),
    ("So, C.", SIDES, "C"), ("Therefore C", SIDES, "C"), ("It must be C.", SIDES, "C"), ("It is clearly C", SIDES, "C"), ("Ans. C", SIDES, "C"), ("I'm going with C", SIDES, "C"), ("Selected: C", SIDES, "C"), ("C|up and away", SIDES, "C"),
    ("Up and away (option C)", SIDES, "C"), ("C'est C", SIDES, "C"), ("Es la C", SIDES, "C"), ("Cだと思います", SIDES, "C"), ("C</s>", SIDES, "C"), ("<answer>C</answer>", SIDES, "C"), ("C<|im_end|>", SIDES, "C"), (r"C\. up and away", SIDES, "C"),
    # reasons
    ("B, because it crosses to the right.", SIDES, "B"), ("B since nothing else fits.", SIDES, "B"), ("B. right, as the frames show", SIDES, "B"), ("B\nThe square ends on the right.", SIDES, "B"),
    ("Right. The square ends there.", SIDES, "B"), ("B. The square crosses the picture.", SIDES, "B"), ("The square starts in the middle. So the answer is B.", SIDES, "B"),
    ("So the answer is: right", SIDES, "B"), ("Yes, it does.", YES, "A"), ("No. It stays.", YES, "B"), ("No, it does not move.", YES, "B"), ("Yes!", YES, "A"),
    # what contradicts itself, doubts or names several
    ("A or B", SIDES, None), ("A/B", SIDES, None), ("A and C", SIDES, None), ("A, C", SIDES, None), ("AB", SIDES, None), ("ABC", SIDES, None), ("B or C, hard to say", SIDES, None),
    ("A\nB", SIDES, None), ("A. B. C.", SIDES, None), ("(A) (B)", SIDES, None), ("B. left", SIDES, None), ("(B) up and away", SIDES, None), ("left (B)", SIDES, None), ("B: left", SIDES, None),
    ("B = left", SIDES, None), ("not B", SIDES, None), ("The answer is not B", SIDES, None), ("It isn't B", SIDES, None), ("neither", SIDES, None), ("none of them", SIDES, None), ("all", SIDES, None),
    ("The answer is A. No, the answer is B.", SIDES, None), ("The answer is A or B.", SIDES, None), ("The answer is B. left", SIDES, None), ("The answer is either A or B.", SIDES, None),
    ("A because B is wrong, or B", SIDES, None), ("B is wrong", SIDES, None), ("B is incorrect.", SIDES, None), ("Option A is wrong, option B is right", SIDES, None), ("答案不是B", SIDES, None),
    ("答案是A或B", SIDES, None), ("不选B", SIDES, None), ("정답은 A 또는 B", SIDES, None), ("left, right", SIDES, None), ("left or right", SIDES, None), ("leftright", SIDES, None), ("Yes and no", YES, None),
    ("Yes, it does not.", YES, None), ("Yes. No.", YES, None), ("B. up", SIDES, None), ("D", SIDES, None), ("D. right", SIDES, None), ("Answer: D", SIDES, None), ("", SIDES, None), ("...", SIDES, None),
    ("B. No wait, actually it is A.", SIDES, None), ("The answer is B. Wait, actually it is A.", SIDES, None), ("B\nActually A", SIDES, None), ("B\nA is also possible.", SIDES, None), ("B. Hmm, it could be A.", SIDES, None), ("The answer is B. Correction: C.", SIDES, None),
    ("B. There is no other way for it.", SIDES, "B"), ("B\n\nA square moves to the right.", SIDES, "B"), ("B\nC", SIDES, None), ("The answer is B.\n\nThe answer is B.", SIDES, "B"),
    ("the", SIDES, None), ("Because", SIDES, None), ("Be", SIDES, None), ("A man goes by", SIDES, None), ("a square", SIDES, None), ("2", SIDES, None), ("II", SIDES, None), ("Б", SIDES, None), ("Ответ: Б", SIDES, None),
    ("not option B", SIDES, None), ("The answer isn't option B", SIDES, None), ("I rule out option B", SIDES, None), ("I doubt it is B", SIDES, None), ("A is right", SIDES, None),
    ("B is right", SIDES, "B"), ("It stops at the edge, so option B.", SIDES, "B"), ("B右", ["A. 左", "B. 右"], "B"), ("B左", ["A. 左", "B. 右"], None), ("B is true", ["A. True", "B. False"], None),
    ("I think so", SIDES, None), ("It moves", SIDES, None), ("The second", SIDES, None), ("$", SIDES, None), ("()", SIDES, None), ("<answer>", SIDES, None),
    # texts as options
    ("a man", PETS, "B"), ("A man.", PETS, "B"), ("a dog", PETS, "A"), ("(A) a dog", PETS, "A"), ("small dog", PETS, None), ("a small dog", PETS, "C"), ("The man picks up the cup", LONG, "A"),
    ("B. The man puts down the cup", LONG, "B"), ("A. The man drinks.", LONG, None), ("The man", LONG, None), ("standing", BARE, "B"), ("B", BARE, "B"), ("B. Standing", BARE, "B"), ("C. Standing", BARE, None),
    ("Lying  down.", BARE, "C"), ("3", COUNTS, "B"), ("B", COUNTS, "B"), ("12", COUNTS, "C"), ("B. 3", COUNTS, "B"), ("B. 2", COUNTS, None), ("23", COUNTS, None), ("1", COUNTS, None),
    ("C", NOTES, None), ("A", NOTES, "A"), ("E", NOTES, "C"), ("B. D", NOTES, "B"), ("A", NAMES, None), ("B", NAMES, "B"), ("Newton", NAMES, None), ("A. Einstein", NAMES, "B"), ("I. Newton", NAMES, "A"),
    ("B", TIMES, "B"), ("P.M.", TIMES, "B"), ("p.m.", TIMES, "B"), ("B. P.M.", TIMES, "B"), ("A. P.M.", TIMES, None), ("右边", HAN, "B"), ("B、右边", HAN, "B"), ("Ｂ", HAN, "B"), ("B、左边", HAN, None),
    ("Б", RUSSIAN, "B"), ("пёс", RUSSIAN, "B"), ("Ответ: Б", RUSSIAN, "B"), ("Б) пёс", RUSSIAN, "B"), ("Б) кот", RUSSIAN, None), ("2", FIGURES, "B"), ("(2)", FIGURES, "B"), ("2. blue", FIGURES, "B"),
    ("B", FIGURES, "B"), ("2. red", FIGURES, None), ("②", FIGURES, "B"), ("right and up", LINES, "B"), ("B. right and up", LINES, "B"), ("B. right\nand up", LINES, "B"), ("A. right and up", LINES, None),
]

@pytest.mark.parametrize("reply, options, letter", CHOICES)
def test_what_a_reply_names(reply, options, letter): assert choice(reply, options) == letter


NUMBERS = [
    ("−7", -7), ("–7", -7), ("﹣7", -7), ("－７", -7), ("‑7", -7), ("minus seven", -7), ("minus 7", -7), ("负7", -7), ("negative 7", -7), ("-$7", -7), ("- 7", None), ("B-7", None), ("7-", 7),
    ("7 m", 7), ("7m", 7), ("7\u202fm", 7), ("≈ 7", 7), ("~7", 7), ("约7米", 7), ("7個", 7), ("共 7 只", 7), ("7개", 7), ("€7", 7), ("7,", 7), ("7。", 7), ("“7”", 7), ("(7)", 7), ("[7]", 7), ("**7**", 7),
    (r"\boxed{7}", 7), (r"$7$", 7), (r"7\,\text{m}", 7), (r"\text{7}", 7), (r"$x = 7$", 7), ("3 + 4 = 7", 7), ("x=7, y=8", None), ("7th", 7), ("7 (seven)", 7), ("7 (eight)", None), ("the answer is 7", 7),
    ("3 on the left and 4 on the right, so the answer is 7.", 7), ("答案是7", 7), ("정답: 7", 7), ("Antwort: -7", -7), ("7\n\nExplanation: 3 on the left, 4 on the right", 7), ("7\n8", None), ("7\n8 balls", None), ("3 left\n4 right", None), ("The answer is 7. No, 8.", None),
    ("4,321", 4321), ("4 321", 4321), ("1\u202f234", 1234), ("1\u00a0234,5", 1234.5), ("1'234", 1234), ("1’234.5", 1234.5), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("1.234.567", 1234567), ("12,34,567", 1234567),
    ("1.234", 1.234), ("１，２３４", 1234), ("٧", 7), ("७", 7), ("๗", 7), ("٧٫٥", 7.5), ("١٬٢٣٤", 1234), ("1,5", None), ("0,123", None), ("1,23", None), ("1,2,3", None), ("1.2.3", None), ("12,3456", None),
    ("1/4", .25), ("¼", .25), ("−¼", -.25), ("2¼", 2.25), ("2 1/4", 2.25), (r"\frac{1}{4}", .25), (r"2\frac14", 2.25), ("1⁄4", .25), ("a quarter", .25), ("half", .5), ("1/0", None), ("1/2/2024", None),
    ("2×10^3", 2000), ("2×10³", 2000), ("2 x 10^3", 2000), (r"2 \times 10^{3}", 2000), ("2e3", 2000), ("2E+3", 2000), ("10^3", 1000), ("10⁻³", .001), ("10<sup>3</sup>", 1000), ("2^3", None), ("10^999", None),
    ("seven", 7), ("Seventeen", 17), ("forty-two", 42), ("one hundred and five", 105), ("two thousand", 2000), ("seven squares", 7), ("2 million", 2e6), ("3万", 3e4), ("七", 7), ("十七", 17), ("二十三个", 23), ("三四个", None),
    ("sieben", 7), ("siete", 7), ("семь", 7), ("일곱", 7), ("once", None), ("one", 1), ("the red one", None), ("only one", 1), ("a dozen", None), ("none", None), ("many", None), ("seven or eight", None), ("seven or so", None),
    ("7-8", None), ("7–8", None), ("7~8", None), ("7 to 8", None), ("7 or 8", None), ("between 7 and 8", None), ("7, 8", None), ("7 8", None), ("7±1", None), ("±7", None), (">7", None), ("≥ 7", None), ("7+", None), ("more than 7", None),
    ("at least 7", None), ("fewer than 7", None), ("not 7", None), ("超过7", None), ("7个以上", None), ("7이상", None), ("7 or more", None), ("7:30", None), ("2024-05-06", None), ("0x7", None), ("0b11", None), ("7k", None), ("7B", None), ("3D", None), ("7e", None),
    ("√7", None), (r"\sqrt{7}", None), ("2π", None), ("7i", None), ("7x", None), ("log 7", None), ("x^2", None), ("seven and a half", None), ("7 and a half", None), ("half of 8", None), ("七分之一", None), ("...7", None), ("5 × 7", None),
    ("A7", None), ("x7", None), ("v7", None), ("", None), (".", None), ("-", None), ("%", None), ("∞", None), ("nan", None), ("1e999", None), ("Infinity", None), ("7 of 8", None), ("7 out of 8", None), ("10,000,00", None), ("1_000", 1000),
]

@pytest.mark.parametrize("reply, value", NUMBERS)
def test_what_number_a_reply_states(reply, value): assert number(reply, "lenient") == (value if value is None else pytest.approx(value))


PERCENT = [("50%", "0.5", 1), ("50 %", "0.5", 1), ("５０％", "0.5", 1), ("50 percent", "0.5", 1), ("٥٠٪", "0.5", 1), ("百分之五十", "0.5", 1), (r"50\%", "0.5", 1), ("0.5", "50%", 1), ("0.5", "50 percent", 1), ("50", "0.5", 0), ("1/2", "50%", 1), ("½", "0.50", 1), ("%50", "0.5", 1), ("٪٥٠", "0.5", 1)]

@pytest.mark.parametrize("reply, truth, right", PERCENT)
def test_a_percentage_in_any_notation(reply, truth, right): assert score("numerical", reply, truth, how="lenient") == right


RECORD = ["A. left", "B. right", "C. up"]
ENDS = [ # thought, options, the letter, "None" where it concludes nothing
    ("It goes left. No, right.", RECORD, "B"), ("It moves right, not left.", RECORD, "B"), ("It does not go right but up.", RECORD, "C"), ("left or right", RECORD, None), ("So (B).", RECORD, "B"), ("So the answer is B.", RECORD, "B"),
    ("So B is the right answer.", RECORD, "B"), ("It ends there. So B.", RECORD, "B"), (r"It ends there. $\boxed{B}$", RECORD, "B"), ("It starts left, so it's C.", RECORD, "C"), ("It isn't left.", RECORD, None), ("leftover and rightly", RECORD, None), ("因此选B", RECORD, "B"), ("所以是右边", ["A. 左边", "B. 右边"], "B"), ("不是左边，是右边", ["A. 左边", "B. 右边"], "B"),
    ("오른쪽으로 갑니다", ["왼쪽", "오른쪽"], "B"), ("So it is dark red.", ["A. red", "B. dark red"], "B"), ("I see 12 of them.", ["A. 1", "B. 2", "C. 12"], "C"), ("It reads 1.5", ["A. 1", "B. 1.5"], "B"), ("So it is P.M.", ["A.M.", "P.M."], "B"),
    ("So ＲＩＧＨＴ.", RECORD, "B"), ("So option\u00a0B.", RECORD, "B"), ("So it moves **right**.", RECORD, "B"), ("So it is Einstein.", ["I. Newton", "A. Einstein"], None), ("So it is A. Einstein.", ["I. Newton", "A. Einstein"], "B"),
]

@pytest.mark.parametrize("think, options, letter", ENDS)
def test_what_option_a_thought_ends_on(think, options, letter): assert conclusion(think, Record(problem_type="multiple choice", options=options)) == letter

@pytest.mark.parametrize("think, said", [
    ("Back from left, right stays so middle. So X.", "X"), ("From C T A, left stays so C A T. So C A T.", "C A T"), ("So it says GO.", "GO"), ("A sign reads STOP HERE", "STOP HERE"),
    ("I see A cat. So A.", "A"), ("nothing is said", None), ("First U. Then A H X", "A H X")])
def test_what_letters_a_thought_ends_on(think, said): assert conclusion(think, Record(problem_type="OCR")) == said

@pytest.mark.parametrize("think, answer, differs", [
    ("So there are 1,250.", "1,250", False), ("So 1.250,5 m.", "1,250.5", False), ("So 2e-3.", "0.002", False), ("So −7.", "-7", False), ("So ７.", "7", False), ("So seven.", "7", False), ("So three quarters, 3/4.", "0.75", False),
    ("There are no balls.", "0", False), ("So 40 percent.", "0.4", False), ("Three red, no blue: 3 balls.", "three", False), ("So 1,250.", "250", True), ("So −7.", "7", True), ("So 7.", "-7", True), ("So 5-6.", "6", None),
    ("Between 3 and 4.", "4", None), ("More than 7.", "7", None), ("It is B2.", "2", None), ("Hard to say.", "7", None)])
def test_a_number_in_thought_and_answer_is_read_alike(think, answer, differs): assert mismatch(think, answer, Record(problem_type="numerical", solution="7")) is differs


WRAPS = ["**{}**", "*{}*", "`{}`", "({})", "[{}]", "“{}”", "「{}」", "（{}）", "【{}】", "\\boxed{{{}}}", "\\text{{{}}}", "$\\boxed{{\\text{{{}}}}}$", "\\({}\\)", "<b>{}</b>", " {}\n", "{}.", "{}。", "{}!", "\u200b{}\ufeff",
         "The answer is {}", "The answer is **{}**.", "Answer: {}", "答案是{}。", "答案：【{}】", "정답은 {}입니다", "Ответ: {}.", "Antwort: {}", "La réponse est {}.", "Respuesta: {}"]

def wide(text): return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "\u3000" if char == " " else char for char in text)

@given(st.sampled_from(["A", "B", "C", "b", "right", "Left", "up and away", "D", "A or B", "not A", "B. left", "B. right"]), st.lists(st.sampled_from(WRAPS), max_size=2))
def test_markup_and_words_round_an_answer_change_nothing(said, wraps):
    reply = said
    for wrap in wraps: reply = wrap.format(reply)
    assert choice(reply, SIDES) == choice(said, SIDES), reply

@given(st.sampled_from([reply for reply, *_ in CHOICES + NUMBERS]) | st.text(alphabet="ABCabc 123.,-+/()[]%=:", max_size=12), st.integers(0, 40))
def test_width_of_signs_and_signs_unseen_change_nothing(reply, place):
    hidden = reply[:place] + "\u200b" + reply[place:]
    assert choice(wide(reply), SIDES) == choice(hidden, SIDES) == choice(reply, SIDES)
    assert number(wide(reply), "lenient") == number(hidden, "lenient") == number(reply, "lenient")

@given(st.integers(-10**9, 10**9))
def test_a_whole_number_in_any_notation(n):
    sign, digits = "-" * (n < 0), f"{abs(n):,}"
    forms = [f"{n}", f"{n:,}", wide(f"{n}"), sign + digits.replace(",", " "), sign + digits.replace(",", "\u202f"), sign + digits.replace(",", "'"), "−" * (n < 0) + digits, f"{n}.0", f"{n:,}.00", f"{n} m", f"\\boxed{{{n}}}"]
    forms += ["".join(chr(0x660 + int(char)) if char.isdigit() else char for char in f"{n}"), f"答案是{n}", f"The answer is {n:,}."]
    for form in forms: assert number(form, "lenient") == n, form

@given(st.text(max_size=60) | st.text(alphabet="ABab .,:()[]{}$\\*_<>0123456789/^-%答案是选或", max_size=40), st.lists(st.text(max_size=12), max_size=4))
def test_no_text_and_no_options_break_the_reading(text, options):
    letter, value = choice(text, options), number(text, "lenient")
    assert letter is None or not options or letter in lettered(options)
    assert value is None or math.isfinite(value)
    assert len(mentioned(text, options)) <= len(text) + 1 and all(map(math.isfinite, (each.value for each in numerals(text) if each)))


# Options, however they are labelled

FORMS = ["{}. {}", "({}) {}", "{}) {}", "{}: {}", "{}.{}", "[{}] {}", "{}、{}", "{}．{}", "（{}）{}", "{} - {}", "**{}.** {}", "**{}**. {}", "Option {}: {}", "<{}> {}", "{})  {}\n", "\n{}. {}"]
LABELS = ["AB", "ab", "12", "①②", ["I", "II"], "ＡＢ", "АБ", "가나", "甲乙", "アイ", "αβ"]

@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_labels_are_read_in_every_form(form, labels):
    options = [form.format(label, text) for label, text in zip(labels, ("a red ball", "a box"))]
    assert lettered(options) == dict(A="a red ball", B="a box")
    for said in ("B", "a box", options[1], "B. a box", f"({labels[1]})"):
        record = Record("1", "What?", "multiple choice", path="a.mp4", options=options, solution=f"<answer>{said}</answer>")
        assert record.validate().truth == "B" and score_record(record, "b", "lenient") == score_record(record, "A box.", "lenient") == 1, said
    assert "a box" in shown(options)[1] and re.match(r"\W*(Option )?B\b", shown(options)[1])

@pytest.mark.parametrize("options, texts", [
    (dict(A="a ball", B="a box"), ["a ball", "a box"]), ('{"A": "a ball", "B": "a box"}', ["a ball", "a box"]), (dict(A="A. a ball", B="B. a box"), ["a ball", "a box"]), (["B.C.", "A.D."], ["B.C.", "A.D."]),
    (["1.5 m", "2.5 m"], ["1.5 m", "2.5 m"]), (["A.7", "B.8"], ["7", "8"]), (["A:7:30", "B:8:30"], ["7:30", "8:30"]), (["T. rex", "A. ferox"], ["T. rex", "A. ferox"]), (["1:30", "2:30"], ["1:30", "2:30"]), (["1", "2"], ["1", "2"]), (["A. red", "B. blue", "none"], ["red", "blue", "none"]), (["A ball", "A box"], ["A ball", "A box"]),
    (["J. Bach", "B. Bartók"], ["J. Bach", "Bartók"]), (["A. Bach", "A. Vivaldi"], ["Bach", "A. Vivaldi"]), (["A. up\nthen down", "B. down"], ["up\nthen down", "down"]), ([str(i) for i in range(200, 230)], [str(i) for i in range(200, 230)])])
def test_the_text_of_each_option(options, texts):
    found = lettered(Record.from_dict(dict(options=options)).options)
    assert list(found.values()) == texts and list(found)[:2] == ["A", "B"] and (len(found) < 27 or list(found)[26:] == ["AA", "AB", "AC", "AD"])

@pytest.mark.parametrize("options, truth", [
    (["W. Mozart", "A. Vivaldi", "B. Bartók"], "A"), (["W. Mozart", "A. Vivaldi", "B. Bartók"], "B"), (["T. rex", "A. ferox"], "A"), (["B. Up", "A. Down"], "A"), (["G", "A", "B"], "A"), (["A. a box", "A. a ball"], "A"), (["a box", "a box"], "a box"),
    (["A. a box", "B. a ball"], "A. a ball"), (["A. a box", "B. a ball"], "A or B"), (["A. a box", "B. a ball"], "C"), (["2. a box", "1. a ball"], "1"), (["1. 2", "2. 1"], "1")])
def test_a_truth_that_could_be_two_options_is_refused_by_name(options, truth):
    with pytest.raises(RecordError, match="record '1': field `(solution|options)`"):
        Record("1", "What?", "multiple choice", path="a.mp4", options=options, solution=f"<answer>{truth}</answer>").validate()

def test_everyone_sees_the_letters_that_count():
    from videop2r.cot import Prompt
    from videop2r.judge import question
    record = Record("1", "What?", "multiple choice", path="a.mp4", options=["1. a ball", "2. a box"], solution="<answer>2</answer>")
    for text in (Prompt().render(record), question(record, "A box."), record._repr_markdown_()): assert "A. a ball" in text and "B. a box" in text
    assert Prompt().render(example_record()).count("A. left") == 1


# Words of every script

@pytest.mark.parametrize("truth, near, far", [
    ("红球向左滚", "红球向左滚动", "一只鸟"), ("赤いボールが転がる", "赤いボールが転がった", "鳥"), ("빨간 공이 굴러간다", "빨간 공이 굴러갔다", "새"), ("красный мяч катится", "Красный мяч катится влево.", "птица летит"),
    ("الكرة تتدحرج يسارا", "الكرة تتدحرج", "طائر"), ("ลูกบอลสีแดงกลิ้ง", "ลูกบอลสีแดงกลิ้งไป", "นก"), ("लाल गेंद लुढ़कती है", "लाल गेंद लुढ़कती", "चिड़िया"), ("η κόκκινη μπάλα κυλά", "η κόκκινη μπάλα", "πουλί"), ("2个红球", "2个红球。", "2 birds"), ("قِطَّة تنام", "قطة تنام", "طائر يطير"), ("ёж спит", "еж спит", "птица летит"), ("đỏ", "đỏ.", "xanh")])
def test_free_answers_in_any_script(truth, near, far):
    for how in RULES:
        assert score("free-form", truth, truth, how=how) >= .6 <= score("free-form", near, truth, how=how), how
        assert score("free-form", far, truth, how=how) < .3 and score("free-form", "a red ball rolls left", truth, how=how) == 0

@given(st.text(max_size=20), st.text(alphabet="the red ball rolls 12 élan.", min_size=1, max_size=20).filter(lambda text: re.search("[a-z0-9]", text)))
def test_a_latin_truth_is_scored_by_rouge_as_it_comes(prediction, truth):
    from rouge_score.rouge_scorer import RougeScorer
    plain = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(truth, prediction)
    assert score("free-form", prediction, truth) == (sum(each.fmeasure for each in plain.values()) / 3 if prediction.strip() else 0)

def test_an_evaluation_asks_nothing_about_a_truth_that_cannot_be_read():
    bad = Record("7", "How many?", "numerical", path="a.mp4", solution="<answer>a few</answer>")
    asked = []
    policy = SimpleNamespace(respond=lambda prompts, *a, features, **kw: asked.extend(zip(prompts, features)) or ["<answer>B</answer>"] * len(prompts))
    with pytest.warns(UserWarning, match="left out: record '7': field `solution`"):
        rows = evaluate(policy, [bad, example_record(), bad, example_record()], [0, 1, 2, 3], Judge(lambda r, o: Verdict(True)), features="abcd", batch=1, traced=False)
    assert asked == [(1, "b"), (3, "d")] and [row["answer"] for row in rows] == [None, 1, None, 1] and all("a few" in rows[i]["left_out"] for i in (0, 2))

@pytest.mark.parametrize("stated, truth, value", [("50%", "0.5", 1.), ("0.5", "50%", 1.), ("45%", "0.5", .9), ("50", "50%", 1.), ("50%", "50", 1.), ("5", "0", 0.), ("0", "0", 1.), ("many", "3", 0.)])
def test_a_percent_sign_is_read_alike_by_every_score_of_a_number(stated, truth, value):
    assert score("regression", stated, truth, how="lenient") == pytest.approx(value)
    assert (mra(stated, truth, how="lenient") == 1.) == (value == 1.) == (score("numerical", stated, truth, how="lenient") == 1.)

@pytest.mark.parametrize("text, value", [
    ("two-thirds", 2 / 3), ("three-quarters", .75), ("one-half", .5), ("three-fourths", None), ("seven eighths", None), ("two fifths", None), ("two dozen", None), ("5 bn", None), ("5 k", None), ("5‰", None),
    ("3\\pi", None), ("三点五", None), ("几十", None), ("\\boxed{3}\\boxed{5}", None), ("\\boxed{7}", 7), ("twenty-one", 21), ("5 km", 5), ("5 kg", 5), ("2 dozen", 24), ("五个", 5), ("5 million", 5e6)])
def test_no_part_of_a_number_is_the_number(text, value):
    assert number(text, "lenient") == (value if value is None else pytest.approx(value))
