"What a disk gives back is not always what it was given: flipped bits and exchanged entries in every file that is read again."
import json, random, sqlite3, warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
import pytest, torch
from videop2r.data import Record
from videop2r.engine.audit import audit
from videop2r.engine.files import sealed, unsealed
from videop2r.engine.framecache import FrameCache
from videop2r.engine.media import Reader
from videop2r.engine.remote import Cache
from videop2r.engine.runs import _read_checkpoint
from videop2r.engine.store import Store
from videop2r.families import FAMILIES
from videop2r.judge import Judge, Verdict, judge_of, recorded

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
RECORDS = [Record.from_dict(json.loads(line)) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:6]]
FAMILY = FAMILIES["qwen2_5_vl"]
TEXTS = [f"<observation>Ball {i} moves left, {i * 7} steps.</observation>" for i in range(8)]

def flipped(data, places):
    "The data with one bit changed, for each of so many places drawn at random."
    chance = random.Random(0)
    for _ in range(places):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        yield bytes(damaged)

def test_exchanged_entries_of_the_frame_cache_are_told_apart(tmp_path):
    clips = [r for r in RECORDS if r.data_type == "video"][:2]
    want = [Reader(SAMPLES, 4, cache=tmp_path).clip(r, FAMILY).frames for r in clips]
    one, two = tmp_path.rglob("*.frames")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second), two.write_bytes(first)
    again = Reader(SAMPLES, 4, cache=tmp_path)
    with pytest.warns(UserWarning, match="holds another entry.*again") as said: got = [again.clip(r, FAMILY).frames for r in clips]
    assert len(said) == 2 and again.cache.misses == 2 and all((a == b).all() for a, b in zip(got, want))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (Reader(SAMPLES, 4, cache=tmp_path).clip(clips[0], FAMILY).frames == want[0]).all()

def test_an_entry_copied_under_another_name_is_not_that_entry(tmp_path):
    cache, clip = FrameCache(tmp_path), Reader(SAMPLES, 4).clip(RECORDS[0], FAMILY)
    cache.kept(["a"], lambda: clip)
    other = cache.place(["b"])
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(cache.place(["a"]).read_bytes())
    with pytest.warns(UserWarning, match="another entry"): again = cache.kept(["b"], lambda: Reader(SAMPLES, 4).clip(RECORDS[1], FAMILY))
    assert cache.hits == 0 and (again.frames != clip.frames).any()

def test_no_flipped_bit_of_a_kept_reply_comes_back(tmp_path):
    cache = Cache(tmp_path / "r.db")
    for i, text in enumerate(TEXTS): cache.put(f"{i:064x}", dict(text=text, cost=i / 100))
    row = "select reply from replies where key = ?"
    with closing(sqlite3.connect(tmp_path / "r.db", isolation_level=None)) as base:
        kept = base.execute(row, [f"{3:064x}"]).fetchone()[0]
        for damaged in flipped(kept.encode(), 300):
            base.execute("update replies set reply = cast(? as text) where key = ?", [damaged, f"{3:064x}"])
            with pytest.warns(UserWarning, match="not as it was written; it is asked for again"): assert cache.get(f"{3:064x}") is None
    assert cache.get(f"{4:064x}") == dict(text=TEXTS[4], cost=.04)

def test_replies_under_each_other_s_keys_are_asked_again(tmp_path):
    cache = Cache(tmp_path / "r.db")
    for key in "ab": cache.put(key * 64, dict(text=key))
    with closing(sqlite3.connect(tmp_path / "r.db", isolation_level=None)) as base:
        base.execute("update replies set reply = (select reply from replies where key = ?) where key = ?", ["b" * 64, "a" * 64])
    with pytest.warns(UserWarning, match="asked for again"): assert cache.get("a" * 64) is None
    assert cache.get("b" * 64) == dict(text="b")

def rows_of(path):
    with Store(path).file: return dict(Store(path))

def test_no_flipped_bit_of_a_stored_row_comes_back_as_another_row(tmp_path):
    store = Store(tmp_path / "s.jsonl")
    store.add([dict(problem_id=str(i), output=text, cost=i / 7, final=True) for i, text in enumerate(TEXTS)])
    whole, want, refused = store.path.read_bytes(), dict(store), 0
    for damaged in flipped(whole, 400):
        (tmp_path / "d.jsonl").write_bytes(damaged)
        try: got = rows_of(tmp_path / "d.jsonl")
        except ValueError as e:
            refused += 1
            assert str(e).startswith(f"{tmp_path / 'd.jsonl'}:") and "restore the line or delete it" in str(e)
        else: # the key `sum` itself, or the last line's end, which a kill leaves out too
            kept = {key: {k: v for k, v in row.items() if k in want[key]} for key, row in got.items()}
            assert kept.items() <= want.items() and len(kept) >= len(want) - 1
    assert refused > 380

def test_a_row_that_changes_while_the_store_is_open_is_named(tmp_path):
    store = Store(tmp_path / "s.jsonl")
    store.add([dict(problem_id="a", output="left"), dict(problem_id="b", output="right")])
    (tmp_path / "s.jsonl").write_bytes(store.path.read_bytes().replace(b"right", b"wrong"))
    with pytest.raises(ValueError, match="s.jsonl: row 'b': it is not as it was written"): store["b"]
    assert store["a"] == dict(problem_id="a", output="left")

def test_rows_that_the_disk_does_not_take_lie_where_the_error_says(tmp_path, monkeypatch):
    store = Store(tmp_path / "s.jsonl")
    def full(file, rows): raise OSError(28, "No space left on device; the row was not kept", str(store.path))
    with monkeypatch.context() as m:
        m.setattr("videop2r.engine.store.append", full)
        with pytest.raises(OSError, match="lies in .*: make room, append it, run again") as e: store.add([dict(problem_id="a", output="paid")])
    rescued = Path(str(e.value).split("lies in ")[1].split(": make room")[0])
    with open(store.path, "ab") as file: file.write(rescued.read_bytes())
    assert rows_of(store.path) == dict(a=dict(problem_id="a", output="paid"))

def test_a_changed_line_of_an_audit_is_read_again(tmp_path):
    first = audit(SAMPLES, RECORDS, tmp_path, frames=2, quiet=True, workers=1)
    journal = tmp_path / "audit.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0].replace('"good"', '"bood"'), "5\n", *lines[1:]]))
    with pytest.warns(UserWarning, match="2 lines are not as they were written"): again = audit(SAMPLES, RECORDS, tmp_path, frames=2, quiet=True, workers=1)
    assert again.kinds == first.kinds and not again.quarantine and len(journal.read_text().splitlines()) == len(lines) + 2

@pytest.mark.parametrize("change, why", [(lambda t: t.replace("true", "null"), "not as it was written"), (lambda t: t.replace('"yes"', '"yea"'), "written"),
                                         (lambda t: '{"problem_id": "a", "observation": "x"}\n', "yes"), (lambda t: "3\n", "is no verdict"),
                                         (lambda t: '{"problem_id": "a", "observation": "x", "yes": "no", "reason": ""}\n', "true, false or null")])
def test_a_changed_verdict_on_file_is_no_verdict(tmp_path, change, why):
    Judge(lambda record, text: Verdict(True, "seen"), "one").recording(tmp_path / "v.jsonl")(RECORDS[0], TEXTS[0])
    assert recorded(tmp_path / "v.jsonl")(RECORDS[0], TEXTS[0]).yes
    (tmp_path / "v.jsonl").write_text(change((tmp_path / "v.jsonl").read_text()))
    with pytest.raises(ValueError, match=f"v.jsonl:1: is no verdict .*{why}.*restore the line" if why != "is no verdict" else why): recorded(tmp_path / "v.jsonl")

def test_verdicts_written_by_hand_need_no_sum(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"problem_id": "%s", "observation": "x", "yes": false, "reason": "by hand"}\n' % RECORDS[0].problem_id)
    assert recorded(tmp_path / "v.jsonl")(RECORDS[0], "x") == Verdict(False, "by hand")

def test_a_file_of_verdicts_is_left_as_it_is_and_one_that_is_not_there_is_named_before_anything_is_paid(tmp_path):
    said = b"\n".join(b'{"problem_id": "%d", "observation": "x", "yes": true, "reason": ""}' % i for i in range(3)) # no end of line after the last
    (tmp_path / "v.jsonl").write_bytes(said)
    judge = judge_of(f"recorded:{tmp_path}/v.jsonl")
    assert all(judge(replace(RECORDS[0], problem_id=str(i)), "x").yes for i in range(3)) and (tmp_path / "v.jsonl").read_bytes() == said
    judge.recording(tmp_path / "v.jsonl")(replace(RECORDS[0], problem_id="1"), "x")
    assert (tmp_path / "v.jsonl").read_bytes().startswith(said + b"\n{") and not judge.ready()
    with pytest.raises(ValueError, match="typo.jsonl: no such file of verdicts"): judge_of(f"recorded:{tmp_path}/none/typo.jsonl").ready()
    assert not (tmp_path / "none").exists()

@pytest.mark.parametrize("row", [dict(id=1), dict(text="\ud83d"), dict(a=[1.5, None, {"b": "ü"}], c=float("inf"))])
def test_a_seal_holds_through_json(row): assert unsealed(json.loads(json.dumps(sealed(row)))) == row

def test_no_flipped_bit_of_a_checkpoint_is_trained_on(tmp_path):
    torch.manual_seed(0)
    parts = dict(weights=dict(a=torch.randn(400, 8)), optimizer=dict(step=torch.arange(900.)), rows=[dict(step=1)], bad=[], state={})
    torch.save(parts, tmp_path / "whole.pt")
    assert torch.equal(_read_checkpoint(tmp_path / "whole.pt")["weights"]["a"], parts["weights"]["a"])
    for damaged in flipped((tmp_path / "whole.pt").read_bytes(), 200):
        (tmp_path / "d.pt").write_bytes(damaged)
        try: got = _read_checkpoint(tmp_path / "d.pt")
        except ValueError as e: assert "is empty, cut, changed, or no checkpoint" in str(e)
        else: assert torch.equal(got["weights"]["a"], parts["weights"]["a"]) and torch.equal(got["optimizer"]["step"], parts["optimizer"]["step"]) and got["rows"] == parts["rows"]
