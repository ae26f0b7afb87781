"""20,000 different multiple-choice replies under all rules on one core, with a profile by rule; `--json` for one object a row."""
import argparse, os, random, time
os.environ.setdefault("OMP_NUM_THREADS", "1")
from common import machine, put, show

LEADS = ("", "", "The answer is ", "I think it is ", "Looking at the clip, ", "Option ", "so ", "It must be ")
FORMS = ("{0}", "({0})", "{0}.", "{0}. {1}", "{1}", "**{0}**", "{2}", "the {1}", "{0} because of the {1}")
WORDS = "red blue green cup ball dog left right first last near far slow fast turns stops opens closes falls".split()

def replies(n, seed=0):
    "Different predictions over the five benchmarks whose choices all suites score."
    draw, found = random.Random(seed), []
    for i in range(n):
        options = [f"{letter}. {' '.join(draw.sample(WORDS, 3))}" for letter in "ABCD"]
        at, truth = draw.randrange(4), draw.choice("ABCD")
        answer = draw.choice(LEADS) + draw.choice(FORMS).format("ABCD"[at], options[at][3:], "abcd"[at])
        thought = " ".join(draw.choices(WORDS, k=draw.randrange(20, 120)))
        response = f"<observation>{i}: {thought}.</observation> <think>{thought}, so {answer}.</think><answer>{answer}</answer>" if i % 4 else f"{answer} {i}"
        benchmark = ("mvbench", "video-mme", "vsi-bench", "mmvu", "video-mmmu")[i % 5]
        found.append(dict(id=str(i), benchmark=benchmark, kind="multiple choice", group={}, video=f"{i // 3}.mp4", options=options, truth=truth, response=response))
    assert len({row["response"] for row in found}) == n
    return found

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--put", action="store_true", help="write the table into benchmarks/README.md")
    args = parser.parse_args()
    from videop2r.benchmarks import Predictions, mark_all, partings, score_all
    from videop2r.engine.rules import SUITES
    rows, table = replies(args.n), []
    def timed(what, work):
        start, cpu = time.perf_counter(), time.process_time()
        found = work()
        table.append(dict(what=what, seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu))
        return found
    for suite in SUITES: timed(f"rules of {suite}", lambda: mark_all(Predictions(rows), (suite,)))
    marks = mark_all(Predictions(rows))
    timed("three denominators, two bootstraps of 1,000", lambda: score_all(marks))
    timed("where the rules part", lambda: partings(marks))
    table.append(dict(what="all", seconds=sum(row["seconds"] for row in table), cpu_seconds=sum(row["cpu_seconds"] for row in table)))
    for row in table: row["replies_a_second"] = args.n / row["cpu_seconds"]
    show(table, args.json, machine("numpy"))
    if args.put: put("rules", table, machine("numpy"))

if __name__ == "__main__": main()
