"Whole sets: counts, faults, subsets and conversions, against plain restatements."
import gzip, json, random, subprocess, sys
from collections import Counter
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.tools.cli import main
from videop2r.tools.corpus import Subset, Survey, check_set, convert, quantile, shares
from videop2r.data import MEDIA, TASKS, Record, RecordError, read_jsonl, read_records, write_jsonl


def record(i, draw):
    kind = draw.choice(TASKS)
    return Record(problem_id=str(i), problem="How many?", problem_type=kind, data_type=draw.choice(MEDIA), path=f"./m/{i // 3}.mp4", data_source=draw.choice("ABC"),
                  options=["A. one", "B. two"] * (kind == TASKS[0]), solution="<answer>A</answer>", observation="a " * draw.randint(0, 9), process="b " * draw.randint(0, 9))


@pytest.fixture
def rows(tmp_path):
    draw = random.Random(0)
    rows = [record(i, draw) for i in range(200)]
    write_jsonl(rows, tmp_path / "all.jsonl")
    return rows


def test_survey_counts(tmp_path, rows):
    s = Survey.of(tmp_path / "all.jsonl")
    assert s.types == Counter((r.problem_type, r.data_type) for r in rows) and s.sources == Counter(r.data_source for r in rows)
    assert s.words["perception"] == Counter(len(r.observation.split()) for r in rows if r.observation)
    assert f"| all | {sum(r.data_type == 'image' for r in rows)} |" in s._repr_markdown_() and s.plot().get_xlabel()


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_against_sorting(values, q):
    got = quantile(Counter(values), q)
    assert sum(v <= got for v in values) >= q * len(values) - 1e-9 and (got == min(values) or sum(v < got for v in values) < q * len(values))


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_shares_are_whole_and_proportional(sizes, part):
    n = int(part * sum(sizes.values()))
    got = shares(sizes, n)
    assert sum(got.values()) == n and all(abs(got[k] - n * v / sum(sizes.values())) < 1 and got[k] <= v for k, v in sizes.items())


@pytest.mark.parametrize("n", [1, 20, 200])
def test_a_subset_is_ordered_proportional_and_lists_its_media(tmp_path, rows, n):
    done = Subset.draw(tmp_path / "all.jsonl", n, tmp_path / "s", seed=1)
    kept = read_jsonl(tmp_path / "s/records.json.gz")
    ids = [int(r.problem_id) for r in kept]
    assert len(set(ids)) == n and ids == sorted(ids)
    assert (tmp_path / "s/media.txt").read_text().split() == sorted({r.path[2:] for r in kept}) and done.media == len({r.path for r in kept})
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    assert Counter((r.problem_type, r.data_type, r.data_source) for r in kept) == {(s["type"], s["medium"], s["source"]): s["taken"] for s in manifest["strata"] if s["taken"]}
    Subset.draw(tmp_path / "all.jsonl", n, tmp_path / "again", seed=1)
    assert read_jsonl(tmp_path / "again/records.json.gz") == kept


@pytest.mark.parametrize("n", [0, 201])
def test_a_subset_of_a_wrong_size_is_refused(tmp_path, rows, n):
    with pytest.raises(ValueError, match="ask for 1 to 200"): Subset.draw(tmp_path / "all.jsonl", n, tmp_path / "s")


def test_check_names_everything_and_goes_on(tmp_path, rows):
    (tmp_path / "m").mkdir()
    for i in range(0, 67): (tmp_path / "m" / f"{i}.mp4").touch()
    (tmp_path / "m/3.mp4").unlink()
    (tmp_path / "m/4.mp4").unlink()
    (tmp_path / "m/4.mp4").symlink_to("/etc/hosts")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    broken = [lines[0], lines[0], '{"problem_id": "x"', json.dumps({**json.loads(lines[1]), "problem_type": "riddle"})]
    (tmp_path / "b.jsonl").write_text("\n".join(broken))
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps([json.loads(lines[0])] * 50).encode())[:-20])
    found = []
    good, faults = check_set([tmp_path / "c.json.gz", tmp_path / "b.jsonl", tmp_path / "all.jsonl"], tmp_path, found.append)
    text = "\n".join(map(str, found))
    assert faults == len(found) and all(w in text for w in ("b.jsonl:2: field `problem_id`", "b.jsonl:3", "'riddle'", "c.json.gz", "all.jsonl:10: field `path`", "a link that leads out"))
    assert main(["data", "check", str(tmp_path / "b.jsonl")]) == 1 and main(["data", "check", str(tmp_path / "all.jsonl")]) == 0


@pytest.mark.parametrize("form", ["official", "strings", "video-r1", "ours", "same"])
def test_conversion_keeps_what_the_form_holds(tmp_path, rows, form):
    files = convert(tmp_path / "all.jsonl", tmp_path / "out" / "x.json.gz", form, part=70, drop=form == "video-r1")
    back = list(read_records(files))
    assert len(files) == 3 and [r.problem_id for r in back] == [r.problem_id for r in rows]
    assert form == "video-r1" or back == rows


def test_conversion_loses_nothing_in_silence(tmp_path, rows):
    with pytest.raises(RecordError, match="`observation` has no place"): convert(tmp_path / "all.jsonl", tmp_path / "x.json", "video-r1")
    assert not (tmp_path / "x.json").exists()


def test_commands_need_no_torch_and_little_memory(tmp_path, rows):
    code = "import sys; from videop2r.tools.cli import main; main(['data', 'subset', sys.argv[1], '-n', '5', '--out', sys.argv[2]]); main(['data', 'check', sys.argv[1]]); main(['data', 'convert', sys.argv[1], '--out', sys.argv[2] + '/a.json']); print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "all.jsonl", tmp_path / "s"], capture_output=True, text=True, check=True).stdout.strip().endswith("[]")
