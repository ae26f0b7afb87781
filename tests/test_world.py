"""The synthetic world: determinism, ambiguity, and the embedded samples."""
import random
from pathlib import Path
import pytest
from videop2r.data import read_records
from videop2r.engine.decode import read_media
from videop2r.oracle import oracle_errors, paraphrase, read_claims, spoil, sufficient
from videop2r.engine.scenes import World, _places, draw_frames, make_scene
from videop2r.world import (COMPOSED, CONTROL, KINDS, answer_text, from_record, gold_observation, make_records, question_of, samples, solve,
                            write_samples)

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")

@pytest.mark.parametrize("split", ["train", "heldout"])
def test_embedded_records_are_what_the_code_makes(tmp_path, split):
    write_samples(tmp_path, 9, 9)
    for made, kept in zip(read_records(tmp_path / f"{split}.jsonl"), read_records(SAMPLES / f"{split}.jsonl")):
        assert made.to_dict() == kept.to_dict()

def test_embedded_splits_share_no_clip_and_all_decode():
    splits = {s: list(read_records(SAMPLES / f"{s}.jsonl")) for s in ("train", "heldout")}
    paths = {s: {r.path for r in rs} for s, rs in splits.items()}
    assert not paths["train"] & paths["heldout"]
    assert 64 <= sum(map(len, splits.values())) <= 200
    for r in splits["train"] + splits["heldout"]: assert len(read_media(SAMPLES / r.path, r.data_type, 8).frames) == (1 if r.data_type == "image" else 8)

def test_every_kind_and_type_is_there():
    rs = list(read_records(SAMPLES / "heldout.jsonl"))
    assert {r.extra["kind"] for r in rs} == set(KINDS)
    assert {r.problem_type for r in rs} == {k.type for k in KINDS.values()}
    assert {r.data_type for r in rs} == {"image", "video"}

def test_things_never_overlap():
    for i in range(300):
        scene = make_scene(random.Random(i), World(things=(1, 5), word=.5))
        cells = [c for t in scene.things for c in {t.cell, *[(t.cell[0] + k * dr, t.cell[1] + k * dc) for k in range(t.steps + 1) for dr, dc in [dict(left=(0, -1), right=(0, 1), up=(-1, 0), down=(1, 0)).get(t.way, (0, 0))]]}]
        assert len(cells) == len(set(cells)) and scene.word_cell not in cells

def test_claims_of_gold_observations_solve_to_the_answer():
    for i in range(450):
        q = question_of("solve", i, World(brief=.2))
        assert str(solve(read_claims(gold_observation(q), q.scene), q)) == answer_text(q)

def test_oracle_never_passes_spoilt_observations_and_refuses_few_good_ones():
    errors = oracle_errors(1000, seed=1)
    assert len(errors["false_yes"]) / errors["spoilt"] <= .01
    assert len(errors["false_no"]) / errors["good"] <= .2

def test_order_of_sentences_does_not_matter():
    for i in range(180):
        q = question_of("order", i, kinds=CONTROL) # swaps are told in their order
        said = gold_observation(q).split(". ", 1)[1].rstrip(".").split(". ")
        assert sufficient(". ".join(reversed(said)) + ".", q), (q, said)

def test_a_false_claim_contradicts_even_where_the_answer_is_right():
    q = next(q for i in range(99) if (q := question_of("luck", i)).kind == "mover")
    text = gold_observation(q)
    swapped = text.replace(q.target.way, "left" if q.target.way != "left" else "right")
    assert solve(read_claims(swapped), q) == answer_text(q) and sufficient(swapped, q).verdict == "contradicts"

def test_numbering_is_stable(tmp_path):
    few, many = list(make_records(tmp_path / "a", 5, "s")), list(make_records(tmp_path / "b", 9, "s"))
    assert [r.to_dict() for r in few] == [r.to_dict() for r in many[:5]]
    assert (draw_frames(from_record(few[0]).scene) == draw_frames(from_record(many[0]).scene)).all()

def test_answers_of_shell_games_follow_from_the_cups_that_are_drawn():
    "Whoever is half a place away from where the window found them has changed places with the other such."
    for i in range(120):
        game, row = question_of("follow", i, kinds=COMPOSED).scene.cups, None
        row = list(game.row)
        for start in (7, 16, 25): # the first frame of each window
            frames = [_places(game, f) for f in range(start, start + 9)]
            moved = [k for k in range(3) if max(abs(frame[k][0] - k) for frame in frames) > .5]
            assert len(moved) in (0, 2)
            if moved: row[moved[0]], row[moved[1]] = row[moved[1]], row[moved[0]]
        assert tuple(row) == game.rows[-1]

def test_every_composed_kind_has_luck_far_below_certainty():
    from videop2r.world import luck
    assert all(luck(kind, 400) < .6 for kind in COMPOSED)
