"What a text says: seen signs, length that is text, claims that are made, and answers that are stated in place of evidence."
import pytest, torch
from videop2r.cot import parse
from videop2r.engine.prose import affirmed, legible, sight, states_answer
from videop2r.judge import Judge, Verdict
from videop2r.oracle import read_claims, sufficient
from videop2r.rewards import Bounds, LENGTHS, rewards
from videop2r.world import from_record, make_records

HIDDEN = ["\u200b", "\u200e", "\u202e", "\u2060", "\ufeff", "\u00ad", "\u3164", "\u115f", "\u2800", "\U000e0041", "\ufe0f", "\U000e0101", "\u034f"]

@pytest.mark.parametrize("sign", HIDDEN)
def test_signs_that_nobody_sees_are_no_text_anywhere(sign):
    assert sight(sign * 9) == "" and sight(f"an{sign}swer") == "answer"
    trace = parse(f"<observation>{sign * 40}</observation> <think>So.</think><answer>A</answer>")
    assert not trace.perception_ok and "<observation> is empty" in str(trace.faults) and trace.reasoning_ok
    assert Judge(lambda record, text: Verdict(True))(None, sign * 9).yes is False
    assert states_answer(f"The cor{sign}rect ans{sign}wer is B.")
    assert read_claims(f"The red sq{sign}uare moves ri{sign}ght.") == read_claims("The red square moves right.")

@pytest.mark.parametrize("text", ["The соrrect answer is B.", "Тhe correct аnswer is left.", "Ｔｈｅ ａｎｓｗｅｒ ｉｓ Ｂ", "THE  ANSWER\u00a0IS B", "The answer\u2003is B"])
def test_letters_that_pass_for_others_hide_nothing(text): assert states_answer(text)

def test_a_word_of_another_script_stays(): assert sight("красный квадрат") == "красный квадрат"

# ---- denial, doubt, questions, reports

CLAIM = "the red square moves right"
NOT_CLAIMED = [
    "It is not true that {}.", "It isn't the case that {}.", "It is false that {}.", "It would be wrong to say that {}.", "There is no proof that {}.", "There is no evidence that {}.",
    "I see no sign that {}.", "Nobody saw that {}.", "No one can say that {}.", "I did not see that {}.", "I cannot see whether {}.", "I can't tell if {}.", "I couldn't confirm that {}.", "I don't know whether {}.",
    "I do not think that {}.", "I doubt that {}.", "I deny that {}.", "Perhaps {}.", "Maybe {}.", "Possibly {}.", "It might be that {}.", "It may be that {}.", "It could be that {}.", "Does {}?", "Is it so that {}?", "{}?",
    "Whether {} is unclear.", "If {}, I have missed it.", "Unless {}, nothing is known.", "I am not sure that {}.", "It is unclear whether {}.", "It is hard to say whether {}.", "It is impossible to tell whether {}.",
    "I wonder whether {}.", "I guess that {}.", "I suppose {}.", "Suppose {}.", "Imagine that {}.", "Somebody claims that {}.", "He said that {}.", "People believe that {}.", "They report that {}.", "According to others {}.",
    "Contrary to what is said, {}.", "Presumably {}.", "Allegedly {}.", "It is not certain that {}.", "It is not clear that {}.", "It is doubtful that {}.", "It is unlikely that {}.", "I have no idea whether {}.", "I never saw that {}.",
    "I failed to notice that {}.", "We do not believe that {}.", "It has not been shown that {}, and it is not proven.", "Assuming {}, it is late.", "Without proof one says that {}.", "I was told that {}."]
CLAIMED = [
    "{}.", "I see that {}.", "It is clear that {}.", "It is true that {}.", "I can see that {}.", "In the clip {}.", "First, {}.", "I notice that {}.", "Nothing else happens: {}.", "{}, and then it is over.", "The video shows that {}.",
    "I am sure that {}.", "There is no doubt that {}.", "At the start {}.", "Looking closely, {}.", "{} while the rest waits.", "I cannot see the blue one, but {}.", "Does it stop? No. {}.", "It is a short clip; {}.",
    "Based on the question, I need to notice the red thing. {}.", "Everybody can see that {}.", "As one sees, {}.", "Without a doubt {}.", "It is certain that {}."]

@pytest.mark.parametrize("frame", NOT_CLAIMED)
def test_what_is_denied_doubted_asked_or_reported_is_no_claim(frame):
    text = frame.format(CLAIM)
    assert not read_claims(text).any(), affirmed(text)
    assert not any(claim.colour == "red" for claim in read_claims(f"The blue circle stays. {text}").things)

@pytest.mark.parametrize("frame", CLAIMED)
def test_what_is_affirmed_is_a_claim(frame):
    said = [(claim.colour, claim.event, claim.way) for claim in read_claims(frame.format(CLAIM)).things]
    assert ("red", "moves", "right") in said

@pytest.mark.parametrize("text, event", [("The red square does not move.", "stays"), ("The red square never stirs.", "stays"), ("The red square doesn't move at all.", "stays"), ("The red square disappears.", "vanishes")])
def test_a_denial_of_its_own_motion_is_a_claim(text, event): assert read_claims(text).things[0].event == event

def test_the_oracle_says_what_it_passed_over(tmp_path):
    question = from_record(next(iter(make_records(tmp_path, 1, "train"))))
    found = sufficient("I cannot see whether the red square moves right.", question)
    assert found.verdict == "empty" and "denies, doubts, asks or reports" in found.reason

# ---- length that is text

def table(text, tokens, bounds): return rewards([parse(text)], [1.], [1.], torch.tensor([tokens]), bounds)

FULL = "<observation>{}</observation> <think>{}</think><answer>A</answer>"
HONEST = "A man in a blue coat opens the door, looks around and walks slowly into the dark room where two people sit"
FILLED = ["x" + " " * 170, "x" + "\n" * 170, "." * 150, "x" + "\u200b" * 60, ". " * 90, "ha " * 90, "It moves. " * 40, "the red square moves and " * 20, "a b c d e f g h " * 9, "- - - - " * 30, "x" + "\u3164" * 90, "no no no no " * 20, "?!?!" * 40, "_" * 0 + "…" * 120]

@pytest.mark.parametrize("filled", FILLED)
def test_length_without_words_is_not_paid(filled):
    for k, text in enumerate((FULL.format(filled, HONEST), FULL.format(HONEST, filled))):
        paid = table(text, [200, 400], Bounds()).length[0]
        assert paid[k] == 0 and paid[1 - k] > 0
    faithful = table(FULL.format(filled, filled), [200, 400], LENGTHS["faithful"])
    assert (faithful.length[0] == Bounds().bonus * faithful.format[0]).all()

@pytest.mark.parametrize("text", [HONEST, "Red, green, blue: A B C.", "It goes left, left, then right.", "从左到右移动的红色方块停在中间。", "Die Tür geht auf; der Mann geht hinein.", "3 + 4 = 7, 7 - 2 = 5, so 5.", "First left. Second left. Third right.", "  spaced \n  out  a little "])
def test_honest_words_count_in_full(text): assert legible(text) >= .8

# ---- answers in place of evidence

@pytest.mark.parametrize("text", ["The answer is B.", "So it must be the red one.", "Therefore it goes left.", "I would pick (C).", "答案是B", "La respuesta es roja.", "Option B fits.", "It turns right. B."])
def test_an_answer_is_flagged(text): assert states_answer(text)

@pytest.mark.parametrize("text", ['The sign reads "Answer: 4".', "On the board is written: the correct answer is 12.", "The right hand holds a cup.", "He answers the phone.", "A menu lists option A and option B.", "The page shows the words therefore it follows.", "The player on the right scores.", "There must be rain, for the street is wet."])
def test_evidence_is_not_flagged(text): assert not states_answer(text)
