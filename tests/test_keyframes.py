"Samplers pick what they say, against plain restatements."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from videop2r.cot import Prompt
from videop2r.data import Record
from videop2r.tools.keyframes import ByQuestion, brief_clip, by_change, sampler_of
from videop2r.engine.media import Reader
from videop2r.model import Policy
from videop2r.engine.decode import read_clip
from videop2r.video import AtRate, Clip, uniform
from videop2r.world import samples

TEXT = Prompt("Answer briefly.", {})

@pytest.fixture(scope="module")
def base(): return Policy.load(samples() / "base")


def noise(f, seed=0): return Clip(np.random.default_rng(seed).integers(0, 256, (f, 12, 12, 3), dtype=np.uint8), 4.)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 20), st.data())
def test_farthest_first_against_a_loop(f, data):
    n, clip = data.draw(st.integers(1, f)), noise(f, f)
    x = clip.frames.astype(float).reshape(f, -1)
    looks = [[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x]
    far = [[looks[i][j] / np.max(looks) + .05 * abs(i - j) / (f - 1) for j in range(f)] for i in range(f)]
    want = [0]
    while len(want) < n: want.append(max((i for i in range(f) if i not in want), key=lambda i: min(far[i][j] for j in want)))
    assert clip.farthest_first(n) == sorted(want) and by_change(clip, n) == (sorted(want) if n < f else list(range(f)))


def test_picked_frames_keep_their_places_and_times(tmp_path):
    clip = read_clip(samples() / "clips" / "embedded-train-00000.mp4", 16)
    few = clip.pick([1, 2, 9])
    assert few.indices == [clip.indices[i] for i in (1, 2, 9)] and few.timestamps == [clip.timestamps[i] for i in (1, 2, 9)]
    assert few.fps == pytest.approx(2 / (few.timestamps[2] - few.timestamps[0])) and (few.frames == clip.frames[[1, 2, 9]]).all()
    for sampler in (uniform, by_change, AtRate(4.)): assert read_clip(clip.path, 4, sampler).indices == sampler(read_clip(clip.path, 16), 4)


@pytest.mark.parametrize("decoys", [0, 5])
def test_a_brief_event_is_missed_evenly_and_found_by_change(decoys):
    cases = [brief_clip(s, decoys) for s in range(30)]
    assert all(len(w) == 3 and (c.frames[min(w)] != c.frames[min(w) - 1]).any() for c, _, w in cases)
    assert sum(bool(w & set(uniform(c, 8))) for c, _, w in cases) < 12
    assert all(w & set(by_change(c, 8)) for c, _, w in cases)


def test_relevance_is_the_divergence_from_a_blank_clip(base):
    clip, r, _ = brief_clip(1, 4)
    ask = ByQuestion(base, TEXT)
    got = ask.relevance(clip, TEXT.render(r))
    logp = lambda c: ask.first_token([c], TEXT.render(r))[0]
    blank = logp(Clip(np.full((8, 84, 84, 3), 124, np.uint8), 8.))
    for w in (0, 5):
        p = logp(clip.pick(list(range(8 * w, 8 * w + 8))))
        assert got[8 * w:8 * w + 8].tolist() == pytest.approx([(p.exp() * (p - blank)).sum().item()] * 8, abs=1e-4)
    assert len(ByQuestion(base, TEXT)(clip, 5, r)) == 5


def test_one_frame_and_odd_lengths(base):
    clip, r, _ = brief_clip(2)
    short = clip.pick(list(range(5)))
    assert ByQuestion(base, TEXT).relevance(short, TEXT.render(r)).shape == (5,) and ByQuestion(base, TEXT)(short, 5, r) == [0, 1, 2, 3, 4]
    assert clip.pick([3]).farthest_first(1) == [0]


def test_a_reader_takes_every_sampler(base, tmp_path):
    row = Record(problem_id="1", problem="What moves?", problem_type="free-form", path="clips/embedded-train-00000.mp4")
    for word in ("uniform", "change", "rate:2", "question"):
        sampler = sampler_of(word, base, TEXT, name="embedded base")
        reader, kept = Reader(samples(), frames=4, sampler=sampler), Reader(samples(), frames=4, sampler=sampler, cache=tmp_path)
        for _ in range(2): assert torch.equal(reader.visual(row, base.family).patches, kept.visual(row, base.family).patches)
        assert (kept.cache.hits, kept.cache.misses) == (1, 1) and len(reader.clip(row).frames) <= 4
    with pytest.raises(ValueError, match="which checkpoint"): Reader(samples(), sampler=ByQuestion(base), cache=tmp_path)
    with pytest.raises(ValueError, match="stays in the model's process"): Reader(samples(), sampler=ByQuestion(base), seconds=5)
