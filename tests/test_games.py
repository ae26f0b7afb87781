"What the oracle makes of English about shell games: texts written by others, texts by construction, and single turns of phrase."
import json, random
from collections import Counter
from pathlib import Path
import pytest
from videop2r.engine.scenes import Cups, Scene
from videop2r.oracle import paraphrase, read_claims, spoil, sufficient
from videop2r.world import COMPOSED, Question, gold_observation, question_of
from storm import LONG

# ---- texts written independently of the reader; it was made with those of an even number, and never with the others

def confusion(half, name="games"):
    "(right verdict, the oracle's) of every other text, counted."
    lines = (Path(__file__).parent / "texts" / f"{name}.jsonl").read_text().splitlines()[half::2]
    found = Counter()
    for told in map(json.loads, lines):
        game = Cups(tuple(told["row"]), tuple(told["stays"]))
        question = Question(told["kind"], Scene((), still=name == "ladders", cups=game), told["target"])
        found[told["verdict"], sufficient(told["text"], question).verdict] += 1
    return found

def share(found, right, said):
    "Of texts whose verdict is one of `right`, the share that gets one of `said`."
    of = sum(n for (true, _), n in found.items() if true in right)
    return sum(n for (true, verdict), n in found.items() if true in right and verdict in said) / of

NO = ("insufficient", "contradicts", "empty")

@pytest.mark.parametrize("half, good, false", [(0, .97, .97), (1, .92, .94)])
def test_texts_by_others_are_read_rightly(half, good, false):
    found = confusion(half)
    assert found.total() == 200
    assert share(found, NO, ("sufficient",)) <= .01, found
    assert share(found, ("sufficient",), ("sufficient",)) >= good, found
    assert share(found, ("contradicts",), ("contradicts",)) >= false, found
    assert share(found, ("sufficient",), ("contradicts",)) <= .02, found
    assert share(found, ("insufficient",), ("contradicts",)) <= .03, found

@pytest.mark.parametrize("half", [0, 1])
def test_texts_about_ladders_are_never_praised_wrongly_and_seldom_read(half):
    "Half of them tell a ball's way, which is not followed."
    found = confusion(half, "ladders")
    assert found.total() == 60
    assert not share(found, NO, ("sufficient",)), found
    assert share(found, ("sufficient",), ("sufficient",)) >= .2, found
    assert share(found, ("insufficient", "empty"), ("contradicts",)) == 0, found
    assert share(found, ("sufficient",), ("contradicts",)) <= .2, found

@pytest.mark.parametrize("text", [
    "Red left, green middle, blue right. The first rung, between left and middle, is only half.",
    "Red is on the left. A rung between left and middle, incomplete.",
    "Red is on the left. There is no rung between the left and middle lines.",
    "Red is on the left. The first rung does not join the left and middle lines."])
def test_a_rung_that_is_denied_or_said_to_be_half_is_none(text):
    ladder = Scene((), still=True, cups=Cups(("red", "green", "blue"), ("right", None, None)))
    assert not sufficient(text, Question("where", ladder, "red"))

def test_which_tells_of_a_rung_and_no_open_order():
    text = "An upper rung, which joins the left and middle lines, and a lower one, which joins the middle and right lines."
    ladder = Scene((), still=True, cups=Cups(("red", "green", "blue"), ("right", "left", None)))
    assert sufficient(f"Red is on the left. {text}", Question("where", ladder, "red"))

@pytest.mark.parametrize("text", [
    "red left\ngreen middle\nblue right\nleft and middle swap\nmiddle and right swap",
    "red: left\ngreen: middle\nblue: right\nswap 1: left and middle\nswap 2: middle and right",
    "the left and middle cups swap\nthe middle and right cups swap\nred was left at first",
    "At first red lies on the left. The left and middle cups change their\nplaces. Then the two cups on the right do."])
def test_lines_of_a_list_are_sentences_and_wrapped_lines_are_not(text):
    game = Scene((), cups=Cups(("red", "green", "blue"), ("right", "left", None)))
    assert sufficient(text, Question("where", game, "red"))

# ---- texts whose verdict is known by construction

def test_retold_and_spoilt_games_get_their_verdicts():
    for i in range(1000 if LONG else 300):
        question, rng = question_of("games", i, kinds=COMPOSED), random.Random(i)
        assert sufficient(gold_observation(question), question)
        text = paraphrase(question, rng)
        assert sufficient(text, question), text
        text, right = spoil(question, rng)
        assert sufficient(text, question).verdict == right, text

# ---- single turns of phrase: which place stays in each swap, by its first letter; ? where it is not told

GAME, LETTERS = Scene((), cups=Cups(("red", "green", "blue"), ())), Scene((), cups=Cups(("C", "A", "T"), ()))

def stays(text):
    said = read_claims(text, GAME).stays
    return None if said is None else "".join((place or "?")[0] for place in said)

@pytest.mark.parametrize("text, right", [
    ("Then middle stays. Then left stays.", "ml"), ("L/R swap, then L/M swap.", "mr"), ("left <-> right, then middle -> right", "ml"),
    ("1) left-middle; 2) middle-right; 3) left-right", "rlm"), ("There are 2 swaps: 1. left and middle 2. middle and right", "rl"),
    ("The cup on the left trades with its right neighbour, and the two at both ends swap after that.", "rm"),
    ("The leftmost cup and the one next to it swap.", "r"), ("The middle cup changes places with the cup to its left.", "r"),
    ("The right-hand cups swap, then the left pair.", "lr"), ("The two cups on the left trade places.", "r"), ("The outermost cups swap.", "m"),
    ("The others swap around the left one.", "l"), ("While the other two swap, the right cup stays put.", "r"),
    ("Every cup but the middle one is moved. Then all but the left one.", "ml"), ("The right cup takes no part.", "r"),
    ("The middle cup doesn't take part in the first swap, the left doesn't in the second.", "ml"),
    ("The left and middle cups swap (the right cup stays), then the middle and right cups swap, leaving the left one alone.", "rl"),
    ("The left cup goes to the middle and the middle cup goes to the left.", "r"),
    ("The left cup flies over the middle cup to the right place while the right cup slides to the left place.", "m")])
def test_who_swaps_and_who_stays(text, right): assert stays(text) == right

@pytest.mark.parametrize("text, right", [
    ("In the third swap, the outer cups swap. In the first, the left and middle cups do, and in the second, the middle and right ones.", "rlm"),
    ("The final swap is left with middle and the first is middle with right.", "lr"), ("The first and the last exchange L and M; the one in between L and R.", "rmr"),
    ("Swap one leaves the middle cup, swap two the left.", "ml"), ("In swaps one and three the left cup stays, in swap two the middle cup.", "lml"),
    ("The left cup stays in the first and the third swap, the middle in the second.", "lml"), ("The outer two swap first and the left two second.", "mr"),
    ("In both swaps it is the left cup that stays.", "ll"), ("In each of the three swaps the right cup stays.", "rrr"),
    ("The outer cups swap, and then the same two swap back.", "mm"), ("The left two swap. The same happens again.", "rr"), ("L and R swap twice, then L and M.", "mmr"),
    ("Before the last swap, in which L and R swap, there is another, in which L and M swap.", "rm"), ("The left two swap after the outer cups have swapped.", "mr"),
    ("Before the outer cups swap, the left two do.", "rm"), ("The outer cups swap. Before that, the left two swap.", "rm"),
    ("The outer cups trade places. After that, the left and middle cups do.", "mr"), ("The left cup stays, then the middle, then the right.", "lmr"),
    ("Staying cups: right, then left.", "rl"), ("first: L and M\nsecond: M and R", "rl"), ("I saw only the last two of three swaps: L-R and L-M.", "mr"),
    ("In the first three swaps the left cup stays. In the fourth, the middle one.", "lllm"), ("The outer cups swap four times.", "mmmm"),
    ("In the last three swaps the middle stays; in the first the left stays.", "lmmm"), ("1. left stays 2. right stays 3. middle stays 4. left and right swap", "lrmm"),
    ("Swap 4: the left cup stays. Swap 1: right stays. Swap 2: the middle stays. Swap 3: the left stays.", "rmll"),
    ("In the first two swaps the left stays, in the last two the right.", "llrr"), ("In all four swaps the left cup stays.", "llll")])
def test_the_order_and_the_number_of_swaps(text, right): assert stays(text) == right

@pytest.mark.parametrize("text, right", [
    ("First window: L and M swap. Second window: idle. Third window: L and R swap.", "rm"), ("In the first window nothing changes place. In the second the right stays.", "r"),
    ("The left cup is lifted and set down. Then the outer two swap.", "m"), ("The outer cups swap, there is a pause, and the left two swap.", "mr"),
    ("The left cup hops up and comes back down.", None), ("The camera does not move. The cups are grey.", None), ("Then middle stays. The right cup is grey.", "m")])
def test_windows_feints_and_talk_are_no_swaps(text, right): assert stays(text) == right

@pytest.mark.parametrize("text", [
    "Two cups swap.", "The left and middle or the middle and right cups swap.", "The left, middle and right cups move.", "Then there is some swapping.",
    "The left and right cups seem to swap.", "The left and right cups almost swap.", "I think the left and right cups swap.", "The left cup swaps with one of its neighbours.",
    "The left and right cups do not swap.", "First: left, right."])
def test_a_swap_that_is_not_clear_is_not_guessed(text): assert set(stays(text)) == {"?"}

@pytest.mark.parametrize("text", [
    "In one swap the left cup stays, in another the right.", "The left two swap and the outer two swap, but I cannot tell in which order.",
    "The left two and the outer two swap, not necessarily in this order.", "The swaps include one of L and M and one of L and R."])
def test_swaps_in_no_order_are_not_ordered(text): assert set(stays(text)) == {"?"}

ROW = [("red", "left"), ("green", "middle"), ("blue", "right")]

@pytest.mark.parametrize("text", [
    "Red left, green middle, blue right.", "Left: red. Middle: green. Right: blue.", "Red, green and blue are left, middle and right respectively.",
    "From right to left the balls are blue, green, red.", "The row at the start is red-green-blue.", "Counting from the right: blue, green, red.",
    "Under the left cup goes red, under the middle one green, under the right one blue.", "In the middle is green, with red to its left and blue to its right.",
    "Blue is rightmost, red is leftmost, and green is between them.", "Between red on the left and blue on the right lies green.",
    "What the left cup hides at first is red. The middle cup comes down over green. The ball under the right cup is the blue one.",
    "Red is on the left and blue on the right, so green is in the middle."])
def test_where_balls_start(text): assert sorted(read_claims(text, GAME).starts) == sorted(ROW)

@pytest.mark.parametrize("text", ["The word is CAT.", "C, A, T is what one reads from left to right.", "C is at the left, the A in the centre, T right.", "From right to left: T A C."])
def test_where_letters_start(text): assert dict(read_claims(text, LETTERS).starts) == dict(C="left", A="middle", T="right")

@pytest.mark.parametrize("text", [
    "Red does not start on the left.", "Red is either left or right.", "I think red is on the left.", "Red is said to be on the left.", "My friend says red is on the left.",
    "Does red start on the left?", "That red is on the left is wrong.", "Red is near the left cup.", "There are red, green and blue balls."])
def test_no_start_is_claimed(text): assert not read_claims(text, GAME).starts

@pytest.mark.parametrize("text, right", [
    ("Red ends up in the middle.", [("red", "middle")]), ("At the end the left cup hides red.", [("red", "left")]), ("Red begins at the left and ends at the right.", [("red", "right")]),
    ("Finally red is under the right cup.", [("red", "right")]), ("L and R swap, so red is now on the right. Then the left stays.", [("red", "middle")])])
def test_an_end_is_no_start(text, right):
    claims = read_claims(text, GAME)
    assert claims.ends == right and claims.starts in ([], [("red", "left")])

@pytest.mark.parametrize("text, right", [
    ("There are three swaps.", 3), ("Only one swap: left with right.", 1), ("The cups change places twice.", 2), ("Nothing is ever swapped.", 0), ("No cup moves.", 0),
    ("In both swaps the left cup stays.", 2), ("One swap moves the outer cups; the next moves the left two.", None), ("The first two swaps leave the left cup.", None),
    ("At least two swaps happen.", None), ("There is a feint in which no cup changes place.", None)])
def test_how_many_swaps_are_claimed(text, right): assert read_claims(text, GAME).swaps == right

@pytest.mark.parametrize("text", ["The red ball starts on the left. Left and middle swap, then middle and right fail to swap.", "The red ball starts on the left. Left and middle swap, then middle and right refuse to swap.",
                                  "The red ball starts anywhere but left. Left and middle swap. Middle and right swap.", "In the previous clip red starts left. Left and middle swap, then middle and right swap."])
def test_what_is_denied_or_of_another_clip_does_not_suffice(text):
    question = Question("where", Scene((), cups=Cups(("red", "blue", "green"), ("right", "left"))), "red")
    fair = "The red ball starts on the left. Left and middle swap, then middle and right swap."
    assert sufficient(fair, question).verdict == "sufficient" != sufficient(text, question).verdict

@pytest.mark.parametrize("said", ["The red ball never moves.", "Red never changes its place.", "Red was left at first and never moves.", "Red starts left, and it never moves."])
def test_a_ball_that_is_wrongly_said_never_to_move_contradicts(said):
    fair, told = "The red ball starts on the left. ", "Left and middle swap, then middle and right swap. "
    moved = Question("where", Scene((), cups=Cups(("red", "blue", "green"), ("right", "left"))), "red")
    asked = Question("where", Scene((), cups=Cups(("red", "blue", "green"), ("left", "left"))), "red")
    assert sufficient(fair + told + said, moved).verdict == "contradicts"
    assert sufficient(fair + "The left cup stays twice. " + said, asked).verdict == "sufficient"

@pytest.mark.parametrize("said", ["The green ball never moves in the first swap.", "The left cup never moves.", "Some say that red never moves.", "The cups never move far."])
def test_what_says_of_no_ball_that_it_never_moves_is_no_such_claim(said):
    assert not read_claims("Red starts left. Left and middle swap. " + said, GAME).rests

@pytest.mark.parametrize("text", ["The red ball is in the middle. The cups never move.", "The red ball is in the middle. The cups do not swap."])
def test_cups_that_never_move_are_no_swap(text):
    idle, moved = (Question("where", Scene((), cups=Cups(("blue", "red", "green"), swaps)), "red") for swaps in ((), ("right", "left")))
    assert sufficient(text, idle).verdict == "sufficient" and sufficient(text, moved).verdict == "contradicts"
