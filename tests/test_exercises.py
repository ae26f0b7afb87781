"The tasks: the pages' own solutions pass, three usual mistakes of each are refused with a hint of their own."
import json, re
from pathlib import Path
import pytest, torch
from videop2r.advantages import credit, normalise
from videop2r.rewards import worked_example
from videop2r.tools.exercises import Exercise, grade

NBS = Path(__file__).parent.parent / "nbs"
PAGES = [NBS / f"{page}.ipynb" for page in ("1_method/9_exercises", "2_seeing/6_model", "2_seeing/7_sampling", "3_training/1_judge", "3_training/3_sft")]
TEXTS = ["".join(c["source"]) for page in PAGES for c in json.loads(page.read_text())["cells"]]

def written():
    "Names of the pages' solutions, as they show them."
    names = {"torch": torch}
    for text in TEXTS:
        for code in re.findall(r"```python\n(def my_.*?|my_.*?)```", text, re.S): exec(code, names)
    return names

@pytest.mark.parametrize("name", Exercise.known)
def test_the_page_asks_and_solves(name):
    assert any(f'grade("{name}", my_{name})' in text for text in TEXTS)
    assert repr(grade(name, written()[f"my_{name}"])).startswith(f"✓ {name}: right")

def split(tokens, first): return [[i < first for i in range(len(tokens))], [i >= first for i in range(len(tokens))]]

def last(tokens): return len(tokens) - tokens[::-1].index("</observation>") if "</observation>" in tokens else None

def z(rewards, n=1, nan=None):
    rewards = rewards if nan is None else rewards.nan_to_num(nan)
    return (rewards - rewards.mean()) / (rewards.std(correction=n) + 1e-4)

BOTH = lambda t: [[True] * len(t)] * 2

def placed(before, layers, rows, columns, seconds, after, rate=2, past=lambda seen, n: seen.max()):
    "Positions by another rate of time, or with another place for what follows."
    times = torch.arange(layers) if rate is None else (torch.arange(layers) * seconds * rate).long()
    seen = torch.cartesian_prod(times, torch.arange(rows), torch.arange(columns)).T + before
    start = int(past(seen, seen.shape[1])) + 1
    return torch.cat([torch.arange(before).expand(3, -1), seen, (start + torch.arange(after)).expand(3, -1)], 1)

def first_of(p, top_p, order):
    "The tokens of an order before which less than top_p has gone."
    kept = torch.zeros(len(p), dtype=torch.bool)
    kept[order[p[order].cumsum(0) - p[order] <= top_p]] = True
    return kept

def within(p, top_p):
    "The nucleus without the token that reaches top_p."
    order, kept = p.argsort(descending=True), torch.zeros(len(p), dtype=torch.bool)
    kept[order[p[order].cumsum(0) <= top_p]] = True
    return kept
WRONG = { # task -> (answer, words of its hint)
    "owners": [
        (lambda t: split(t, t.index("</observation>")) if "</observation>" in t else BOTH(t), "last token"),
        (lambda t: split(t, t.index("</observation>") + 1) if "</observation>" in t else split(t, 0), "both processes own every token"),
        (lambda t: split(t, last(t)) if last(t) else BOTH(t), "only the first")],
    "length": [
        (lambda n, r, f: .2 * (128 <= n <= 320), "a wrong observation"),
        (lambda n, r, f: .2 * (r and 128 <= n <= 320), "a malformed one"),
        (lambda n, r, f: .2 * (r and f and 128 < n < 320), "lower bound")],
    "advantages": [
        (lambda r: z(r, n=0), "n − 1"),
        (lambda r: z(r, nan=0.), "NaN is unknown"),
        (lambda r: (r - r.mean()) / r.std(), "0 over 0")],
    "matrix": [
        ([[1, 0], [.5, 1]], "rows and columns exchanged"),
        ([[.5, .5], [0, 1]], "keeps all of R_P"),
        ([[1, 0], [0, 1]], "half of R_R")],
    "weights": [
        (lambda m: m / m.sum(), "weighs a half"),
        (lambda m: m / m.sum(1, keepdim=True) / 2, "leaves all the weight"),
        (lambda m: torch.full(m.shape, 1.) / m.sum(1, keepdim=True) / 2, "weighs a half")],
    "gain": [
        (lambda r, a, e: r * a, "at most 1 + ε"),
        (lambda r, a, e: min(max(r, 1 - e), 1 + e) * a, "not capped"),
        (lambda r, a, e: max(r * a, min(max(r, 1 - e), 1 + e) * a), "at most 1 + ε")],
    "positions": [
        (lambda *a: placed(*a, rate=None), "and not layers"),
        (lambda *a: placed(*a, past=lambda seen, n: seen.min() + n - 1), "the number of tokens"),
        (lambda *a: placed(*a, past=lambda seen, n: seen[1:].max()), "a slow clip")],
    "nucleus": [
        (within, "reaches top_p is in"),
        (lambda p, top_p: p > 1 - top_p, "not each probability"),
        (lambda p, top_p: first_of(p, top_p, torch.arange(len(p))), "wherever they stand")],
    "mean": [
        (lambda l, m: l.mean(), "padding counts neither"),
        (lambda l, m: torch.stack([row[own].mean() for row, own in zip(l, m)]).mean(), "a long response counts more"),
        (lambda l, m: (l * m).sum() / m.sum(), "NaN times 0")],
    "reward": [
        (lambda v, f: {"sufficient": 1., "insufficient": .5}.get(v, 0.) * f, "there is no half"),
        (lambda v, f: float(v == "sufficient" and f), "never 0"),
        (lambda v, f: float("nan") if v is None else float(v == "sufficient"), "a malformed observation")],
}

@pytest.mark.parametrize("name,answer,hint", [(name, *wrong) for name, found in WRONG.items() for wrong in found])
def test_usual_mistakes_are_refused_with_a_hint(name, answer, hint):
    said = repr(grade(name, answer))
    assert said.startswith(f"✗ {name}: ") and hint in said

@pytest.mark.parametrize("name", Exercise.known)
def test_nothing_odd_raises(name):
    for odd in (None, lambda *a: None, lambda *a: "<b>", lambda *a: [], lambda *a: 1 / 0, lambda: 0, torch.ones(2, 2), 3):
        assert repr(grade(name, odd)).startswith("✗")

def test_hidden_cases_are_not_changed_by_an_answer():
    def greedy(rewards): rewards.zero_(); return rewards
    before = repr(grade("advantages", greedy))
    assert repr(grade("advantages", greedy)) == before and repr(grade("advantages", written()["my_advantages"])).startswith("✓")

def test_what_the_guesses_say():
    "All right, four suffice; and a step without a judge."
    right = torch.tensor([[float(i < 4), 1.] for i in range(8)])
    moved = {arm: normalise(credit(right, arm))[0].abs().amax(0) > 0 for arm in ("grpo", "pagrpo")}
    assert moved["grpo"].tolist() == [False, False] and moved["pagrpo"].tolist() == [True, False]
    down = torch.tensor([[float("nan"), float(i % 2)] for i in range(8)])
    counts = {arm: normalise(credit(down, arm))[1].any(0).tolist() for arm in ("pagrpo", "grpo", "no_separation")}
    assert counts == dict(pagrpo=[False, True], grpo=[True, True], no_separation=[False, False])
    advantages = normalise(credit(worked_example()[2].total(), "pagrpo"))[0].mean(1)
    assert advantages[3] < advantages[0]
