"""How many traces a second one core parses and scores: `python benchmarks/scoring.py [--json] [--n 4000]`.

Each pass reads texts that no pass has read before, of the paper's lengths (150 words of observation, 300 of thought), their words drawn from
20,000 made-up ones by Zipf's law, so that remembered stems help as often as they would in earnest. A rate counts everything from the text to
the score: parsing, finding the record's truth, scoring. The best of the passes counts; beside it stands the same work done the plain way.
"""
import argparse, itertools, json, platform, random, time
from types import SimpleNamespace
from rouge_score.rouge_scorer import RougeScorer
from videop2r.cot import _explain, parse, render
from videop2r.data import Record
from videop2r.scoring import score_record

TRUTHS = {"multiple choice": "B", "numerical": "12", "regression": "3.5", "OCR": None, "free-form": None}  # None: a sentence of its own
TARGETS = {("multiple choice", "faithful"): 100_000, ("free-form", "faithful"): 2_500}                      # traces a second
ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

def vocabulary(rng, n=20_000):
    "Made-up words of one to three syllables, with English endings for the stemmer to take off."
    syllable = lambda: rng.choice("bcdfghklmnprstvw") + rng.choice("aeiou") + rng.choice(("", "n", "r", "st"))
    return ["".join(syllable() for _ in range(rng.randint(1, 3))) + rng.choice(("", "", "s", "ed", "ing", "ly", "ation")) for _ in range(n)]

def writer(seed):
    "A function that writes n words."
    rng = random.Random(seed)
    words = vocabulary(rng)
    weights = list(itertools.accumulate(1 / (i + 1) for i in range(len(words))))
    return lambda n: " ".join(rng.choices(words, cum_weights=weights, k=n))

def cases(kind, n, write):
    "n records of a type, each with a trace whose answer is right in half of them; a sentence is half right."
    for i in range(n):
        truth = TRUTHS[kind] or write(20)
        answer = (truth if i % 2 else "A" if kind == "multiple choice" else "7") if TRUTHS[kind] else truth[:len(truth) // 2] + write(10)
        options = [f"{letter}. {write(4)}" for letter in "ABCD"] if kind == "multiple choice" else []
        record = Record(str(i), write(12), kind, path="a.mp4", options=options, solution=f"<answer>{truth}</answer>")
        yield record, render("Based on the question, I need to notice " + write(145), "Based on the observations, " + write(295), answer)

def rate(pairs, verify):
    "Traces a second, over one pass."
    start = time.perf_counter()
    for record, text in pairs: verify(record, text)
    return len(pairs) / (time.perf_counter() - start)

def plainly(record, text, how):
    "The explaining parser, and ROUGE as its library has it."
    answer = _explain(text).answer
    if record.problem_type != "free-form": return score_record(record, answer, how)
    return sum(s.fmeasure for s in ROUGE.score(record.truth, answer).values()) / 3

def measure(kind, how, n, write, passes=5, broken=False):
    "One case: the best rate of ours and of the plain way, taking turns."
    best = SimpleNamespace(ours=0., plain=0.)
    for _ in range(passes):
        pairs = list(cases(kind, n, write))
        if broken: pairs = [(r, t.replace("</think>", "")) for r, t in pairs]
        best.plain = max(best.plain, rate(pairs[::4], lambda r, t: plainly(r, t, how)))
        best.ours = max(best.ours, rate(pairs, lambda r, t: score_record(r, parse(t).answer, how)))
    target = None if broken else TARGETS.get((kind, how))
    return dict(case=f"{kind}, {how}" + ", malformed" * broken, traces_per_second=round(best.ours), target=target, met=None if target is None else best.ours >= target,
                over_plain=round(best.ours / best.plain, 2), n=n, passes=passes, characters=round(sum(len(t) for _, t in pairs) / n))

def main():
    p = argparse.ArgumentParser(description="Traces parsed and scored a second, on one core.")
    p.add_argument("--json", action="store_true", help="one JSON object a case")
    p.add_argument("--n", type=int, default=4000, help="traces a pass")
    args, write = p.parse_args(), writer(0)
    for kind in TRUTHS: score_record(*next(cases(kind, 1, write)))  # what is loaded late is loaded now
    wanted = [("multiple choice", "faithful", args.n, False), ("multiple choice", "faithful", args.n, True), ("multiple choice", "lenient", args.n, False)]
    wanted += [(k, "faithful", args.n // 4, False) for k in ("numerical", "regression", "OCR", "free-form")]
    for kind, how, n, broken in wanted:
        row = measure(kind, how, n, write, broken=broken)
        if args.json: print(json.dumps(row | dict(machine=platform.processor() or platform.machine(), python=platform.python_version())), flush=True)
        else: print("{case:34} {traces_per_second:>9,} a second, {over_plain:>5} x the plain way".format(**row) + (f", target {row['target']:,}" if row["target"] else ""), flush=True)

if __name__ == "__main__": main()
