"Single edits that a curious reader makes in parts 0 and 1: none ends in an error, each shows what it did."
import json, os, subprocess, sys
from pathlib import Path
import pytest
from storm import some

ROOT = Path(__file__).resolve().parent.parent
SLOW = {"0_start/1_one_page", "0_start/2_toy", "1_method/3_scoring", "1_method/7_open"} # seconds each
EDITS = {
    "0_start/1_one_page": [
        ("suffices = torch.tensor([1., 1., 0., 0.])", "suffices = torch.tensor([1., 1., 1., 0.])"),
        ("clip=.2, beta=.04", "clip=.05, beta=.5"),
        ("It began left, so left.</think><answer>A<", "It began left and went right, so right.</think><answer>B<"),
        ("low, high = torch.tensor([8, 10])", "low, high = torch.tensor([4, 4])"),
        ("answers_right = [1., 0., 1., 1.]", "answers_right = [1., 1., 1., 1.]")],
    "0_start/2_toy": [
        ("pagrpo=[[1, 0], [0, 1]])", "pagrpo=[[1, .5], [0, 1]])"),
        ("return (seen == clue).float()", "return ((seen == clue) | (seen == 3)).float()"),
        ("sees, knows = 40, 8, 8, .35, .30", "sees, knows = 20, 2, 4, .35, .9")],
    "1_method/1_data": [
        ('problem="Which way does it move?"', 'problem="Where does it go?"'),
        ('solution="<answer>B</answer>", reward="0.0"', 'solution="left", reward="0.5"'),
        ('changes = dict(problem_id=17.0', 'changes = dict(data_type="film", problem_id=17.0')],
    "1_method/2_cot": [
        ('render("The square ends on the right.", "So it moves right.", "B")', 'render("A ball rolls off.", "It is gone.", "none")'),
        ("<observation>There is a red square.</observation> ", "<observation>There is a red square going right.</observation> "),
        ("Reply in three parts, in this order", "Answer in three steps, in this order"),
        ("</think><answer>B\"", "</think><answer>B</answer>\"")],
    "1_method/3_scoring": [
        ('("B.", "B", 0, 1,', '("left", "B", 0, 1,'),
        ('options = ["A. left", "B. right"]', 'options = ["A. left", "B. up", "C. right"]'),
        ('"numerical", "about 3.0 m", "3"', '"numerical", "3", "three"')],
    "1_method/4_rewards": [
        ("perception: tuple = (128, 320)", "perception: tuple = (64, 200)"),
        ("verdicts, scores = [1, 1, 0, 1], [1, 0, 1, 1]", "verdicts, scores = [1, 0, 0, 1], [1, 1, 1, 0]"),
        ("perception, reasoning = (8, 10), (10, 12)", "perception, reasoning = (1, 99), (1, 99)")],
    "1_method/5_advantages": [
        ('"pagrpo": [[1, 0], [0, 1]]', '"pagrpo": [[1, .3], [0, 1]]'),
        ("other[2, 0] += 1", "other[1, 1] += 1"),
        ('credit(table.total(), "pagrpo")', 'credit(table.total(), "no_separation")'),
        ("matrix = [[1, .5], [0, 1]]", "matrix = [[1, 0], [1, 1]]")],
    "1_method/6_losses": [
        ("clip: float = .2,        # ε below", "clip: float = .28,        # ε below"),
        ("[[1.5, 1.5, .5, .5]]", "[[1.1, 1.5, .5, .5]]"),
        ("logp = noise[0] - 2", "logp = noise[0] - 3"),
        ("ratio, advantage = 1.5, 1.", "ratio, advantage = 1.5, -1.")],
    "1_method/7_open": [
        ('weights: str = "process"', 'weights: str = "batch"'),
        ("verdicts: tuple = (1, 1, 0, 1)", "verdicts: tuple = (1, 0, 1, 1)")],
    "1_method/9_exercises": [("return None # yours", "return [[True], [False]]")],
}

@pytest.mark.parametrize("book", some(EDITS, [book for book in EDITS if book not in SLOW]))
def test_an_edit_shows_what_it_did(book):
    env = {name: value for name, value in os.environ.items() if name not in ("IN_TEST", "PYTEST_CURRENT_TEST")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    args = [sys.executable, ROOT / "tests/play_child.py", ROOT / f"nbs/{book}.ipynb", json.dumps(EDITS[book])]
    done = subprocess.run(args, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    shipped, *results = json.loads(done.stdout.split("RESULTS")[1])
    assert not shipped["errors"] and not shipped["told"]
    assert len(results) == len(EDITS[book])
    for edit, result in zip(EDITS[book], results):
        assert result["hits"] == 1 and not result["errors"] and result["shown"] + result["told"] > 0, (edit, result)
        assert result["shown"] > 0, (edit, result)

def test_there_are_twenty(): assert sum(map(len, EDITS.values())) >= 20
