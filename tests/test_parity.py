"""lmms-eval's own scoring functions beside our rule of that name, question by question: `make parity`, or VIDEOP2R_LMMS with the Python of an environment that holds it."""
import json, os, random, subprocess
from functools import cache
from pathlib import Path
import pytest
from videop2r.benchmarks import Predictions, mark_all, score_all
from videop2r.engine.rules import SUITES, mark
from videop2r.engine.suites import read_suite

PYTHON = os.environ.get("VIDEOP2R_LMMS")
N = int(os.environ.get("VIDEOP2R_PARITY", 1000)) # replies a benchmark
CHILD = Path(__file__).with_name("lmms_child.py")
pytestmark = pytest.mark.skipif(not PYTHON, reason="not run: VIDEOP2R_LMMS names no Python with lmms-eval; `make parity` makes one")

WORDS = "red blue green light lamp dog cat the a is no yes not left right slow fast class so has are moves cool kg".split()
LEADS = ("", "", "", "The answer is ", "The best answer is: ", "I choose ", "Option ", "Definitely ", "It must be ", "Because of the light, ", "Between A and C I pick ", "Caption ", "答案是", "so ", "answer = ", "No. ", "Yes, ")
FORMS = ("{0}", "({0})", "{0}.", "{0})", "{0}:", "{0}. {1}", "({0}) {1}", "{0}: {1}", "{1}", "**{0}**", "{2}", "({2})", "{0} or {3}", "{0}, {3}", "{0}{3}", "{0}/{3}", "not {3} but {0}", "{3} is wrong. {0} is right.", "[{0}]", "{0}\n{1}", "Z", "{0} {1}", "'{0}'", '"{0}".')
NUMBERS = ("{n}", "{n}.", "{n}.0", "{n} chairs", "about {n} m", "{n},000", "1,{n}00", "{n}e2", "-{n}", "+{n}", "{n}/2", "between {n} and {k}", "{w}", "{w} hundred and {w}", "twenty-{w}", "There are {w} of them", "{w} lamps, room {k}", "${n}", "{n}%", "n² + {n}", "O(n²)", "{n}.{k}{k}", "= {n}", "the total is {n} of {k}", ".5", "nan", "inf", "12 grams", "10⁵ and n⁷", "٣")
TAILS = ("", "", "", ".", "!", "\n", " ", "\t", " I am sure.", " because of the light", "\nThe other one is not right.", "</s>")
WRAPS = ("{0}", "{0}", "{0}", "<answer>{0}</answer>", "<think>A is wrong, so {1}.</think><answer>{0}</answer>", "<observation>A dog, {1}.</observation><think>C?</think><answer>{0}</answer>", "<think>{1}</think>{0}", "{1}</think> {0}", "<analysis>{1}</analysis> {0}", "<think>{1}", "<think>a<think>B</think>{0}", " {0}", "{0}<answer>{0}")
FIXED = ("", " ", "\n", "API Error", "I cannot see the video.", "A", "b", "E.", "none", "(", "<answer></answer>", "yes", "No", "Nothing moves", "aBc", "....", "A B C D E", "the A", "Caption: B", "1) a dog runs")
COUNTS = "zero one two three four five six seven eight nine ten eleven twelve thirty hundred thousand".split()

def reply(draw, options, truth):
    "One reply of many forms about a question."
    if draw.random() < .05: return draw.choice(FIXED)
    if options and draw.random() < .1: return draw.choice(["", "", "(1) ", " "]) + draw.choice([*(own := draw.choice(options)).split(": "), own, own.partition(": ")[2], own.partition(". ")[2], *own.partition(":")[0].split()]) + draw.choice(["", "", "."])
    texts = options or [truth, draw.choice(WORDS)]
    i, j = draw.randrange(len(texts)), draw.randrange(len(texts))
    full = draw.choice([texts[i], truth, texts[i].partition(". ")[2] or texts[i], texts[i].partition(": ")[2] or texts[i]])
    letter, other = "ABCDEFGHIJ"[i], "ABCDEFGHIJ"[j]
    if draw.random() < .15: letter = draw.choice("ABCDEFGHIJKXYZ")
    said = draw.choice(FORMS).format(letter, full, letter.lower(), other)
    if draw.random() < (.2 if options else .8): said = draw.choice(NUMBERS).format(n=draw.choice([truth, draw.randrange(40)]), k=draw.randrange(10), w=draw.choice(COUNTS))
    said = draw.choice(LEADS) + said + draw.choice(TAILS)
    if draw.random() < .3: # tokens in no order
        bag = [letter, other, full, said, truth, *draw.sample(WORDS, 3), *draw.choices([".", ",", "(", ")", ":", "\n", "answer is", "is", "=", "3", "2.5", "1,200", "-", "_", "'", "O(n)", ";"], k=4)]
        said = draw.choice([" ", " ", ""]).join(draw.sample(bag, draw.randrange(1, len(bag))))
    if draw.random() < .1: said = draw.choice([str.lower, str.upper, str.title])(said)
    return draw.choice(WRAPS).format(said, " ".join(draw.sample(WORDS + list("ABCD"), 4)))

def texts(draw, n): return [" ".join(draw.sample(WORDS, draw.randrange(1, 4))) for _ in range(n)]

def vsi(draw):
    "Official rows of VSI-Bench, all of its tasks."
    counts = dict.fromkeys(("object_counting", "object_size_estimation", "object_abs_distance", "room_size_estimation"), 0) | dict(object_rel_distance=4, object_rel_direction_easy=2, object_rel_direction_medium=3, object_rel_direction_hard=4, route_planning=3, obj_appearance_order=4)
    for i in range(60):
        task, n = list(counts.items())[i % len(counts)]
        truth = draw.choice("ABCD"[:n]) if n else draw.choice([str(draw.randrange(1, 30)), f"{draw.uniform(.1, 9):.1f}"])
        yield task, dict(id=i, dataset="scannet", scene_name=f"scene{i:04d}_00", question_type=task, question="Which?", ground_truth=truth, options=[f"{l}. {t}" for l, t in zip("ABCD", texts(draw, n))] or None)

def mmmu(draw):
    for i in range(60):
        n, subject = draw.choice((2, 4, 5, 10)), draw.choice(("Art_Theory", "Biology", "Manage", "Public_Health"))
        form = "open" if i % 3 == 0 else "multiple-choice"
        truth = draw.choice("ABCDEFGHIJ"[:n]) if form != "open" else draw.choice(["12.97", "4", "1200", "yes", "b", "red lamp", "0.5", "1e3"])
        options = texts(draw, n)
        if i % 5 == 0: options = [f"{l}. {t}" for l, t in zip("ABCDEFGHIJ", options)]
        yield ("Adaptation", "Comprehension", "Perception")[i % 3], dict(id=f"validation_{subject}_{i}", question="<image 1> Which?", options=[] if form == "open" else options, answer=truth, question_type=form)

def mmvu(draw):
    for i in range(60):
        truths = ["12 kg", "O(n²)", "Depth-First Search (DFS)", "red lamp", "n⁵", "3.50", "the left dog moves", "No"]
        form = "open-ended" if i % 2 else "multiple-choice"
        options = dict(zip("ABCDE", texts(draw, 5) if i % 2 == 0 else [""] * 5))
        answer = draw.choice(truths) if i % 2 else draw.choice("ABCDE")
        path = f"x/videos/{draw.choice(['Law', 'Computer_Science', 'Dentistry'])}/{i}.mp4"
        yield "validation", dict(id=f"validation_{i}", video=path, video_path=path, question_type=form, metadata={}, question="Which?", choices=options, answer=answer)

def mvbench(draw):
    for i in range(60):
        candidates = list(dict.fromkeys(texts(draw, draw.choice((2, 3, 4, 5))))) + ["a cat"]
        yield ("action_sequence", "object_shuffle", "scene_transition")[i % 3], dict(video=f"v{i}.mp4", question="Which?", candidates=candidates[:5], answer=draw.choice(candidates[:5]))

def tempcompass(draw):
    for i in range(60):
        task = ("multi-choice", "yes_no", "caption_matching")[i % 3]
        said = [*texts(draw, 2), "the red dog: it moves"]
        lines = {"multi-choice": [f"{l}. {t}" for l, t in zip("ABC", said)], "yes_no": [], "caption_matching": [f"{draw.choice(['Caption {}', 'Sentence {}'])}".format(l) + f": {t}" for l, t in zip("AB", said[1:])]}[task]
        if task == "caption_matching" and i % 2: lines = [f"Option {k}: {t}" for k, t in zip("12", said)]
        truth = draw.choice(lines) if lines else draw.choice(["yes", "no"])
        yield task, dict(video_id=str(i), dim="speed", question="\n".join(["Which?", *lines]), answer=truth)

def mme(draw):
    for i in range(60): yield "videomme", dict(video_id=str(i), duration=draw.choice(["short", "medium", "long"]), domain="Knowledge", sub_category="Law", url="", videoID=f"v{i}", question_id=f"{i}-1", task_type="Counting Problem", question="Which?", options=[f"{l}. {t}" for l, t in zip("ABCD", texts(draw, 4))], answer=draw.choice("ABCD"))

ROWS = {"vsi-bench": vsi, "video-mmmu": mmmu, "mmvu": mmvu, "mvbench": mvbench, "tempcompass": tempcompass, "video-mme": mme}

def rows(benchmark, folder):
    "Predictions as we read them, and the same as lmms-eval's tasks are given them: `N` replies to official rows."
    draw, official = random.Random(benchmark), {}
    for task, doc in ROWS[benchmark](draw): official.setdefault(task, []).append(doc)
    ours, docs = [], []
    for task, found in official.items():
        path = folder / benchmark / task / f"{task}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(found))
        suite = read_suite(benchmark, path.parent)
        assert not suite.faults
        ours += suite.records
        docs += [(task, doc) for doc in found]
    assert len(ours) == len(docs)
    asked, given = [], []
    for i in range(N):
        record, (task, doc) = ours[i % len(ours)], docs[i % len(ours)]
        text = reply(draw, record.options, record.answer)
        asked.append(dict(id=f"{i}", benchmark=benchmark, kind=record.problem_type, group=record.extra["group"], video=record.path, options=record.options, truth=record.answer, response=text))
        given.append(dict(task=task, doc=doc, reply=text))
    return asked, given

@cache
def both(folder):
    "benchmark -> (our predictions, what lmms-eval makes of them)"
    found = {benchmark: rows(benchmark, folder) for benchmark in ROWS}
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")} | dict(HF_HUB_OFFLINE="1", HF_HOME=str(folder))
    done = subprocess.run([PYTHON, str(CHILD)], input=json.dumps({name: given for name, (_, given) in found.items()}), capture_output=True, text=True, env=env, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout)
    return {name: (asked, theirs[name]) for name, (asked, _) in found.items()}

@pytest.fixture(scope="module")
def theirs(tmp_path_factory): return both(tmp_path_factory.mktemp("parity"))

def gaps(asked, marks, ours):
    "(reply, truth, options, theirs, ours) of each reply about which the two differ."
    for row, (score, said), own in zip(asked, marks, ours, strict=True):
        same = own.score == score if None in (own.score, score) else own.score == pytest.approx(score, abs=1e-9)
        if said and said != "judge": same = same and own.extracted == said
        if said == "judge": same = same and own.extracted is None or row["kind"] == "open" and own.score is None
        if not same: yield row["response"], row["truth"], row["options"], (score, said), own

@pytest.mark.parametrize("benchmark", ROWS)
def test_the_rule_alone_is_the_tasks_function(benchmark, theirs):
    asked, marks = theirs[benchmark]
    rules = SUITES["lmms-eval"][benchmark]
    apart = list(gaps(asked, marks["alone"], [rules[row["kind"]](row["response"], row) for row in asked]))
    assert len(asked) == N and not apart, f"{len(apart)} of {N}: {apart[:12]}"

@pytest.mark.parametrize("benchmark", ROWS)
def test_a_mark_of_raw_output_is_the_evaluators(benchmark, theirs):
    asked, marks = theirs[benchmark]
    apart = list(gaps(asked, marks["whole"], [mark(row, "lmms-eval", raw=True) for row in asked]))
    assert not apart, f"{len(apart)} of {N}: {apart[:12]}"

NAMED = {"vsi-bench": "mean of 8 subtasks"}

@pytest.mark.parametrize("benchmark", ROWS)
def test_the_number_is_the_tasks_own(benchmark, theirs):
    asked, marks = theirs[benchmark]
    ours = mark_all(Predictions(asked), ("lmms-eval",), raw=True)
    if benchmark == "mmvu": # there an open question that waits for a judge counts as wrong
        assert marks["number"] == pytest.approx(100 * sum(own.score or 0 for own in ours.marks["lmms-eval"]) / N)
        return
    found = next(row["own"] for row in score_all(ours, 2) if row["name"] == NAMED.get(benchmark, "all"))
    assert marks["number"] == pytest.approx(found if benchmark in ("vsi-bench", "video-mmmu") else 100 * found, abs=1e-5)
