"The door: what stands for nothing, what no file can hold, bad rows among good ones, and markup in data."
import gzip, json, math, os, subprocess, sys
from pathlib import Path
import pytest
from videop2r.data import Record, RecordError, missing, read_records, write_records
from videop2r.engine.audit import Audit
from videop2r.engine.files import Journal, items, write_text
from videop2r.engine.paint import escaped, printable
from videop2r.evaluate import _left_out, assess_one, by_kind, summarise
from videop2r.health import Health
from videop2r.judge import Judge, Verdict
from videop2r.tools.cli import main
from videop2r.tools.corpus import Survey

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
ROWS = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:6]]
NAN = float("nan")

def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

def free(**more): return dict(problem_id="r1", problem="What is it?", problem_type="free-form", data_type="video", path="a.mp4", solution="<answer>a cat</answer>") | more

def read(*rows): return [Record.from_dict(row).validate() for row in rows]

@pytest.mark.parametrize("value", [None, NAN, "", "  ", "nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "NaT", "#N/A", " nan "])
def test_one_rule_says_what_stands_for_nothing(value):
    assert missing(value)
    for name in ("problem", "problem_id", "path", "problem_type"):
        with pytest.raises(RecordError, match=f"`{name}`"): read(free(**{name: value}))
    with pytest.raises(RecordError, match="`solution` is empty"): read(free(solution=value))
    with pytest.raises(RecordError, match="`solution` is empty"): read(free(solution=f"<answer>{value if isinstance(value, str) else 'nan'}</answer>"))
    record, = read(free(options=value, observation=value, output=value, reward=value, select=value, data_source=value, answer=value))
    assert (record.options, record.observation.strip(), record.output.strip(), record.reward, record.select, record.data_source.strip()) == ([], "", "", None, None, "")
    assert read(free(solution=value, answer="a dog"))[0].truth == "a dog"
    assert read(free(data_type=value))[0].data_type == "video"

@pytest.mark.parametrize("value", [0, 0., "0", False, "none", "no", "nothing", "nanny", "Nonet", "N", "null and void"])
def test_what_stands_for_itself_stays(value):
    assert not missing(value) and read(free(solution=value))[0].truth == str(0 if value == 0 and value is not False else value)

def test_columns_of_a_table_with_gaps():
    record, = read(free(problem_id=17., options=["left", "right", NAN, None], problem_type="multiple choice", solution="B"))
    assert record.problem_id == "17" and record.options == ["left", "right"] and record.truth == "B"
    assert read(free(solution=3., problem_type="numerical"))[0].truth == "3"

@pytest.mark.parametrize("name", ["problem", "problem_id", "path", "solution", "data_source", "observation"])
def test_half_a_character_is_named_and_costs_one_record(tmp_path, name):
    bad = []
    got = list(read_records(written(tmp_path / "r.jsonl", [free(), free(**{name: "cut \ud83d"}), free(problem_id="r3")]), bad.append))
    assert [record.problem_id for record in got] == ["r1", "r3"] and rf"`{name}` holds '\ud83d', half of a character" in str(bad[0])
    assert write_records(got, tmp_path / "out.jsonl") == 2

@pytest.mark.parametrize("hidden", [dict(options=["A. \ud83d", "B. x"]), dict(extra=dict(a=["\udc00"])), dict(note={"k\ud83d": 1}), {"na\ud83dme": 1}])
def test_half_a_character_is_found_wherever_it_hides(hidden):
    with pytest.raises(RecordError, match="half of a character"): read(free(**hidden))

def test_infinity_nan_and_depth_in_further_fields(tmp_path):
    record, = read(free(score=NAN, more=dict(a=[1, NAN])))
    assert record.extra == dict(score=None, more=dict(a=[1, None]))
    for form in ("ours", "video-r1", "same"): assert write_records([record], tmp_path / "a.jsonl", form) == 1
    with pytest.raises(RecordError, match="`score` is inf; give a finite number"): read(free(score=math.inf))
    deep = []
    for _ in range(200): deep = [deep]
    with pytest.raises(RecordError, match="lists in lists"): read(free(deep=deep))

@pytest.mark.parametrize("line, why", [
    (b'{"problem_id": "b", "problem": "caf\xe9"}', "the byte 0xe9, which is no UTF-8"), (b'{"problem_id": "b\xff', "is not valid JSON"),
    (b'{"reward": 1' + b"0" * 400 + b"}", "`reward`"), (b'{"reward": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
    (b"[" * 100_000, "is not valid JSON"), (b'{"problem": "' + b"x" * (17 << 20) + b'"}', "longer than 16 MB"), (b"\x00\x01", "is not valid JSON"), (b"7", "is a int")])
@pytest.mark.parametrize("packed", [False, True])
def test_one_odd_line_costs_itself(tmp_path, line, why, packed):
    data = json.dumps(ROWS[0]).encode() + b"\n" + line + b"\n" + json.dumps(ROWS[1]).encode() + b"\n"
    path = tmp_path / ("r.jsonl.gz" if packed else "r.jsonl")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    bad = []
    got = list(read_records(path, bad.append))
    assert len(got) == 2 and len(bad) == 1 and why in str(bad[0]) and ":2" in str(bad[0])

def test_a_bad_byte_in_a_list_costs_one_record(tmp_path):
    (tmp_path / "r.json").write_bytes(b"[" + json.dumps(ROWS[0]).encode() + b', {"problem": "caf\xe9"}, ' + json.dumps(ROWS[1]).encode() + b"]")
    bad = []
    assert len(list(read_records(tmp_path / "r.json", bad.append))) == 2 and "0xe9" in str(bad[0])

def test_a_file_in_utf_16_is_named_as_such(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(json.dumps(ROWS[0]).encode("utf-16"))
    with pytest.raises(RecordError, match="UTF-16; save it as UTF-8"): list(items(tmp_path / "r.jsonl"))

def test_what_a_model_wrote_can_always_be_kept(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(dict(text="half \ud83d"), dict(text="whole 😀"))
    assert Journal(tmp_path / "j.jsonl").rows == [dict(text="half \ud83d"), dict(text="whole 😀")] and "😀" in (tmp_path / "j.jsonl").read_text()
    write_text(tmp_path / "t.html", "half \ud83d")
    assert (tmp_path / "t.html").read_text() == r"half \ud83d"

# ---- bad rows among good ones, by command

BAD = [dict(ROWS[0], problem_id="b1", problem_type="multi choice"), dict(ROWS[0], problem_id="b2", solution=NAN, answer=None), dict(ROWS[0], problem_id="b3", problem="\ud83d"),
       dict(ROWS[0], problem_id="b4", path="../up.mp4")]
TRACE = "<observation>The red square moves.</observation> <think>It moves.</think><answer>A</answer>"
TINY = ["--media", SAMPLES, "--prompt", "short", "--frames", 2]
COMMANDS = {
    "sft": ["--model", SAMPLES / "base", "--preset", "tiny", "--steps", 1, "--batch", 2, *TINY],
    "rl": ["--model", SAMPLES / "teacher", "--preset", "tiny", "--steps", 1, "--prompts", 2, "--g", 2, "--limit", 8, "--judge", "oracle", *TINY],
    "generate": ["--teacher", f"local:{SAMPLES / 'teacher'}", "--judge", "oracle", "--limit", 8, *TINY]}

@pytest.mark.parametrize("name", COMMANDS)
def test_bad_rows_are_quarantined_by_every_command(tmp_path, capsys, name):
    rows = [dict(row, output=TRACE) for row in [ROWS[0], *BAD, *ROWS[1:4]]]
    records = written(tmp_path / "r.jsonl", rows)
    assert main([str(word) for word in (name, "--records", records, "--out", tmp_path / "run", *COMMANDS[name])]) == 0, capsys.readouterr().err
    reasons = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    text = json.dumps(reasons)
    assert len(reasons) == 4 and all(word in text for word in ("problem_type", "solution", "half of a character", "../up.mp4"))

@pytest.mark.parametrize("words", [["data", "check"], ["data", "stats"], ["data", "show"]])
def test_data_commands_go_on_past_bad_rows(tmp_path, capsys, words):
    code = main([*words, str(written(tmp_path / "r.jsonl", [*BAD, *ROWS]))])
    said = capsys.readouterr()
    assert code == (words[1] == "check") and "Traceback" not in said.err and (words[1] == "stats" or "half of a character" in said.err)

def test_an_evaluation_names_what_it_cannot_score_and_goes_on():
    judge, bad = Judge(lambda record, observation: Verdict(True)), Record.from_dict(free(problem_type="numerical", solution="many"))
    with pytest.raises(RecordError, match="record 'r1': .*'many'"): assess_one(bad, TRACE, judge)
    with pytest.warns(UserWarning, match="left out: record 'r1'"): row = _left_out(bad, "lenient")
    fine = assess_one(Record.from_dict(free(problem_id="r2")), "a cat", judge, traced=False)
    assert summarise([row, fine])["answer"]["n"] == 1 and by_kind([row, fine]) == {"free-form": 1.}

def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    records = written(tmp_path / "r.jsonl", ROWS * 400)
    command = f"{sys.executable} -m videop2r.tools.cli data show {records} -n 2400 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "0"

# ---- markup in data

EVIL = ["<img src=x onerror=alert(1)>", "![](http://elsewhere/x.png)", "<script>1</script>", "a | b", "`code`", "# title\n- item", "\x1b[31mred\x1b[0m", "\u202eback", "[x](http://e)"]

@pytest.mark.parametrize("text", EVIL)
def test_data_are_shown_letter_by_letter(text, capsys):
    survey = Survey()
    survey.see(Record(problem_type="OCR", data_type="video", data_source=text))
    shown = [Record(**free(problem=text, problem_id=text, path=text))._repr_markdown_(), survey._repr_markdown_(), Health([dict(step=0, skipped=text)] * 2)._repr_markdown_()]
    shown.append(Audit({(text, "video"): dict(kind="unreadable", reason=text, records=[text])})._repr_markdown_())
    shown.append(Audit({(text, "video"): dict(kind="good", note=text, records=[])})._repr_markdown_())
    for one in shown:
        assert "<img" not in one and "<script" not in one and "](http" not in one.replace(r"\](http", "") and "\x1b" not in one and "\u202e" not in one
        assert text.count("|") == 0 or "a | b" not in one
    assert "\x1b" not in printable(text) and "\u202e" not in printable(text)

def test_a_terminal_is_not_steered(tmp_path, capsys):
    record = dict(ROWS[0], problem="\x1b]0;owned\x07 \x1b[2J question", problem_type="\x1b[31mred")
    main(["data", "check", str(written(tmp_path / "r.jsonl", [record]))])
    main(["data", "show", str(written(tmp_path / "r.jsonl", [dict(record, problem_type="OCR")]))])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err

def test_a_line_stays_a_line(): assert printable("a\nb\tc") == "a\nb\tc" and "\n" not in escaped("a\nb")
