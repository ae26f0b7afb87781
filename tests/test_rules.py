"""The published rules on small strings: what the originals gave for them, as noted when they were run."""
import pytest
from videop2r.engine import rules
from videop2r.engine.files import RecordError
from videop2r.engine.rules import JUDGE, NO_RULE, SUITES, Mark, mark

CHOICE, NUMBER, MRA, YES_NO, MATCH = "multiple choice", "numerical", "regression", "yes or no", "caption matching"
ABCD = ["A. a dog", "B. a cat", "C. a cow", "D. a hen"]

def score(response, suite, benchmark="video-mme", kind=CHOICE, truth="B", options=ABCD, raw=True):
    row = dict(benchmark=benchmark, kind=kind, truth=truth, options=options, response=response)
    alone = raw and suite == "lmms-eval" and SUITES[suite].get(benchmark, {}).get(kind)
    if alone: return alone(response, row).score # the task's function, as it was run
    return mark(row, suite, raw).score

TEXTS = { # output: Video-R1, EasyVideoR1, lmms-eval's shared extractor, VLMEvalKit's spatial one; truth B
    "<answer>B</answer>": (1, 1, 1, 1), "<answer>b</answer>": (0, 1, 0, 1), "<answer>B.</answer>": (0, 1, 1, 1),
    "<answer>B. cat</answer>": (0, 0, 1, 1), "The answer is a cat. <answer>B. cat</answer>": (0, 0, 1, 1),
    "<answer>AB</answer>": (0, 0, 1, 0), "<think>the answer is A? no</think>B": (0, 0, 1, 1),
    "<think>A is wrong. C is wrong.</think><answer>B</answer>": (1, 1, 0, 1),
    "<observation>A dog.</observation><think>so D.</think><answer>B</answer>": (1, 1, 0, 1), "B": (1, 1, 1, 1)}

@pytest.mark.parametrize("text", TEXTS)
def test_choices_are_read_as_each_suite_reads_them(text):
    found = [score(text, suite, benchmark) for suite, benchmark in (("video-r1", "video-mme"), ("easyvideor1", "video-mme"), ("lmms-eval", "video-mme"), ("vlmevalkit", "vsi-bench"))]
    assert found == list(TEXTS[text])

def extracted(response, suite, benchmark, kind=CHOICE, truth="B", options=ABCD):
    row = dict(benchmark=benchmark, kind=kind, truth=truth, options=options, response=response)
    if suite == "lmms-eval": return SUITES[suite][benchmark][kind](response, row).extracted
    return mark(row, suite, True).extracted

@pytest.mark.parametrize("text, letter", [("A good choice is hard", "A"), ("Apple", "A"), ("I think the answer is (C), not A", "A"), ("Both A and B", "B"), ("b", None)])
def test_lmms_evals_letter(text, letter): assert extracted(text, "lmms-eval", "video-mme") == letter

def test_easyvideor1_reads_letters_that_are_none():
    assert extracted("The answer is a cat. <answer>B. cat</answer>", "easyvideor1", "mvbench") == "A"
    assert extracted("<answer>AB</answer>", "easyvideor1", "mvbench") == "AB"

# 9 and 9.5 of 10 are also seen as 0.8 and 0.9 for Video-R1's rule: its thresholds are float32 from torch.arange, whose last bit differs between builds; those of 2.13 are taken
NEAR = [(5, 10, .1, 0), (6, 10, .3, .2), (7.5, 10, .6, .5), (9, 10, .9, .9), (9.5, 10, 1, 1), (3, 4, .6, .5), (4, 5, .6, .6), (1, 2, .1, 0), (2, 1, 0, 0)]

@pytest.mark.parametrize("stated, truth, at_most, below", NEAR)
def test_relative_accuracy_at_and_below_the_threshold(stated, truth, at_most, below):
    given = dict(benchmark="vsi-bench", kind=MRA, truth=str(truth), options=[])
    assert [score(str(stated), suite, **given) for suite in ("official", "lmms-eval", "vlmevalkit")] == [at_most] * 3
    assert [score(str(stated), suite, **given) for suite in ("video-r1", "easyvideor1")] == [below] * 2

NUMBERS = { # official, lmms-eval, vlmevalkit, video-r1, easyvideor1
    "4 chairs": (4, 4, 4, None, 4), "There are four": (None, 4, 4, None, None), "between 3 and 5": (None, 3, 5, None, None),
    "1,200": (None, 1, 200, 1200, 1200), "one apple, room 2": (None, 1, 2, None, 2), "<think>2</think> 4": (None, 2, 4, None, 4),
    "$1,000": (None, 1, 0, None, 1000), "3.5.": (3.5, 3.5, 3.5, None, None)}

@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read_as_each_suite_reads_them(text):
    suites = ("official", "lmms-eval", "vlmevalkit", "video-r1", "easyvideor1")
    assert tuple(extracted(text, suite, "vsi-bench", MRA, "4", []) for suite in suites) == NUMBERS[text]

@pytest.mark.parametrize("text, truth, scores", [("12.97 m", "12.97", (1, 0, 1)), ("12.974", "12.97", (1, 1, 1)), ("4.0", "4", (1, 0, 0)), ("four", "4", (0, 0, 0))])
def test_numerical_answers_of_video_mmmu(text, truth, scores):
    given = dict(benchmark="video-mmmu", kind=NUMBER, truth=truth, options=[])
    assert tuple(score(text, suite, **given) for suite in ("lmms-eval", "video-r1", "easyvideor1")) == scores

@pytest.mark.parametrize("text, truth", [("between 12.97 and 14", "12.97"), ("the total is 4 of 10", "4")])
def test_a_number_among_others_is_enough_for_lmms_eval(text, truth):
    given = dict(benchmark="video-mmmu", kind=NUMBER, truth=truth, options=[])
    assert (score(text, "lmms-eval", **given), score(text, "video-r1", **given)) == (1, 0)

TEN = [f"{letter}. thing" for letter in "ABCDEFGHIJ"]

def test_letters_of_video_mmmu():
    texts = ("<answer>B</answer>", "I like A. But B.", "A cat (B)")
    assert [extracted(text, "vlmevalkit", "video-mmmu", options=TEN) for text in texts] == [None, "A", "B"]
    assert [extracted(text, "lmms-eval", "video-mmmu", options=TEN) for text in texts] == ["B", "I", "A"]

def means(replies, truth, benchmark, suites, options=ABCD, **kw):
    def one(suite):
        known = [s for s in (score(r, suite, benchmark, truth=truth, options=options, **kw) for r in replies) if s is not None]
        return round(100 * sum(known) / len(known), 1)
    return [one(suite) for suite in suites]

def test_empty_replies_of_video_mmmu_are_wrong_or_left_out():
    assert means(["B", "A", ""], "B", "video-mmmu", ("lmms-eval", "vlmevalkit", "video-r1"), TEN) == [33.3, 50, 33.3]

LIGHT = ["A. red", "B. blue", "C. green light", "D. dark", "E. none"]

@pytest.mark.parametrize("text, right", [("A or C", 1), ("I think A, but a C is possible", 1), ("A because the light is cool", 1), ("the light is on, Class", 1), ("A", 0)])
def test_lmms_evals_mmvu_is_content_with_little(text, right):
    given = dict(benchmark="mmvu", truth="C", options=LIGHT)
    assert (score(text, "lmms-eval", **given), score(text, "video-r1", **given)) == (right, 0)

@pytest.mark.parametrize("text", ["", "1", "12 grams", "kg"])
def test_lmms_evals_open_rule(text): assert score(text, "lmms-eval", "mmvu", "open", "12 kg", []) == 1

def test_lmms_eval_reads_every_raised_digit(): assert score("n^7", "lmms-eval", "mmvu", "open", "n⁷", []) == 1

def test_lmms_eval_leaves_a_failed_call_out():
    given = dict(benchmark="video-mmmu", kind=NUMBER, truth="4", options=[])
    assert score("API Error", "lmms-eval", **given) is None and score("api error", "lmms-eval", **given) == 0

def test_what_needs_a_judge_is_not_wrong():
    row = dict(kind="open", truth="a dog", options=[], response="a cat")
    assert {mark(dict(row, benchmark="mmvu"), suite) for suite in ("official", "lmms-eval", "video-r1", "easyvideor1", "ours")} == {Mark(None, None, JUDGE), Mark("a cat", None, JUDGE)}
    assert mark(dict(row, benchmark="tempcompass", kind="captioning"), "official") == Mark(None, None, JUDGE)
    assert mark(dict(row, benchmark="mmvu", kind=CHOICE, options=LIGHT), "official") == Mark(None, None, JUDGE)
    assert mark(dict(row, benchmark="mmvu"), "vlmevalkit") == mark(dict(row, benchmark="vcr-bench"), "lmms-eval") == Mark(None, None, NO_RULE)

@pytest.mark.parametrize("text, right", [("[11, 20]", 1), ("[13, 20]", 0)])
def test_overlap_of_vcr_bench(text, right): assert score(text, "official", "vcr-bench", "open", "[10, 20]", []) == right

def test_boxes_of_vcr_bench():
    assert score("[0, 0, 10, 6]", "official", "vcr-bench", "open", "[0, 0, 10, 10]", []) == 1 # 0.6
    assert score("[0, 0, 10, 5]", "official", "vcr-bench", "open", "[0, 0, 10, 10]", []) == 0 # 0.5
    assert score("from 11 to 20", "official", "vcr-bench", "open", "[10, 20]", []) is None

PIECES = { # official, lmms-eval; truth (B) a cat
    "B": (1, 1), "The answer is B": (0, 1), "a cat": (0, 0), "It is a B": (0, 0), "(": (1, 0), ") B": (1, 1), "<answer>B</answer>": (0, 1), "<think>A?</think><answer>B</answer>": (0, 0)}

@pytest.mark.parametrize("text", PIECES)
def test_mvbench(text): assert tuple(score(text, suite, "mvbench") for suite in ("official", "lmms-eval")) == PIECES[text]

def test_mvbenchs_four_means(): assert means(["B", "B", "A", ""], "B", "mvbench", ("official", "lmms-eval", "vlmevalkit", "video-r1")) == [75, 66.7, 75, 50]

def test_missing_replies_are_right_for_vlmevalkit():
    assert score(None, "vlmevalkit", "mvbench") == 1 and score(None, "video-r1", "mvbench") == 0

def test_tempcompass():
    given = dict(benchmark="tempcompass", truth="yes", options=[], kind=YES_NO)
    assert (score("<answer>yes</answer>", "official", **given), score("<answer>yes</answer>", "video-r1", **given)) == (0, 1)
    assert score("Nothing moves", "official", **dict(given, truth="no")) == 1
    assert (score(" yes", "official", **given), score(" yes", "lmms-eval", **given)) == (1, 0)
    choice = dict(benchmark="tempcompass", options=["A. fast", "B. slow"])
    assert [score(text, "lmms-eval", **choice) for text in ("B. slow", "B", "B)", "B.", "slow", " B. slow")] == [1, 1, 1, 1, 0, 0]
    assert score(" B. slow</s>", "official", **choice) == 1 # it takes blanks off since February 2025

MATCHES = ["Caption A: a dog runs", "Caption B: a cat sits"]

@pytest.mark.parametrize("text, right", [("Caption B: a cat sits", 1), ("Caption B", 1), ("B", 1), ("B.", 1), ("a cat sits", 1), ("caption b", 0), ("A", 0), ("so B", 0)])
def test_caption_matching(text, right): assert score(text, "official", "tempcompass", MATCH, "Caption B: a cat sits", MATCHES) == right

def test_a_caption_with_a_colon_counts_up_to_it():
    colon = ["Caption A: the dog: it runs", "Caption B: the cat: it runs"]
    assert [score(text, "lmms-eval", "tempcompass", MATCH, colon[1], colon) for text in ("the cat", "the cat: it runs", colon[1], "2) the cat")] == [1, 0, 1, 1]

MME = { # official, vlmevalkit, lmms-eval, video-r1, easyvideor1; truth C
    "Definitely C": (0, 0, 1), "c": (None, 0, 0, 0, 1), "Because C": (0, 0, 1), "<think>A dog</think><answer>C</answer>": (0, 0, 0, 1, 1)}

@pytest.mark.parametrize("text", MME)
def test_video_mme(text):
    found = tuple(score(text, suite, "video-mme", truth="C") for suite in ("official", "vlmevalkit", "lmms-eval", "video-r1", "easyvideor1"))
    assert found[:len(MME[text])] == MME[text]
    assert extracted("Definitely C", "official", "video-mme", truth="C") == "D" and extracted("Because C", "official", "video-mme") == "B"

def test_video_mmes_four_means(): assert means(["C", "C", "A", "c?"], "C", "video-mme", ("official", "lmms-eval", "vlmevalkit", "video-r1")) == [66.7, 50, 50, 50]

EVALUATED = { # raw output: lmms-eval's task alone, and behind its evaluator (0.7.3), which takes thoughts and blanks off; truth B
    "<think>A is wrong. C is wrong.</think><answer>B</answer>": (0, 1), "C. It is wrong</think>(B) it is": (0, 1), "<analysis>(D)</analysis> B: here": (0, 1),
    "<think>A dog. B": (1, 1), "<observation>A dog.</observation><think>so D.</think><answer>B</answer>": (0, 0), "<think>(D)</think><think>(C)</think>\nB: so": (0, 1)}

@pytest.mark.parametrize("text", EVALUATED)
def test_lmms_evals_evaluator_takes_thoughts_off(text):
    row = dict(benchmark="video-mme", kind=CHOICE, truth="B", options=ABCD, response=text)
    assert (score(text, "lmms-eval"), mark(row, "lmms-eval", raw=True).score) == EVALUATED[text]

def test_lmms_evals_evaluator_takes_blanks_off():
    row = dict(benchmark="tempcompass", kind=CHOICE, truth="B", options=["A. fast", "B. slow"], response=" B. slow")
    assert mark(row, "lmms-eval", raw=True).score == 1 and mark(row, "vlmevalkit", raw=True).score == 0
    empty = dict(benchmark="mvbench", kind=CHOICE, truth="B", options=ABCD, response=" \n")
    assert mark(empty, "lmms-eval").why == "left out by the rule"

def test_foreign_rules_are_fed_the_content_unless_raw_is_asked():
    trace = "<observation>A dog.</observation><think>so D.</think><answer>B</answer>"
    row = dict(benchmark="video-mme", kind=CHOICE, truth="B", options=ABCD, response=trace)
    assert [mark(row, "lmms-eval", raw).score for raw in (False, True)] == [1, 0]
    assert [score(trace, "video-r1", raw=raw) for raw in (False, True)] == [1, 1]

def test_ours_reads_as_a_person_does():
    assert score("The answer is (b)", "ours") == score("a cat", "ours") == 1
    assert score("Yes, it does.", "ours", "tempcompass", YES_NO, "yes", []) == 1
    assert score("It is Caption B", "ours", "tempcompass", MATCH, "Caption B: a cat sits", MATCHES) in (0, 1)
    assert score("about four", "ours", "vsi-bench", MRA, "4", []) == 1
    assert score("A red square", "ours", "records", "free-form", "a red square", []) == 1

@pytest.mark.parametrize("suite", SUITES)
def test_a_truth_that_cannot_be_read_is_named(suite):
    row = dict(id="7", benchmark="vsi-bench", kind=MRA, truth="many", options=[], response="4")
    with pytest.raises(RecordError, match="vsi-bench, question '7'.*`truth`"): mark(row, suite)

@pytest.mark.parametrize("suite", SUITES)
def test_long_and_hostile_replies_take_no_time(suite):
    import time
    start, n = time.process_time(), 1500
    for text in ("<answer>" * n, "<answer " * n, "A " * 2 * n, "1," * 2 * n, "(" * 3 * n, "\n" * 3 * n, "<think>" * n, "[" * n + "]", "answer is " * n, "the answer" + " " * 3 * n + "x"):
        for benchmark, kind, truth in (("vsi-bench", CHOICE, "B"), ("vsi-bench", MRA, "4"), ("mvbench", CHOICE, "B"), ("video-mmmu", CHOICE, "B"), ("video-mmmu", NUMBER, "4"), ("mmvu", CHOICE, "B"), ("mmvu", "open", "4"), ("vcr-bench", "open", "[1, 2]")):
            score(text, suite, benchmark, kind, truth)
    assert time.process_time() - start < 5
