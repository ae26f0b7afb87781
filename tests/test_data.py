"Records and plans under bad input, at size, and without a tensor library."
import gzip, json, random, re, subprocess, sys
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.engine.files import Journal
from videop2r.data import OFFICIAL, VIDEO_R1, Record, RecordError, missing, read_jsonl, read_records, resolve, to_form, write_jsonl, write_parts, write_records
from storm import storm
from videop2r.families import FAMILIES, Shape, family_of, shape_of

GOOD = dict(problem_id="1", problem="Which way?", problem_type="multiple choice", data_type="video", path="./a/1.mp4",
            options=["A. left", "B. right"], solution="<answer>B</answer>")
AS_STRINGS = {**{k: str(v) for k, v in GOOD.items()}, "reward": "0.75", "select": "False", "answer": "B", "observation": "", "process": "", "output": ""}


def written(path, text, pack=False):
    with (gzip.open if pack else open)(path, "wt", encoding="utf-8") as f: f.write(text)
    return path


@pytest.mark.parametrize("module", ["data", "families", "tools.plan"])
def test_no_torch(module):
    code = f"import sys, videop2r.{module}; print(sorted({{'torch', 'transformers', 'numpy', 'PIL'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_plan_and_readers_need_no_torch(tmp_path):
    file = written(tmp_path / "a.jsonl", json.dumps(GOOD))
    code = f"import sys; from videop2r.data import *; from videop2r.tools.plan import *; list(read_records({str(file)!r})); plan('3b')._repr_markdown_(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_all_string_quirk_equals_typed(tmp_path):
    r = Record.from_dict(AS_STRINGS)
    assert (r.options, r.reward, r.select, r.truth) == (GOOD["options"], .75, False, "B")
    file = written(tmp_path / "rl.json.gz", json.dumps([AS_STRINGS]), pack=True)
    assert list(read_records(file)) == [r]


@pytest.mark.parametrize("change, field, remedy", [
    (dict(problem_type="essay"), "problem_type", "free-form"), (dict(problem_type=""), "problem_type", "free-form"),
    (dict(data_type="audio"), "data_type", "video"), (dict(path=""), "path", "media folder"), (dict(path=None), "path", "media folder"),
    (dict(path="https://a.b/c.mp4"), "path", "nothing is downloaded"), (dict(path="a\0b"), "path", "nothing is downloaded"),
    (dict(options=[]), "options", "at least two"), (dict(options="['A. left' 'B. right']"), "options", "at least two"),
    (dict(options="A. left"), "options", "JSON list"), (dict(options="{[]: 1}"), "options", "JSON list"), (dict(options={"A": "left"}), "options", "at least two"), (dict(options=3), "options", "give a list"),
    (dict(options=[["A"], "B"]), "options", "give text"), (dict(solution="", answer=""), "solution", "ground truth"),
    (dict(solution="<answer>C</answer>"), "solution", "letter"), (dict(problem=" "), "problem", "question"), (dict(problem=["x"]), "problem", "text"),
    (dict(problem_id=None), "problem_id", "id of its own"), (dict(reward="high"), "reward", "finite"), (dict(reward="inf"), "reward", "finite"),
    (dict(select="maybe"), "select", "true or false")])
def test_bad_record_is_named(tmp_path, change, field, remedy):
    file, bad = written(tmp_path / "t.jsonl", "\n".join(json.dumps(d) for d in (GOOD, {**GOOD, **change}, {**GOOD, "problem_id": "3"}))), []
    assert [r.problem_id for r in read_records(file, bad.append)] == ["1", "3"]
    assert len(bad) == 1 and bad[0].field == field
    assert "t.jsonl:2" in str(bad[0]) and f"`{field}`" in str(bad[0]) and remedy in str(bad[0]) and "\n" not in str(bad[0])
    with pytest.raises(RecordError): list(read_records(file))


@pytest.mark.parametrize("line", ["{", "[1]", "3", "null", '"x"', "[" * 100_000, '{"problem_id": 1'])
def test_bad_line_costs_only_itself(tmp_path, line):
    bad = []
    assert len(read_jsonl(written(tmp_path / "t.jsonl", f"{json.dumps(GOOD)}\n{line}\n\n{json.dumps(GOOD)}\n"), bad.append)) == 2
    assert len(bad) == 1 and bad[0].where == "t.jsonl:2"


@pytest.mark.parametrize("text", ["", "{}", '[{"a": 1', "[", '[{"a": 1}, nonsense]', "plain"])
def test_broken_list_raises_even_when_bad_records_are_tolerated(tmp_path, text):
    with pytest.raises(RecordError, match="t.json"): list(read_records(written(tmp_path / "t.json", text), lambda e: None))


def test_truncated_and_false_archives(tmp_path):
    whole = gzip.compress(json.dumps([{**GOOD, "problem": str(random.random())} for _ in range(3000)]).encode())
    for name, data in (("cut", whole[:-500]), ("plain", b"[]"), ("corrupt", whole[:400] + b"\0" * 50 + whole[450:])):
        (tmp_path / f"{name}.json.gz").write_bytes(data)
        with pytest.raises(RecordError, match=f"{name}.json.gz.*again"): list(read_records(tmp_path / f"{name}.json.gz", lambda e: None))


def test_other_bad_files(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "\xe9"}\n')
    for path, what in ((tmp_path / "latin.jsonl", "latin.jsonl"), (tmp_path / "none.jsonl", "no such file"), (tmp_path / "a.csv", "unknown kind"), (tmp_path / "empty", "holds no")):
        with pytest.raises(RecordError, match=what): list(read_records(path))


def test_list_is_streamed_in_small_chunks(tmp_path):
    rows = [{**GOOD, "problem_id": str(i), "problem": "ü {[\\\"" * (i % 50 + 1)} for i in range(400)]
    from videop2r.engine.files import _chunks, _list_items, items
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), "\ufeff" + json.dumps(rows)):
        file = written(tmp_path / "t.json", text)
        for size in (7, 64, 1 << 20): assert [d for _, d in _list_items(_chunks(file, size), "t", 1 << 24)] == rows
        joined = written(tmp_path / "j.json", text.lstrip("\ufeff") + "\n" + text)
        with pytest.raises(RecordError, match=r"j.json\[400\]: more follows the end of the list, as where parts were joined"): list(items(joined))
        assert len(list(items(written(tmp_path / "s.json", text + " \n" * 99)))) == 400


def test_streaming_keeps_memory_small(tmp_path):
    import tracemalloc
    file = tmp_path / "big.json"
    with open(file, "w") as f:
        f.write("[" + ",".join(json.dumps({**GOOD, "problem_id": str(i), "problem": "x" * 2000}) for i in range(15_000)) + "]")
    tracemalloc.start()
    assert sum(1 for _ in read_records(file)) == 15_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < file.stat().st_size


value = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
                     lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), c, max_size=3), max_leaves=8)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(extra=st.dictionaries(words, value, max_size=4), problem=words.filter(str.strip), observation=words, reward=st.none() | st.floats(0, 1))
def test_round_trip(tmp_path_factory, extra, problem, observation, reward):
    file = tmp_path_factory.mktemp("r") / "a.jsonl"
    r = Record(**{**GOOD, "problem": problem}, observation=observation, reward=reward, extra=extra)
    assert write_jsonl([r, r], file) == 2
    assert read_jsonl(file) == [r, r]
    assert Record.from_dict({**r.to_dict(), "unseen_key": [1]}).extra == {**extra, "unseen_key": [1]}


def test_tuples_become_lists_and_what_json_cannot_hold_is_refused(tmp_path):
    file = tmp_path / "deep" / "a.jsonl"
    write_jsonl([Record(**GOOD, extra=dict(scene=dict(cell=(0, (1, 2)))))], file)
    assert read_jsonl(file)[0].extra == dict(scene=dict(cell=[0, [1, 2]]))
    before = file.read_bytes()
    for wrong in (object(), float("nan"), {1, 2}):
        with pytest.raises(RecordError, match="record '1'.*`extra`"): write_jsonl([Record(**GOOD), Record(**GOOD, extra=dict(x=wrong))], file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == ["a.jsonl"]


def test_resolve_never_leaves_by_name_or_by_link(tmp_path):
    for d in ("disk", "root/deep", "root2"): (tmp_path / d).mkdir(parents=True)
    (tmp_path / "disk" / "a.mp4").touch()
    for link, to in (("out", "disk"), ("deep/up", "root2"), ("inside", "root/deep")): (tmp_path / "root" / link).symlink_to(tmp_path / to)
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    for root in ("root", "alias"): assert resolve("inside/b.mp4", tmp_path / root) == tmp_path / root / "inside" / "b.mp4"
    for path in ("../disk/a", "deep/../../disk/a", str(tmp_path / "disk"), str(tmp_path / "root2"), "", ".", "a\0", "out/a.mp4", "deep/up", "inside/up/x"):
        with pytest.raises(RecordError, match="`path`"): resolve(path, tmp_path / "root")


def test_record_shows_foreign_text_as_text():
    shown = Record(**{**GOOD, "problem": "<script>|\n# a"})._repr_markdown_()
    assert "<script" not in shown and "\n#" not in shown and "\\|" in shown


def test_lora_meets_the_language_models_linears_only():
    import re, torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    text = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, bos_token_id=None)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32))
    with torch.device("meta"): model = Qwen2_5_VLForConditionalGeneration(config)
    linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    hits = {n for n, _ in model.named_modules() if re.fullmatch(FAMILIES["qwen2_5_vl"].lora_targets, n)}
    assert hits == {n for n in linears if "language_model" in n} and len(hits) == 14
    assert family_of(config).patch == config.vision_config.patch_size and shape_of(config).kv == 1


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_counts_are_the_models_own(size):
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from videop2r.families import parameters
    s = Shape.known[size]
    text = dict(vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.inter, num_hidden_layers=s.layers, num_attention_heads=s.heads,
                num_key_value_heads=s.kv, bos_token_id=None, tie_word_embeddings=s.tied)
    config = Qwen2_5_VLConfig(text_config=text, tie_word_embeddings=s.tied,
                              vision_config=dict(depth=s.v_layers, hidden_size=s.v_hidden, intermediate_size=s.v_inter, num_heads=16, out_hidden_size=s.hidden))
    with torch.device("meta"): model = Qwen2_5_VLForConditionalGeneration(config)
    own = sum(p.numel() for p in model.parameters()) - (s.vocab * s.hidden if s.tied and model.lm_head.weight is not model.get_input_embeddings().weight else 0)
    assert abs(sum(parameters(s).values()) / own - 1) < 1e-3


def test_family_from_folders_and_their_faults(tmp_path):
    for text, what in (("{", "not valid JSON"), ('{"model_type": "llava"}', "'llava'"), ("{}", "model_type is None")):
        written(tmp_path / "config.json", text)
        with pytest.raises(ValueError, match=what): family_of(tmp_path)
    written(tmp_path / "config.json", '{"model_type": "qwen2_5_vl"}')
    written(tmp_path / "preprocessor_config.json", '{"image_mean": [0.5, 0.5, 0.5], "max_pixels": 12845056}')
    f = family_of(str(tmp_path))
    assert f.mean == (.5,) * 3 and f.max_pixels == 128 * 28 * 28
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no config.json"): family_of(tmp_path / "empty")



SFT = dict(problem="Which way?", options=["A. left", "B. right"], solution="<answer>B</answer>", answer="B", path="./a/1.mp4", data_source="STAR", data_type="video", problem_type="multiple choice",
           observation="It goes right.", process="<think>So right.</think>", output="<observation>It goes right.</observation> <think>So right.</think><answer>B</answer>",
           problem_id=1, reward=1.0, select=True, clean_version=None)
FILES = {"official SFT": SFT, "official RL": {k: str(v) for k, v in SFT.items()}, "Video-R1": {k: SFT[k] for k in VIDEO_R1}, "CoT-165k": {k: SFT[k] for k in (*VIDEO_R1, "process")},
         "evaluation": {**{k: SFT[k] for k in VIDEO_R1}, "original_question_type": "action", "duration": 3.5, "videoID": None}, "ours": Record.from_dict(SFT).to_dict()}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("ending", ["json.gz", "json", "jsonl", "jsonl.gz"])
def test_every_form_comes_back_equal(tmp_path, form, ending):
    rows = [{**FILES[form], "problem_id": type(FILES[form]["problem_id"])(i)} for i in range(5)]
    source = written(tmp_path / f"in.{ending}", json.dumps(rows) if "jsonl" not in ending else "\n".join(map(json.dumps, rows)), pack=ending.endswith("gz"))
    assert write_records(read_records(source), tmp_path / f"out.{ending}", "same") == 5
    text = (gzip.open if ending.endswith("gz") else open)(tmp_path / f"out.{ending}", "rt", encoding="utf-8").read()
    assert (json.loads(text) if "jsonl" not in ending else [json.loads(l) for l in text.splitlines()]) == rows


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

@settings(max_examples=80, deadline=None)
@given(form=st.sampled_from(sorted(FILES)), change=st.dictionaries(st.sampled_from(["observation", "process", "data_source", "unheard_of"]), plain), more=st.dictionaries(plain, value, max_size=3))
def test_unchanged_records_are_written_as_they_were(form, change, more):
    d = {**more, **FILES[form], **change}
    assert to_form(Record.from_dict(d), "same") == d


@settings(max_examples=80, deadline=None)
@given(form=st.sampled_from(["official SFT", "official RL", "Video-R1"]), observation=plain, reward=st.none() | st.floats(0, 1), select=st.none() | st.booleans())
def test_changed_records_read_back_changed(form, observation, reward, select):
    r = Record.from_dict(FILES[form])
    r.observation, r.reward, r.select = observation, reward, select
    if missing(observation): r.observation = "" # "null" and its like are no text in any field
    for how in ("same", "official", "strings"): assert Record.from_dict(to_form(r, how)) == r
    assert form != "official RL" or all(isinstance(v, str) for v in to_form(r, "same").values())


def test_parts_read_as_the_release_says(tmp_path):
    names = write_parts((Record.from_dict({**SFT, "problem_id": i}) for i in range(25)), tmp_path / "VideoP2R.json.gz", size=2)
    assert [p.name for p in names[:2]] == ["VideoP2R.part1of13.json.gz", "VideoP2R.part2of13.json.gz"] and sorted(tmp_path.iterdir()) == sorted(names)
    rows = []
    for p in names:
        with gzip.open(p, "rt", encoding="utf-8") as f: rows += json.load(f)
    assert [r["problem_id"] for r in rows] == [str(i) for i in range(25)] == [r.problem_id for r in read_records(tmp_path)] and set(rows[0]) == set(OFFICIAL)


def child(code, *args):
    "Run code in a process of its own that may not map more than a small amount beyond Python."
    bound = "import resource; resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2)\n"
    return subprocess.run([sys.executable, "-c", bound + code, *map(str, args)], capture_output=True, text=True)


READ = "import sys; from videop2r.data import RecordError, read_records\ntry: print(sum(1 for r in read_records(sys.argv[1], print)))\nexcept RecordError as e: print('refused:', e)"

def bomb(path, head, block, times, tail=b""):
    with gzip.open(path, "wb", compresslevel=9) as f:
        f.write(head)
        for _ in range(times): f.write(block)
        f.write(tail)
    return path


@pytest.mark.parametrize("name, head, block, times, tail, what", [
    ("field.json.gz", b'[{"problem": "', b"x" * (1 << 20), 100, b'"}]', "longer than 16 MB|gzip bomb"), ("spaces.json.gz", b"[", b" " * (1 << 20), 200, b"]", "gzip bomb"),
    ("lines.jsonl.gz", b"", b"\n" * (1 << 20), 200, b"", "gzip bomb"), ("line.jsonl.gz", b'{"problem": "', b"x" * (1 << 20), 100, b'"}', "longer than 16 MB|gzip bomb"),
    ("nested.json.gz", b"[", b"[" * (1 << 20), 40, b"", "breaks off|longer than 16 MB|gzip bomb"), pytest.param("many.json.gz", b"[{}", b",{}" * (1 << 18), 60, b"]", "gzip bomb", marks=storm)])
def test_bombs_are_refused_in_little_memory(tmp_path, name, head, block, times, tail, what):
    ran = child(READ.replace("print))", "lambda e: None))"), bomb(tmp_path / name, head, block, times, tail))
    assert ran.returncode == 0, ran.stderr[-500:]
    assert "refused:" in ran.stdout and name in ran.stdout and re.search(what, ran.stdout)


def test_a_long_field_in_a_plain_file_is_refused(tmp_path):
    file = written(tmp_path / "a.json", json.dumps([GOOD, {**GOOD, "problem": "x" * 100_000_000}]))
    ran = child(READ, file)
    assert ran.returncode == 0 and "refused: a.json[1]: one record is longer than 16 MB" in ran.stdout


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_record_errors(tmp_path_factory, data):
    rows = json.dumps([GOOD, AS_STRINGS, SFT]).encode()
    ending = data.draw(st.sampled_from(["json", "json.gz", "jsonl", "jsonl.gz"]))
    raw = bytearray(gzip.compress(rows) if ending.endswith("gz") else rows)
    for _ in range(data.draw(st.integers(0, 4))): raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("fuzz") / f"a.{ending}"
    file.write_bytes(bytes(raw[:data.draw(st.integers(0, len(raw)))]))
    try: list(read_records(file, lambda e: None))
    except RecordError as e: assert file.name in str(e)


def test_a_journal_survives_a_cut_at_every_byte(tmp_path):
    Journal(tmp_path / "a").add(dict(id=1), dict(id="ü"))
    whole = (tmp_path / "a").read_bytes()
    for n in range(len(whole) + 1):
        (tmp_path / "b").write_bytes(whole[:n])
        j = Journal(tmp_path / "b")
        j.add(dict(id=3))
        known = [1, "ü"][:(whole[:n] + b"\n").count(b"}\n")] # a row that lacks nothing but its end is one
        assert [r["id"] for r in Journal(tmp_path / "b").rows] == known + [3]

def test_a_journal_that_is_read_leaves_the_file_and_its_folder_as_they_are(tmp_path):
    for said in (b'{"id": 1}\n{"id": 2}', b'{"id": 1}\n{"id', b""):
        (tmp_path / "a").write_bytes(said)
        assert [r["id"] for r in Journal(tmp_path / "a").rows] == [1, 2][:said.count(b"}")] and (tmp_path / "a").read_bytes() == said
    assert Journal(tmp_path / "none" / "b").rows == [] and not (tmp_path / "none").exists()
    (tmp_path / "c").write_bytes(b'{"id": 1}\n{"id')
    first, second = Journal(tmp_path / "c"), Journal(tmp_path / "c")
    for n, journal in enumerate((first, second), 2): journal.add(dict(id=n))
    assert [r["id"] for r in Journal(tmp_path / "c").rows] == [1, 2, 3]
