"The frame cache: equal to reading without it, bounded, and safe among processes that come and go."
import json, os, random, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from patience import soon
from storm import LONG
from videop2r.families import FAMILIES, Family
from videop2r.data import Record
from videop2r.engine.framecache import FrameCache
from videop2r.engine.media import Reader
from videop2r.video import AtRate, Clip, VideoError, prepare, shrink, uniform
from videop2r.world import samples

QWEN = FAMILIES["qwen2_5_vl"]
THREE = Family("qwen3-vl", "qwen3_vl", patch=16, mean=(.5,) * 3, std=(.5,) * 3, whole_clip=True)


@pytest.mark.parametrize("family", [QWEN, THREE], ids=lambda f: f.name)
@pytest.mark.parametrize("shape", [(3, 90, 122), (8, 360, 640), (5, 20, 300), (1, 33, 31), (7, 720, 405)], ids=str)
@pytest.mark.parametrize("kind", ["video", "image"])
def test_shrinking_first_changes_no_patch(family, shape, kind):
    clip = Clip(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8), 2., kind=kind)
    small = shrink(clip, family)
    a, b = prepare(clip, family), prepare(small, family)
    assert (a.patches == b.patches).all() and (a.grid, a.seconds_per_grid) == (b.grid, b.seconds_per_grid)


def test_settings_and_files_have_entries_of_their_own(tmp_path):
    path = samples() / "clips" / "embedded-train-00000.mp4"
    row = Record(path=path.name)
    readers = [Reader(path.parent, frames=n, **how) for n in (8, 16) for how in (dict(), dict(pixels=50 * 784), dict(min_pixels=90 * 784), dict(sampler=AtRate(2.)), dict(sampler=AtRate(3.)), dict(sampler=other), dict(decoder="decord"))]
    keys = [json.dumps(r._key(path, row, family)) for r in readers for family in (QWEN, replace(QWEN, max_pixels=99 * 784), THREE)] + [json.dumps(readers[0]._key(path, Record(path=path.name, data_type="image"), QWEN))]
    assert len(set(keys)) == len(keys)
    Reader(path.parent, frames=8, cache=tmp_path).visual(row, QWEN)
    again = Reader(path.parent, frames=8, cache=tmp_path)
    again.visual(row, QWEN)
    assert (again.cache.hits, again.cache.misses) == (1, 0)

def other(film, n, record): return uniform(film, n)


def test_errors_are_not_kept(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    reader = Reader(tmp_path, frames=8, cache=tmp_path / "c")
    for path, what in ((tmp_path / "a.mp4", "cannot be read"), (tmp_path / "gone.mp4", "no such file")):
        for _ in range(2):
            with pytest.raises(VideoError, match=what): reader.visual(Record(path=path.name), QWEN)
    assert not list((tmp_path / "c").rglob("*.*"))


def made(i):
    "A clip that tells its own name."
    return Clip(np.full((4, 56, 56, 3), i % 251, np.uint8), 2.)


def test_what_was_used_longest_ago_goes_first(tmp_path):
    size = 4 * 56 * 56 * 3 + 200
    cache = FrameCache(tmp_path / "c", gigabytes=6.5 * size / 1e9)
    for i in range(6):
        cache.kept([i], lambda: made(i))
        time.sleep(.01)
    cache.kept([0], lambda: made(0))
    for i in range(6, 9):
        time.sleep(.01)
        cache.kept([i], lambda: made(i))
    kept = {i for i in range(12) if cache.place([i]).exists()}
    assert kept == {0, 4, 5, 6, 7, 8} and cache.hits == 1


WORKER = """
import random, sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_framecache import made
from videop2r.engine.framecache import FrameCache
folder, draw, reads = Path({folder!r}), random.Random(int(sys.argv[1])), 0
cache = FrameCache(folder / "c", gigabytes=2e-4)
(folder / ("begun" + sys.argv[1])).touch()
while reads < int(sys.argv[2]) or not (folder / "killed").exists():
    i = draw.randrange(40)
    clip = cache.kept([i], lambda: made(i))
    assert (clip.frames == i).all() and clip.frames.shape == (4, 56, 56, 3), i
    reads += 1
"""

@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_processes_share_it_while_others_are_killed(tmp_path):
    (tmp_path / "w.py").write_text(WORKER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    start = lambda seed, n: subprocess.Popen([sys.executable, str(tmp_path / "w.py"), str(seed), str(n)], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    steady, draw = [start(seed, 1500 if LONG else 60) for seed in range(2)], random.Random(0)
    doomed = [start(seed, 10**6) for seed in (9, 10)]
    try:
        assert soon(lambda: all((tmp_path / f"begun{seed}").exists() for seed in (0, 1, 9, 10))), "a process did not begin"
        for p in doomed:
            time.sleep(draw.random())
            p.kill()
            p.communicate()
        (tmp_path / "killed").touch()
        for p in steady: assert p.communicate(timeout=600)[1].decode()[-500:] == "" and p.returncode == 0
    finally:
        for p in (*steady, *doomed): p.kill()
    cache = FrameCache(tmp_path / "c", gigabytes=2e-4)
    for i in range(40): assert (cache.kept([i], lambda: made(i)).frames == i).all()
    assert sum(f.stat().st_size for f in (tmp_path / "c").rglob("*.frames")) < 1.5 * 2e5
