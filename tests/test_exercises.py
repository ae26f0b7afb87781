"The tasks of part 1: the page's own solutions pass, three usual mistakes of each are refused with a hint of their own."
import json, re
from pathlib import Path
import pytest, torch
from videop2r.advantages import credit, normalise
from videop2r.rewards import worked_example
from videop2r.tools.exercises import EXERCISES, grade

PAGE = Path(__file__).parent.parent / "nbs/1_method/9_exercises.ipynb"
TEXTS = ["".join(c["source"]) for c in json.loads(PAGE.read_text())["cells"]]

def written():
    "Names of the page's solutions, as it shows them."
    names = {"torch": torch}
    for text in TEXTS:
        for code in re.findall(r"```python\n(.*?)```", text, re.S): exec(code, names)
    return names

@pytest.mark.parametrize("name", EXERCISES)
def test_the_page_asks_and_solves(name):
    assert any(f'grade("{name}", my_{name})' in text for text in TEXTS)
    assert repr(grade(name, written()[f"my_{name}"])).startswith(f"✓ {name}: right")

def split(tokens, first): return [[i < first for i in range(len(tokens))], [i >= first for i in range(len(tokens))]]

def last(tokens): return len(tokens) - tokens[::-1].index("</observation>") if "</observation>" in tokens else None

def z(rewards, n=1, nan=None):
    rewards = rewards if nan is None else rewards.nan_to_num(nan)
    return (rewards - rewards.mean()) / (rewards.std(correction=n) + 1e-4)

BOTH = lambda t: [[True] * len(t)] * 2
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
}

@pytest.mark.parametrize("name,answer,hint", [(name, *wrong) for name, found in WRONG.items() for wrong in found])
def test_usual_mistakes_are_refused_with_a_hint(name, answer, hint):
    said = repr(grade(name, answer))
    assert said.startswith(f"✗ {name}: ") and hint in said

@pytest.mark.parametrize("name", EXERCISES)
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
