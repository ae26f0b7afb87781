"The audit: hangs, deaths and damage cost one clip each; nothing is lost when it is stopped."
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import av, numpy as np, pytest
from videop2r.data import Journal, Record
from videop2r.media import audit, gallery
from videop2r.video import VideoError, read_media

STORM = bool(os.environ.get("VIDEOP2R_STORM"))


def film(path, seed=0, n=24, size=64):
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", options=dict(movflags="faststart") if seed % 2 else {}) as out:
        s = out.add_stream("libx264", rate=8, options=dict(g=str(4 + seed % 9)))
        s.height, s.width, s.pix_fmt = size, size, "yuv420p"
        for _ in range(n): out.mux(s.encode(av.VideoFrame.from_ndarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), format="rgb24")))
        out.mux(s.encode())
    return path


def strange(path, kind, frames):
    "A reader that misbehaves by the name of the file."
    name = Path(path).stem
    if name.startswith("hang"): time.sleep(600)
    if name.startswith("segv"): os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("exit"): os._exit(3)
    if name.startswith("raise"): raise KeyError("frames")
    if name.startswith("memory"): return [bytearray(1 << 30) for _ in range(64)]
    if name.startswith("noise"): os.write(1, b"x" * 100_000)
    return read_media(path, kind, frames)


@pytest.fixture
def folder(tmp_path):
    film(tmp_path / "good0.mp4")
    data = (tmp_path / "good0.mp4").read_bytes()
    for name in ("hang", "segv", "exit", "raise", "memory", "noise", *(f"good{i}" for i in range(1, 6))): (tmp_path / f"{name}.mp4").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
def test_misbehaviour_costs_one_clip_each(folder, workers):
    found = audit(folder, out=folder / "a", workers=workers, seconds=5, memory=1, read=strange, quiet=True)
    assert {p[:-4]: r["kind"] for p, r in found.rows.items()} == {"hang": "time", "segv": "died", "exit": "died", "raise": "unreadable", "memory": "unreadable", "noise": "good", **{f"good{i}": "good" for i in range(6)}}
    reasons = {q["path"]: q["reason"] for q in found.quarantine}
    assert "5 s" in reasons["hang.mp4"] and "SIGSEGV" in reasons["segv.mp4"] and "exit code 3" in reasons["exit.mp4"] and "frames" in reasons["raise.mp4"]
    assert [json.loads(l)["path"] for l in (folder / "a/quarantine.jsonl").read_text().splitlines()] == list(reasons)


def test_every_kind_of_bad_path_is_listed_with_its_records(folder):
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "pretends.png").write_bytes((folder / "good0.mp4").read_bytes())
    (folder / "out.mp4").symlink_to("/etc/hosts")
    paths = ["text.mp4", "empty.mp4", "pretends.png", "out.mp4", "../x.mp4", "gone.mp4", "./good1.mp4", "good1.mp4"]
    rows = [Record(problem_id=str(i), path=p, data_type="image" if p.endswith("png") else "video") for i, p in enumerate(paths)]
    found = audit(folder, rows, workers=1, quiet=True)
    assert [r["kind"] for r in found.rows.values()] == ["unreadable", "unreadable", "unreadable", "outside", "outside", "missing", "good"]
    assert [q["records"] for q in found.quarantine] == [[str(i)] for i in range(6)] and [r.problem_id for r in found.clean(rows)] == ["6", "7"]
    assert "gone.mp4" in found._repr_markdown_()


def test_a_second_run_reads_only_what_is_new_or_changed_or_was_given_too_little_time(folder):
    run = lambda **kw: audit(folder, out=folder / "a", workers=1, read=strange, quiet=True, **{**dict(seconds=2, memory=.5), **kw})
    lines = lambda: [json.loads(l)["path"] for l in (folder / "a/audit.jsonl").read_text().splitlines()]
    run()
    first = len(lines())
    run()
    assert len(lines()) == first
    film(folder / "good3.mp4", seed=5)
    film(folder / "new.mp4")
    run()
    assert sorted(lines()[first:]) == ["good3.mp4", "new.mp4"]
    run(seconds=3)
    assert lines()[-1] == "hang.mp4" and len(lines()) == first + 3
    run(frames=4)
    assert len(lines()) == 2 * first + 4


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from test_media import strange
from videop2r.media import audit
if __name__ == "__main__": audit({folder!r}, out={out!r}, workers=2, seconds=600, read=strange, quiet=True)
"""

def alive(marker):
    return [p for p in Path("/proc").glob("[0-9]*/environ") if p.parent.name != str(os.getpid()) and marker in _read(p)]

def _read(p):
    try: return p.read_text(errors="ignore")
    except OSError: return ""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_stopped_audits_keep_what_is_finished_and_leave_nobody_behind(folder, sign):
    for i in range(6, 40): (folder / f"good{i}.mp4").write_bytes((folder / "good0.mp4").read_bytes())
    (folder / "run.py").write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), out=str(folder / "a")))
    mark = f"AUDIT_TEST={os.urandom(8).hex()}"
    p = subprocess.Popen([sys.executable, folder / "run.py"], stderr=subprocess.DEVNULL, env={**os.environ, **dict([mark.split("=")])}, start_new_session=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for _ in range(600):
        time.sleep(.1)
        if (folder / "a/audit.jsonl").exists() and (folder / "a/audit.jsonl").read_text().count("\n") >= 5: break
    p.send_signal(sign)
    p.wait(30)
    done = {r["path"] for r in Journal(folder / "a/audit.jsonl").rows}
    assert len(done) >= 5
    if sign == signal.SIGINT:
        for _ in range(50):
            if not alive(mark): break
            time.sleep(.1)
        assert not alive(mark)
    (folder / "hang.mp4").unlink()
    again = audit(folder, out=folder / "a", workers=2, seconds=600, memory=2, read=strange, quiet=True)
    rows = [r["path"] for r in Journal(folder / "a/audit.jsonl").rows]
    assert len(rows) == len(set(rows)) and done <= set(rows) and again.kinds["good"] == 41
    for pid in alive(mark): os.kill(int(pid.parent.name), signal.SIGKILL)


def mutate(data, other, draw):
    "Clip bytes with flipped bits, a cut, another clip's head, a block of zeros, or noise."
    a = bytearray(data)
    how = draw.choice(["flip", "cut", "splice", "zero", "noise", "head"])
    at = draw.randrange(len(a))
    if how == "flip":
        for _ in range(draw.choice([1, 8, 64, 512])): a[draw.randrange(len(a))] ^= 1 << draw.randrange(8)
    if how == "cut": del a[at:]
    if how == "splice": a[:at] = other[:draw.randrange(len(other))]
    if how == "zero": a[at:at + 4000] = bytes(len(a[at:at + 4000]))
    if how == "noise": a[at:at + 500] = draw.randbytes(len(a[at:at + 500]))
    if how == "head": a[:64] = draw.randbytes(64)
    return bytes(a)


def test_a_storm_of_damaged_clips(tmp_path):
    draw, n = random.Random(0), 500 if STORM else 50
    clips = [film(tmp_path / f"good{i}.mp4", seed=i).read_bytes() for i in range(10)]
    for i in range(n): (tmp_path / f"bad{i:03}.mp4").write_bytes(mutate(*draw.sample(clips, 2), draw))
    found = audit(tmp_path, out=tmp_path / "a", workers=2, seconds=10, quiet=True)
    assert len(found.rows) == n + 10 and all(found.rows[f"good{i}.mp4"]["kind"] == "good" for i in range(10))
    assert all(q["reason"] for q in found.quarantine) and len(found.quarantine) + found.kinds["good"] == n + 10
    assert found.kinds["missing"] + found.kinds["outside"] == 0 and len(found.quarantine) > n / 5
    assert found.kinds == audit(tmp_path, workers=1, seconds=10, quiet=True).kinds
    print(dict(found.kinds))


def test_a_page_shows_what_cannot_be_read_as_text(folder):
    page = gallery([Record(problem_id="<i>1", problem="?", path="good0.mp4"), Record(problem_id="2", path="../<b>")], folder)
    assert "data:image/png" in page and "&lt;b&gt;" in page and "<b>../" not in page and "<i>1" not in page
