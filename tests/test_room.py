"""What RL can win: shares against a loop, forced observations, and a model that follows or does not."""
import random
from types import SimpleNamespace
import pytest
from videop2r.cot import SHORT, parse, render
from videop2r.engine.scenes import World
from videop2r.engine.swaps import Game
from videop2r.model import Policy
from videop2r.room import elsewhere, events, faithfulness, Room, Rooms
from videop2r.tokens import Example
from videop2r.world import COMPOSED, CONTROL, KINDS, Claims, answer_text, gold_observation, question_of, solve, to_record

def asked(n, kinds=COMPOSED): return [question_of("room", i, kinds=kinds) for i in range(n)]
def records_of(questions): return [to_record(q, str(i), "none.mp4") for i, q in enumerate(questions)]

@pytest.mark.parametrize("seed", range(5))
def test_shares_are_those_of_a_loop(seed):
    rng = random.Random(seed)
    rows = [dict(sufficient=rng.random() < .6, answer=rng.choice((1., .5, 0.))) for _ in range(200)]
    found, seen = Room.of(rows), [row for row in rows if row["sufficient"]]
    unseen = [row for row in rows if not row["sufficient"]]
    share = lambda some: sum(row["answer"] == 1 for row in some) / len(some)
    assert found.p1 == pytest.approx(share(seen)) and found.p0 == pytest.approx(share(unseen))
    assert found.right == pytest.approx(found.sufficient * found.p1 + (1 - found.sufficient) * found.p0)
    s, r = found.sufficient, found.right
    both = sum(row["sufficient"] and row["answer"] == 1 for row in rows) / len(rows)
    assert found.phi == pytest.approx((both - s * r) / (s * (1 - s) * r * (1 - r)) ** .5)

def test_rows_without_a_verdict_and_constant_ones():
    rows = [dict(sufficient=None, answer=1.), dict(sufficient=True, answer=None), dict(sufficient=True, answer=1.)]
    found = Room.of(rows)
    assert (found.n, found.sufficient, found.p1, found.phi) == (1, 1., 1., 0.) and found.p0 != found.p0

def test_groups_are_by_number_of_swaps_and_control():
    questions = asked(19, tuple(KINDS))
    rows = [dict(sufficient=True, answer=1.)] * len(questions)
    found, records = Rooms.of(records_of(questions), rows), records_of(questions)
    assert found["control"].n == len(CONTROL) and found["composed"].n == len(COMPOSED)
    assert sum(found[name].n for name in found if "swap" in name) == len(COMPOSED)
    assert {events(record) for record in records} <= {None, 1, 2, 3}

def test_a_game_without_a_swap_is_composed_and_has_no_other_answer():
    questions = [question_of("still", i, World(swaps=(0, 0)), COMPOSED) for i in range(len(COMPOSED))]
    records = records_of(questions)
    found = Rooms.of(records, [dict(sufficient=True, answer=1.)] * len(records))
    assert set(found) == {"0 swaps", "composed"} and {events(record) for record in records} == {0}
    assert elsewhere(questions[0], random.Random(0)) is None
    assert faithfulness(Speaker([]), records, [Example([]) for _ in records])["follows"] is None

def test_elsewhere_asks_the_same_of_the_same_balls_and_answers_otherwise():
    rng = random.Random(0)
    for question in asked(100):
        other = elsewhere(question, rng)
        assert answer_text(other) != answer_text(question) and other.options == question.options
        assert sorted(other.scene.cups.row) == sorted(question.scene.cups.row)
        assert len(other.scene.cups.swaps) == len(question.scene.cups.swaps)

class Speaker:
    "Stands in for a policy: it reads the observation in its prompt, or what it was told to say."
    coder = SimpleNamespace(ids=lambda text: [text])
    continued = Policy.continued
    def __init__(self, questions, says=None): self.questions, self.says = questions, says
    def respond(self, prompts, **settings):
        assert settings["temperature"] == 0
        texts = []
        for question, example in zip(self.questions, prompts):
            seen = parse(example.prompt[-1]).observation
            claims = Claims(**vars(Game.read(seen, KINDS[question.kind].type == "OCR")))
            said = answer_text(question) if self.says == "truth" else solve(claims, question)
            texts.append(f" <think>So.</think><answer>{said}</answer>")
        return texts

@pytest.mark.parametrize("says, mended, follows, still", [(None, 1, 1, 0), ("truth", 1, 0, 1)])
def test_a_speaker_who_follows_and_one_who_knows_better(says, mended, follows, still):
    questions = asked(40)
    prompts = [Example([]) for _ in questions]
    found = faithfulness(Speaker(questions, says), records_of(questions), prompts)
    assert (found["mended"]["mean"], found["follows"]["mean"], found["still"]["mean"]) == (mended, follows, still)

def test_continued_responses_hold_the_given_observation():
    questions = asked(3)
    given = [gold_observation(question) for question in questions]
    texts = Speaker(questions).continued([Example([]) for _ in questions], given)
    assert [parse(text).observation for text in texts] == given and all(parse(text).ok for text in texts)
