"The audit: hangs, deaths and damage cost one clip each; nothing is lost when it is stopped."
import json, os, random, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import av, numpy as np, pytest, torch
from PIL import Image
from videop2r.data import Journal, Record
from videop2r.engine.decode import read_media
from videop2r.engine.audit import audit
from videop2r.engine.media import Reader, reader_of
from videop2r.families import FAMILIES
from videop2r.tools.cli import main
from videop2r.video import AtRate, VideoError, prepare, uniform
from patience import soon
from storm import LONG, some

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
QWEN = FAMILIES["qwen2_5_vl"]


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
    if name.startswith("hang"):
        Path(path).with_suffix(".seen").touch()
        time.sleep(600)
    if name.startswith("segv"): os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("exit"): os._exit(3)
    if name.startswith("raise"): raise KeyError("frames")
    if name.startswith("memory"): return [bytearray(1 << 30) for _ in range(64)]
    if name.startswith("noise"): os.write(1, b"x" * 100_000)
    return read_media(path, kind, frames)


HARM = []

def harmful(path, kind, frames):
    "A decoder that `harm` damages unnoticed, so that whatever comes after it in the same process fails."
    if HARM: os.kill(os.getpid(), signal.SIGSEGV) if "late" in path else [][0]
    if Path(path).stem == "harm": HARM.append(path)
    return read_media(path, kind, frames)


@pytest.fixture
def folder(tmp_path):
    film(tmp_path / "good0.mp4")
    data = (tmp_path / "good0.mp4").read_bytes()
    for name in ("hang", "segv", "exit", "raise", "memory", "noise", *(f"good{i}" for i in range(1, 6))): (tmp_path / f"{name}.mp4").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("workers", some((1, 3), (3,)))
def test_misbehaviour_costs_one_clip_each(folder, workers):
    found = audit(folder, out=folder / "a", workers=workers, seconds=9, memory=1, read=strange, quiet=True)
    assert {p[:-4]: r["kind"] for (p, _), r in found.rows.items()} == {"hang": "time", "segv": "died", "exit": "died", "raise": "unreadable", "memory": "memory", "noise": "good", **{f"good{i}": "good" for i in range(6)}}
    reasons = {q["path"]: q["reason"] for q in found.quarantine}
    assert "9 s" in reasons["hang.mp4"] and "SIGSEGV" in reasons["segv.mp4"] and "exit code 3" in reasons["exit.mp4"] and reasons["raise.mp4"] == "KeyError: 'frames'"
    assert [json.loads(l)["path"] for l in (folder / "a/quarantine.jsonl").read_text().splitlines()] == list(reasons)


def test_no_clip_is_blamed_for_what_an_earlier_one_did(folder):
    for name in ("harm", "late1", "late2", "mid"): (folder / f"{name}.mp4").write_bytes((folder / "good0.mp4").read_bytes())
    names = ["harm", "late1", "good1", "harm", "good2", "mid", "late2"]
    found = audit(folder, [Record(problem_id=n, path=f"{n}.mp4") for n in names], workers=1, read=harmful, quiet=True)
    assert set(found.kinds) == {"good"} and len(found.rows) == 6


def test_every_kind_of_bad_path_is_listed_with_its_records(folder):
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "pretends.png").write_bytes((folder / "good0.mp4").read_bytes())
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.mp4")
    (folder / "out.mp4").symlink_to("/etc/hosts")
    (folder / "folder.mp4").mkdir()
    paths = ["text.mp4", "empty.mp4", "pretends.png", "picture.mp4", "out.mp4", "../x.mp4", "gone.mp4", "folder.mp4", 300 * "x" + ".mp4", "\udcff.mp4", "\ud800.mp4", "a\0.mp4", "./good1.mp4", "good1.mp4"]
    rows = [Record(problem_id=str(i), path=p, data_type="image" if p.endswith("png") else "video") for i, p in enumerate(paths)]
    found = audit(folder, rows, workers=1, quiet=True)
    assert [r["kind"] for r in found.rows.values()] == ["unreadable", "empty", *2 * ["unreadable"], *2 * ["outside"], *3 * ["missing"], *2 * ["name"], "outside", "good"]
    assert [q["records"] for q in found.quarantine] == [[str(i)] for i in range(12)] and found.clean(rows) == (rows[12:], rows[:12])
    assert "gone.mp4" in found._repr_markdown_().encode().decode() and "PNG picture" in found.quarantine[3]["reason"]
    with pytest.raises(ValueError, match="not audited"): found.clean([Record(path="good2.mp4")])


def test_names_that_no_list_can_hold(folder):
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4"))).write_bytes((folder / "good0.mp4").read_bytes())
    found = audit(folder, out=folder / "a", workers=1, quiet=True)
    assert found.rows["\udcff.mp4", "video"]["kind"] == "name" and found.kinds["good"] == 12
    assert json.loads((folder / "a/quarantine.jsonl").read_text().splitlines()[-1])["path"] == "\udcff.mp4"


def test_one_file_as_video_and_as_image(folder):
    rows = [Record(problem_id="1", path="good1.mp4"), Record(problem_id="2", path="good1.mp4", data_type="image")]
    run = lambda: audit(folder, rows, folder / "a", workers=1, quiet=True).clean(rows)
    assert run() == run() == (rows[:1], rows[1:])


@pytest.mark.parametrize("how,message", [(dict(media="nowhere"), "no such folder"), (dict(workers=0), "workers is 0"), (dict(seconds=-1), "seconds is -1"), (dict(frames=0), "frames is 0")], ids=str)
def test_what_cannot_work_is_refused_at_once(tmp_path, how, message):
    with pytest.raises(ValueError, match=message): audit(**{"media": tmp_path, **how})


def test_a_second_run_reads_only_what_is_new_or_changed_or_was_given_too_little_time(folder):
    for name in ("segv", "exit", "raise", "memory"): (folder / f"{name}.mp4").unlink()
    run = lambda **kw: audit(folder, out=folder / "a", workers=1, read=strange, quiet=True, **{**dict(seconds=5, memory=.5), **kw})
    lines = lambda: [json.loads(l)["path"] for l in (folder / "a/audit.jsonl").read_text().splitlines()]
    run()
    first = len(lines())
    run()
    assert len(lines()) == first
    film(folder / "good3.mp4", seed=5)
    film(folder / "new.mp4")
    run()
    assert sorted(lines()[first:]) == ["good3.mp4", "new.mp4"]
    run(seconds=6)
    assert lines()[-1] == "hang.mp4" and len(lines()) == first + 3
    (folder / "hang.mp4").unlink()
    run(frames=4)
    assert len(lines()) == 2 * first + 3


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from test_media import strange
from videop2r.engine.audit import audit
if {main}: audit({folder!r}, out={out!r}, workers=2, seconds={seconds}, read=strange, quiet=True)
"""

def script(folder, seconds=20, main='__name__ == "__main__"', **kw):
    "An audit in a process of its own, and the mark by which to find its children."
    (folder / "run.py").write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), out=str(folder / "a"), seconds=seconds, main=main))
    mark = f"AUDIT_TEST={os.urandom(8).hex()}"
    return mark, subprocess.Popen([sys.executable, folder / "run.py"], stderr=subprocess.PIPE, text=True, env={**os.environ, **dict([mark.split("=")])}, start_new_session=True,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))

def test_a_script_without_a_main_guard_is_told_so(folder):
    _, p = script(folder, main="True")
    assert "__main__" in p.communicate(timeout=600)[1] and p.returncode == 1

def alive(marker):
    return [p for p in Path("/proc").glob("[0-9]*/environ") if p.parent.name != str(os.getpid()) and marker in _read(p)]

def _read(p):
    try: return p.read_text(errors="ignore")
    except OSError: return ""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_stopped_audits_keep_what_is_finished_and_leave_nobody_behind(folder, sign):
    for i in range(6, 40): (folder / f"good{i}.mp4").write_bytes((folder / "good0.mp4").read_bytes())
    mark, p = script(folder)
    assert soon(lambda: (folder / "a/audit.jsonl").exists() and (folder / "a/audit.jsonl").read_text().count("\n") >= 5)
    p.send_signal(sign)
    p.wait(600)
    done = {r["path"] for r in Journal(folder / "a/audit.jsonl").rows}
    assert len(done) >= 5 and soon(lambda: not alive(mark))
    assert (folder / "a/quarantine.jsonl").exists() == (sign == signal.SIGINT)
    for name in ("hang", "segv", "exit", "memory"): (folder / f"{name}.mp4").unlink()
    again = audit(folder, out=folder / "a", workers=2, seconds=600, memory=2, read=strange, quiet=True)
    rows = [r["path"] for r in Journal(folder / "a/audit.jsonl").rows]
    assert len(rows) == len(set(rows)) and done <= set(rows) and again.kinds["good"] == 41


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_child_that_hangs_outlives_a_killed_audit_by_seconds(folder):
    for p in folder.glob("*.mp4"): p.rename(p.with_stem("hang" + p.stem))
    mark, p = script(folder, seconds=3)
    assert soon(lambda: list(folder.glob("*.seen")))
    p.kill()
    p.wait(600)
    assert alive(mark) and soon(lambda: not alive(mark))


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
    draw, n = random.Random(0), 500 if LONG else 50
    clips = [film(tmp_path / f"good{i}.mp4", seed=i).read_bytes() for i in range(10)]
    for i in range(n): (tmp_path / f"bad{i:03}.mp4").write_bytes(mutate(*draw.sample(clips, 2), draw))
    found = audit(tmp_path, out=tmp_path / "a", workers=2, seconds=10, quiet=True)
    assert len(found.rows) == n + 10 and all(found.rows[f"good{i}.mp4", "video"]["kind"] == "good" for i in range(10))
    assert all(q["reason"] for q in found.quarantine) and len(found.quarantine) + found.kinds["good"] == n + 10
    assert found.kinds["missing"] + found.kinds["outside"] == 0 and len(found.quarantine) > n / 5
    assert found.quarantine == audit(tmp_path, workers=1, seconds=10, quiet=True).quarantine
    print(dict(found.kinds))


def test_a_page_shows_what_cannot_be_read_as_text(folder):
    page = Reader(folder, 8).gallery([Record(problem_id="<i>1", problem="?", path="good0.mp4"), Record(problem_id="2", path="../<b>")])
    assert "data:image/png" in page and "&lt;b&gt;" in page and "<b>../" not in page and "<i>1" not in page


def sleepy(film, n, record):
    "A sampler that misbehaves by the record's id."
    if record.problem_id == "hang": time.sleep(600)
    if record.problem_id == "segv": os.kill(os.getpid(), signal.SIGSEGV)
    if record.problem_id == "stop": raise KeyError("no such frame")
    return uniform(film, n)

@pytest.mark.parametrize("how", [dict(), dict(cache="c"), dict(seconds=30), dict(cache="c", seconds=30), dict(sampler=AtRate(4.)), dict(sampler=AtRate(4.), cache="c", seconds=30), dict(pixels=900)], ids=str)
def test_every_way_of_reading_gives_the_same_bits(folder, how):
    Image.new("RGB", (90, 70), "red").save(folder / "still.png")
    rows = [Record(path="good1.mp4", data_type="video"), Record(path="still.png", data_type="image")]
    reader = Reader(folder, **{**dict(frames=6), **how, **({"cache": folder / "c"} if "cache" in how else {})})
    for row in rows * 2:
        plain = read_media(folder / row.path, row.data_type, 6, sampler=how.get("sampler", uniform))
        want, got = prepare(plain, QWEN, max_pixels=how.get("pixels")), reader.visual(row, QWEN)
        assert torch.equal(got.patches, want.patches) and (got.grid, got.kind, got.seconds_per_grid, got.times) == (want.grid, want.kind, want.seconds_per_grid, want.times)
        assert (reader.clip(row).frames == plain.frames).all()
    if "cache" in how: assert (reader.cache.hits, reader.cache.misses) == (2, 2)


def test_a_long_strip_is_kept_at_the_size_it_has_without_a_cache(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 5300, 3), dtype=np.uint8)).save(folder / "strip.png")
    row = Record(path="strip.png", data_type="image")
    for _ in range(2): assert torch.equal(Reader(folder, cache=folder / "c").visual(row, QWEN).patches, Reader(folder).visual(row, QWEN).patches)


def test_a_reader_survives_what_hangs_dies_or_raises(folder):
    reader = Reader(folder, frames=6, sampler=sleepy, seconds=5)
    good = Record(problem_id="fine", path="good0.mp4")
    for name, why in dict(hang="no answer within 5 s", segv="SIGSEGV", stop="no such frame").items():
        assert len(reader.clip(good).frames) == 6
        with pytest.raises(VideoError, match=f"good1.mp4: .*{why}"): reader.clip(Record(problem_id=name, path="good1.mp4"))
    with ThreadPoolExecutor(3) as pool: assert {len(c.frames) for c in pool.map(reader.clip, [good] * 9)} == {6}


@pytest.mark.parametrize("how,message", [(dict(frames=0), "frames is 0"), (dict(pixels=-1), "pixels is -1"), (dict(seconds=0), "seconds is 0"), (dict(cache="c", sampler=lambda film, n, record: [0]), "a method `key"),
                                         (dict(seconds=1, sampler=lambda film, n, record: [0]), "another process can have")], ids=["frames", "pixels", "seconds", "cache", "another process"])
def test_a_reader_that_cannot_work_is_refused_at_once(tmp_path, monkeypatch, how, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message): Reader(tmp_path, **how)


def test_a_reader_names_what_it_cannot_read(folder):
    reader = reader_of(folder, frames=3)
    assert reader_of(reader, frames=9) is reader and reader.frames == 3
    for path, what in {"gone.mp4": "gone.mp4: no such file", "../x.mp4": "not inside"}.items():
        with pytest.raises(ValueError, match=what): reader.clip(Record(path=path))

# ---- the same reader behind every command

def test_ask_and_show_read_as_every_command_does(tmp_path, capsys):
    rows = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:2]]
    clip = str(SAMPLES / next(row["path"] for row in rows if row["path"].endswith(".mp4")))
    words = ["ask", str(SAMPLES / "base"), clip, "What moves?", "--frames", "4"]
    assert main(words) == 0
    plain = capsys.readouterr().out
    for _ in range(2): assert main([*words, "--cache", str(tmp_path / "c"), "--seconds", "60"]) == 0
    assert capsys.readouterr().out == plain * 2 and len(list((tmp_path / "c").rglob("*.frames"))) == 1
    assert main([*words, "--sampler", "rate:2"]) == 0 and main([*words, "--sampler", "often"]) == 1
    assert "sampler 'often': use uniform, change" in capsys.readouterr().err
    page = ["data", "show", str(SAMPLES / "train.jsonl"), "-n", "2", "--media", str(SAMPLES), "--html", str(tmp_path / "r.html"), "--frames", "4"]
    assert main(page) == 0
    uniform = (tmp_path / "r.html").read_text()
    assert main([*page, "--sampler", "change", "--seconds", "60"]) == 0 and "<img" in uniform and (tmp_path / "r.html").read_text() != uniform
