"""The synthetic world: determinism, ambiguity, and the embedded samples."""
import random
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from videop2r.data import read_records
from videop2r.engine.decode import read_media
from videop2r.oracle import oracle_errors, paraphrase, read_claims, spoil, sufficient
from dataclasses import replace
from videop2r.data import RecordError, write_jsonl
from videop2r.engine.scenes import COLOURS, PLACES, Cups, World, _places, draw_frames, make_cups, make_scene
from videop2r.world import (COMPOSED, CONTROL, KINDS, answer_text, from_record, gold_observation, make_records, question_of, samples, solve, to_record, SHIPPED)

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")

@pytest.mark.parametrize("split", ["train", "heldout"])
def test_embedded_records_are_what_the_code_makes(tmp_path, split):
    write_jsonl(make_records(tmp_path, 9, f"embedded-{split}", SHIPPED, prefix=""), tmp_path / f"{split}.jsonl")
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

def test_a_fourth_window_is_drawn_told_and_read():
    lengths = set()
    for i in range(120):
        q = question_of("four", i, World(windows=4, swaps=(0, 4)), COMPOSED)
        game, row = q.scene.cups, list(q.scene.cups.row)
        assert q.scene.frames == len(draw_frames(q.scene)) == 42 and len(game.stays) == 4
        for window in range(4):
            moved = [k for k in range(3) if max(abs(_places(game, 7 + 9 * window + f)[k][0] - k) for f in range(9)) > .5]
            if moved: row[moved[0]], row[moved[1]] = row[moved[1]], row[moved[0]]
        assert tuple(row) == game.rows[-1] and from_record(to_record(q, "f", "f.mp4")) == q
        assert sufficient(gold_observation(q), q) and sufficient(paraphrase(q, random.Random(i)), q)
        assert not sufficient(spoil(q, random.Random(i))[0], q)
        lengths.add(len(game.swaps))
    assert lengths == {0, 1, 2, 3, 4}

@pytest.mark.parametrize("windows", (1, 2, 3, 4))
def test_a_clip_holds_each_of_its_windows(windows):
    scene = game(windows=windows, swaps=(windows, windows))
    last = [_places(scene.cups, f) for f in range(scene.frames - 4, scene.frames)]
    assert any(abs(frame[k][0] - k) > .5 for frame in last for k in range(3))

def test_every_composed_kind_has_luck_far_below_certainty():
    from videop2r.world import luck
    assert all(luck(kind, 400) < .6 for kind in COMPOSED)

# ---- the dials of a shell game

def game(seed=0, **kw): return make_cups(random.Random(seed), World(**kw))

def test_quick_swaps_are_over_sooner_and_end_alike():
    slow = game(quick=0., swaps=(3, 3))
    fast = replace(slow, cups=replace(slow.cups, quick=(True,) * 3))
    away = [sum(any(abs(x - i) + abs(y) > 1e-9 for i, (x, y) in enumerate(_places(scene.cups, f))) for f in range(7, 16))
            for scene in (slow, fast)]
    assert away == [7, 5] and fast.cups.rows == slow.cups.rows
    assert all(game(i, quick=1., swaps=(3, 3)).cups.quick == (True,) * 3 for i in range(20))

def test_a_feint_lifts_one_cup_and_brings_it_back():
    for i in range(60):
        cups = game(i, feint=1., swaps=(1, 1)).cups
        for window, (stays, feint) in enumerate(zip(cups.stays, cups.feints)):
            assert (stays is None) == (feint is not None)
            if not feint: continue
            frames = [_places(cups, f) for f in range(7 + 9 * window, 16 + 9 * window)]
            lifted = {k for frame in frames for k, (x, y) in enumerate(frame) if y < -.1}
            assert lifted == {PLACES.index(feint)} and all(frame[k][0] == k for frame in frames for k in range(3))

def test_faint_balls_stand_nearer_to_the_ground():
    plain = game()
    faint = replace(plain, faint=.5)
    for i, colour in enumerate(plain.cups.row):
        full, half = (draw_frames(scene)[0, 42, 14 + 28 * i].astype(int) for scene in (plain, faint))
        ground = draw_frames(plain)[0, 80, 14 + 28 * i].astype(int)
        assert (full == COLOURS[colour]).all() and abs(half - (full + ground) / 2).max() <= 1

def test_noise_has_its_deviation_and_is_the_same_again():
    scene = game(noise=10)
    gaps = draw_frames(scene).astype(int) - draw_frames(replace(scene, noise=0))
    assert abs(gaps.std() - 10) < .3 and abs(gaps.mean()) < .1 and (draw_frames(scene) == draw_frames(game(noise=10))).all()

def test_a_game_without_a_swap_is_asked_about_and_told():
    for i in range(40):
        q = question_of("none", i, World(swaps=(0, 0)), COMPOSED)
        assert sufficient(gold_observation(q), q) and not q.scene.cups.swaps

@pytest.mark.parametrize("wrong, said", [(dict(swaps=(1, 5)), "swaps is .*0 to 3"), (dict(swaps=(2, 1)), "swaps is"), (dict(swaps=(-1, 1)), "swaps is"),
                                         (dict(faint=1.5), "faint is 1.5"), (dict(quick=-.1), "quick is"), (dict(noise=-1), "noise is"),
                                         (dict(ladder=2), "ladder is 2"), (dict(windows=5), "windows is 5; use 1 to 4"), (dict(windows=2), "0 to 2"),
                                         (dict(windows=2.5), "windows is 2.5")])
def test_a_world_that_cannot_be_is_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said): World(**wrong)

# ---- ladders

def down(frame, line):
    "Where one comes out who follows a line of the picture down, and along every rung that reaches a neighbour."
    lines, bright = (14, 42, 70), (frame == 235).all(-1)
    y = 25
    while y < 60:
        y += 1
        for other in (line - 1, line + 1):
            if not 0 <= other < 3: continue
            left, right = sorted((lines[line], lines[other]))
            if bright[y, left:right].all():
                line = other
                while bright[y, left:right].all(): y += 1
                break
    return line

def test_on_a_ladder_the_answer_follows_from_the_lines_that_are_drawn():
    seen = set()
    for i in range(200):
        scene = game(i, ladder=1., windows=3 + i % 2, swaps=(0, 3 + i % 2))
        frame, cups = draw_frames(scene)[0], scene.cups
        ends = {PLACES[down(frame, line)]: ball for line, ball in enumerate(cups.row)}
        assert tuple(ends[place] for place in PLACES) == cups.rows[-1]
        seen |= {*cups.stays, *cups.feints}
    assert seen == {None, *PLACES} # every rung, and half a rung of every line

def test_every_type_of_question_that_a_ladder_allows_is_an_image_read_back_as_it_was_drawn(tmp_path):
    asked = [kind for kind in COMPOSED if KINDS[kind].still]
    records = list(make_records(tmp_path, 12, "ladder", World(ladder=1.), asked))
    assert {r.problem_type for r in records} == {"multiple choice", "OCR", "free-form"} and len(asked) == 6
    for record in records:
        q = from_record(record)
        assert record.data_type == "image" and record.path.endswith(".png") and q.scene.still
        assert (np.array(Image.open(tmp_path / record.path)) == draw_frames(q.scene)[0]).all()
        assert sufficient(gold_observation(q), q) and solve(read_claims(gold_observation(q), q.scene), q) == answer_text(q)

def test_how_far_and_how_often_are_asked_of_clips_alone():
    for kind in ("times", "rests", "far", "net"):
        q = question_of("ladder", 0, World(ladder=1.), (kind,))
        assert not q.scene.still and KINDS[kind].askable(game(ladder=1.)) == []

def test_a_rung_over_the_middle_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neighbours"): replace(game(ladder=1.), cups=Cups(("red", "green", "blue"), ("middle",)))
    record = next(make_records(tmp_path, 1, "ladder", World(ladder=1.), ("where",)))
    scene = record.extra["scene"]
    wrong = scene | dict(cups=scene["cups"] | dict(stays=["middle", None, None]))
    with pytest.raises(RecordError, match="neighbours"): from_record(replace(record, extra=record.extra | dict(scene=wrong)))

def test_another_game_of_a_ladder_and_a_spoilt_one_are_ladders():
    from videop2r.room import elsewhere
    for i in range(60):
        q = question_of("ladder", i, World(ladder=1.), ("where", "which"))
        assert elsewhere(q, random.Random(i)).scene.still and spoil(q, random.Random(i))[1] in ("contradicts", "insufficient")

# ---- records of other versions, and damaged ones

def stored(kind="where"): return next(r for r in read_records(SAMPLES / "train.jsonl") if r.extra["kind"] == kind)

def test_a_record_from_before_there_were_cups_is_read():
    record = stored("direction")
    scene = {name: told for name, told in record.extra["scene"].items() if name not in ("cups", "faint", "noise")}
    assert from_record(replace(record, extra=record.extra | dict(scene=scene))) == from_record(record)

@pytest.mark.parametrize("damage, said", [
    (dict(scene=dict(things=[])), "cannot be read"), (dict(scene="red"), "cannot be read"), (dict(target="orange"), "about orange"), (dict(target=None), "about None"),
    (dict(kind="direction"), "direction cannot be asked"), (dict(kind="nothing"), "holds no scene"), (dict(scene=None), "holds no scene")])
def test_a_damaged_scene_is_named(damage, said):
    record = stored()
    with pytest.raises(RecordError, match=f"{record.problem_id}.*{said}"): from_record(replace(record, extra=record.extra | damage))

def test_a_damaged_game_is_named():
    record = stored()
    for cups in ("red", dict(row=["red"]), dict(record.extra["scene"]["cups"], wrong=1), dict(record.extra["scene"]["cups"], row=["A", "B", "C"])):
        with pytest.raises(RecordError): from_record(replace(record, extra=record.extra | dict(scene=record.extra["scene"] | dict(cups=cups))))

def test_a_clip_shows_the_world_of_its_record_and_is_whole_or_not_there(tmp_path, monkeypatch):
    made = lambda **world: [(r, (tmp_path / r.path).read_bytes()) for r in make_records(tmp_path, 3, 0, World(**world), ("where",))]
    first, again, other, back = made(), made(), made(swaps=(3, 3), faint=.6, noise=20), made()
    assert first == again == back and all(a[1] != b[1] and a[0].path == b[0].path for a, b in zip(first, other))
    (tmp_path / first[0][0].path).unlink()
    def stopped(frames, path, crf):
        Path(path).write_bytes(b"half a clip")
        raise KeyboardInterrupt
    monkeypatch.setattr("videop2r.engine.scenes._encode", stopped)
    before = sorted(path.name for path in (tmp_path / "clips").iterdir())
    with pytest.raises(KeyboardInterrupt): made()
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == before
