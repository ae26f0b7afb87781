"""Positions of tokens by the rule that Qwen2.5-VL was published with: numbers by hand, a count token by token, and where transformers 5 differs."""
import random
from dataclasses import replace
import pytest, torch
from videop2r.families import FAMILIES
from videop2r.model import Policy, token_positions
from videop2r.engine.shared import prefill
from videop2r.tokens import Coder, collate, encode, train_tokenizer
from videop2r.video import Visual

FAMILY = FAMILIES["qwen2_5_vl"] # merges 2 × 2 patches, two positions a second
IMAGE, VIDEO = 1, 2

def visual(t, h, w, seconds=None): return Visual(None, (t, 2 * h, 2 * w), "image" if seconds is None else "video", seconds or 1.)

def places(kinds, *visuals): return token_positions(torch.tensor(kinds), list(visuals), FAMILY).tolist()


def test_text_counts_on_all_axes(): assert places([0] * 4) == [[0, 1, 2, 3]] * 3

def test_an_image_stands_still_in_time():
    kinds = [0] + [IMAGE] * 6 + [0, 0] # two rows of three
    assert places(kinds, visual(1, 2, 3)) == [[0, 1, 1, 1, 1, 1, 1, 4, 5],
                                              [0, 1, 1, 1, 2, 2, 2, 4, 5],
                                              [0, 1, 2, 3, 1, 2, 3, 4, 5]]

def test_text_goes_on_after_the_time_of_a_slow_clip():
    kinds = [0, 0] + [VIDEO] * 6 + [0, 0] # three layers of one row of two, 2.25 s apart: 0, 4.5 and 9 after the start
    assert places(kinds, visual(3, 1, 2, 2.25)) == [[0, 1, 2, 2, 6, 6, 11, 11, 12, 13],
                                                    [0, 1, 2, 2, 2, 2, 2, 2, 12, 13],
                                                    [0, 1, 2, 3, 2, 3, 2, 3, 12, 13]]

def test_text_goes_on_after_the_columns_of_a_fast_clip():
    kinds = [0] + [VIDEO] * 6 + [0] # two layers of one row of three, 0.4 s apart: 0 and 0.8
    assert places(kinds, visual(2, 1, 3, .4)) == [[0, 1, 1, 1, 1, 1, 1, 4],
                                                  [0, 1, 1, 1, 1, 1, 1, 4],
                                                  [0, 1, 2, 3, 1, 2, 3, 4]]

def test_two_visuals_in_a_prompt():
    kinds = [0] + [VIDEO] * 2 + [0] + [IMAGE] * 4 + [0] # two layers of one token, 2 s apart; an image of 2 × 2
    assert places(kinds, visual(2, 1, 1, 2.), visual(1, 2, 2)) == [[0, 1, 5, 6, 7, 7, 7, 7, 9],
                                                                   [0, 1, 1, 6, 7, 7, 8, 8, 9],
                                                                   [0, 1, 1, 6, 7, 8, 7, 8, 9]]

@pytest.mark.parametrize("kinds,visuals,said", [([0, VIDEO, 0], [], "1 visual tokens in a row for a visual of 0"), ([VIDEO] * 3, [visual(1, 2, 2, 1.)], "3 visual tokens in a row for a visual of 4")])
def test_tokens_without_their_visual(kinds, visuals, said):
    with pytest.raises(ValueError, match=said): places(kinds, *visuals)


def one_by_one(kinds, visuals):
    "The published rule for one token after the other, in Python's own numbers."
    found, free, left = [], 0, list(visuals)
    while len(found) < len(kinds):
        if kinds[len(found)] == 0:
            found.append((free, free, free))
            free += 1
            continue
        v = left.pop(0)
        t, h, w = v.grid[0], v.grid[1] // 2, v.grid[2] // 2
        own = [(free + (int(i * v.seconds_per_grid * 2) if v.kind == "video" else 0), free + y, free + x) for i in range(t) for y in range(h) for x in range(w)]
        found += own
        free = 1 + max(max(place) for place in own)
    return [list(axis) for axis in zip(*found)]

def drawn(dice):
    "Kinds and visuals of a random prompt; rates whose times are exact in single precision."
    kinds, visuals = [0] * dice.randint(0, 3), []
    for _ in range(dice.randint(0, 3)):
        video = dice.random() < .7
        v = visual(dice.randint(1, 8) if video else 1, dice.randint(1, 5), dice.randint(1, 5), dice.choice([.125, .25, .5, 1., 1.75, 2., 5., 20.]) if video else None)
        visuals.append(v)
        kinds += [VIDEO if video else IMAGE] * (v.grid[0] * v.grid[1] * v.grid[2] // 4) + [0] * dice.randint(1, 4)
    return kinds or [0], visuals

@pytest.mark.parametrize("seed", range(200))
def test_random_prompts(seed):
    kinds, visuals = drawn(random.Random(seed))
    assert places(kinds, *visuals) == one_by_one(kinds, visuals)


@pytest.fixture(scope="module")
def policy():
    from transformers import AutoModelForImageTextToText
    coder = Coder(train_tokenizer(["What moves?", "Say it."] * 5, 280), FAMILY)
    torch.manual_seed(0)
    return Policy(AutoModelForImageTextToText.from_config(coder.tiny_config(hidden=64, layers=2, vision=64, depth=2)).eval(), coder)

def with_pixels(v): return v and replace(v, patches=torch.randn(v.grid[0] * v.grid[1] * v.grid[2], 3 * 2 * 14 * 14))

SLOW, FAST, STILL = visual(4, 2, 2, 1.), visual(3, 3, 2, .5), visual(1, 2, 3)

def batch_of(policy, visuals):
    "Rows of uneven prompts and responses: padding on the left and on the right."
    texts, said = ["What moves?", "Say it.", "What moves? Say it. What moves?"], ["Say it.", None, "it."]
    return collate(policy.coder, [encode(policy.coder, texts[i % 3], with_pixels(v), said[i % 3]) for i, v in enumerate(visuals)])

def test_padding_on_both_sides_is_left_out(policy):
    batch = batch_of(policy, visuals := [SLOW, None, FAST, STILL, visual(2, 1, 1, 6.)])
    assert not batch.mask[:, 0].all() and not batch.mask[:, -1].all()
    got = policy.positions(batch)
    for i, (kinds, real, v) in enumerate(zip(batch.kinds, batch.mask, visuals)):
        assert got[:, i, real].tolist() == one_by_one(kinds[real].tolist(), [v] if v else []) and not got[:, i, ~real].any()

def fives(policy, batch):
    "Positions by the class of the transformers that is installed."
    def of(kind): return [v for v in batch.visuals if v and v.kind == kind]
    def grids(kind): return torch.tensor([list(v.grid) for v in of(kind)]) if of(kind) else None
    return policy.body.get_rope_index(batch.ids, batch.kinds, attention_mask=batch.mask.long(), image_grid_thw=grids("image"), video_grid_thw=grids("video"), second_per_grid_ts=[v.seconds_per_grid for v in of("video")])[0]

@pytest.mark.parametrize("v,same", [(STILL, True), (FAST, True), (visual(2, 1, 2, .5), True), (visual(5, 2, 2, .25), False), (SLOW, False), (visual(2, 1, 1, 1.), False)], ids=str)
def test_transformers_5_differs_where_time_exceeds_space(policy, v, same):
    "A change upstream is to be noticed: should this fail where they differ, theirs has become the published rule."
    batch = batch_of(policy, [v])
    got, theirs = policy.positions(batch)[:, 0], fives(policy, batch)[:, 0]
    after = int((batch.kinds[0] > 0).nonzero().max()) + 1
    assert (got[:, :after] == theirs[:, :after]).all() and (got == theirs).all() == same
    if same: return
    t, h, w = v.grid
    behind = int((t - 1) * v.seconds_per_grid * 2) + 1 - max(h, w) // 2
    assert behind > 0 and (got[:, after:] - theirs[:, after:] == behind).all()

@pytest.mark.parametrize("fps", [.3, .7, 1., 1.37, 2., 2.4, 3., 7.3, 23.976, 29.97])
def test_times_are_rounded_as_the_family_rounds(policy, fps):
    v = visual(40, 1, 1, 2 / fps)
    batch = batch_of(policy, [v])
    seen = batch.kinds[0] > 0
    assert (policy.positions(batch)[:, 0, seen] == fives(policy, batch)[:, 0, seen]).all()

def test_the_shared_prompt_and_responses_go_on_after_the_greatest_position(policy):
    prompts = collate(policy.coder, [encode(policy.coder, "What moves?", with_pixels(v)) for v in (SLOW, None, FAST)])
    with torch.no_grad(): shared = prefill(policy, prompts)
    assert shared.start.tolist() == (policy.positions(prompts).amax((0, 2)) + 1).tolist()
    batch = batch_of(policy, [SLOW])
    response = policy.positions(batch)[:, 0, batch.prompt:]
    assert (response == int(policy.positions(batch)[:, 0, :batch.prompt].max()) + 1 + torch.arange(response.shape[1])).all()
