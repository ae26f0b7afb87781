"The frame cache: equal to reading without it, bounded, and safe among processes that come and go."
import os, random, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from videop2r.families import FAMILIES, Family
from videop2r.engine.decode import read_media
from videop2r.engine.framecache import FrameCache
from videop2r.video import Clip, VideoError, prepare, shrink
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
    caches = [FrameCache(tmp_path, QWEN), FrameCache(tmp_path, replace(QWEN, max_pixels=99 * 784)), FrameCache(tmp_path, QWEN, max_pixels=50 * 784), FrameCache(tmp_path, THREE), FrameCache(tmp_path, QWEN, read=other)]
    entries = [c.entry(path, "video", n) for c in caches for n in (8, 16)] + [caches[0].entry(path, "image", 8)]
    assert len(set(entries)) == len(entries)
    FrameCache(tmp_path, QWEN).read(path, "video", 8)
    again = FrameCache(tmp_path, QWEN)
    again.read(path, "video", 8)
    assert (again.hits, again.misses) == (1, 0)

def other(path, kind, n): return read_media(path, kind, n)


def test_errors_are_not_kept(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    cache = FrameCache(tmp_path / "c", QWEN)
    for path, what in ((tmp_path / "a.mp4", "cannot be read"), (tmp_path / "gone.mp4", "no such file")):
        for _ in range(2):
            with pytest.raises(VideoError, match=what): cache.read(path, "video", 8)
    assert not list((tmp_path / "c").rglob("*.*"))


def made(path, kind, n):
    "A clip that tells its own name."
    return Clip(np.full((n, 56, 56, 3), int(Path(path).stem) % 251, np.uint8), 2.)


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for i in range(12): (tmp_path / f"{i}.mp4").touch()
    size = 4 * 56 * 56 * 3 + 200
    cache = FrameCache(tmp_path / "c", QWEN, gigabytes=6.5 * size / 1e9, read=made)
    for i in range(6):
        cache.read(tmp_path / f"{i}.mp4", "video", 4)
        time.sleep(.01)
    cache.read(tmp_path / "0.mp4", "video", 4)
    for i in range(6, 9):
        time.sleep(.01)
        cache.read(tmp_path / f"{i}.mp4", "video", 4)
    kept = {i for i in range(12) if cache.entry(tmp_path / f"{i}.mp4", "video", 4).exists()}
    assert kept == {0, 4, 5, 6, 7, 8} and cache.hits == 1


WORKER = """
import random, sys; sys.path.insert(0, {tests!r})
from test_framecache import QWEN, made
from videop2r.engine.framecache import FrameCache
cache, draw = FrameCache({folder!r} + "/c", QWEN, gigabytes=2e-4, read=made), random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    i = draw.randrange(40)
    clip = cache.read(f"{folder}/{{i}}.mp4", "video", 4)
    assert (clip.frames == i).all() and clip.frames.shape == (4, 56, 56, 3), i
"""

@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_processes_share_it_while_others_are_killed(tmp_path):
    for i in range(40): (tmp_path / f"{i}.mp4").touch()
    (tmp_path / "w.py").write_text(WORKER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    start = lambda seed, n: subprocess.Popen([sys.executable, str(tmp_path / "w.py"), str(seed), str(n)], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    steady, doomed, draw = [start(s, 1500) for s in range(2)], [start(9 + s, 10**6) for s in range(2)], random.Random(0)
    time.sleep(8)
    for p in doomed:
        time.sleep(draw.random())
        p.kill()
        p.communicate()
    for p in steady: assert p.communicate(timeout=120)[1].decode()[-500:] == "" and p.returncode == 0
    cache = FrameCache(tmp_path / "c", QWEN, gigabytes=2e-4, read=made)
    for i in range(40): assert (cache.read(tmp_path / f"{i}.mp4", "video", 4).frames == i).all()
    assert sum(f.stat().st_size for f in (tmp_path / "c").rglob("*.frames")) < 1.5 * 2e5
