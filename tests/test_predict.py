"""Predictions come as they are made, survive a kill at any write, and one bad clip costs itself."""
import json, os, random, shutil
from dataclasses import replace
from pathlib import Path
import pytest
from kills import forked
from videop2r.benchmarks import Predictions, differences, mark_all, partings, read_predictions, score_all
from videop2r.cot import SHORT
from videop2r.engine.suites import SuiteReader, Within
from videop2r.tools.cli import main
from videop2r.engine.suites import Suite
from videop2r.tools.predict import Decoding, Evaluated, Local, questions_of
from storm import LONG

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
HOW = Decoding(frames=4, limit=8, batch=3)

@pytest.fixture(scope="module")
def model(): return Local(SAMPLES / "base", HOW)

@pytest.fixture(scope="module")
def questions(): return questions_of("records", SAMPLES / "heldout.jsonl").subset(20)

def ask(model, questions, out, media=SAMPLES, **kw): return Evaluated.of(model, questions, media, out, SHORT, quiet=True, **kw)

@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills_leave_the_same_predictions_and_means(model, questions, tmp_path):
    media = SuiteReader(SAMPLES, HOW.frames, HOW.pixels, sampler=Within(), cache=tmp_path / "frames") # a forked child must not decode
    whole = ask(model, questions, tmp_path / "whole", media)
    code, n = forked(lambda: ask(model, questions, tmp_path / "count", media, workers=0), below=tmp_path / "count")
    assert code == 0 and n >= 10
    out, points = tmp_path / "killed", random.Random(0).sample(range(1, n + 1), 10 if LONG else 4)
    for point in sorted(points):
        if forked(lambda: ask(model, questions, out, media, workers=0), point, below=out)[0] == 0: shutil.rmtree(out) # it had come to its end: from the start
    file, draw = out / "predictions.jsonl", random.Random(1)
    for _ in range(10 if LONG else 4): # and a file cut at any byte
        ask(model, questions, out, media, workers=0)
        os.truncate(file, draw.randrange(file.stat().st_size))
    again = ask(model, questions, out, media)
    assert again.rows == whole.rows and file.read_bytes() == (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    both = [score_all(mark_all(read_predictions(folder / "predictions.jsonl")), 50) for folder in (out, tmp_path / "whole")]
    assert repr(both[0]) == repr(both[1]) # NaN is not itself

def test_a_batch_says_what_one_question_alone_is_told(model, questions, tmp_path):
    rows = {row["id"]: row["response"] for row in ask(model, questions, tmp_path / "a").rows}
    for record in questions.records[:4]:
        alone = ask(Local(SAMPLES / "base", Decoding(frames=4, limit=8, batch=1)), Suite("records", [record], ""), tmp_path / record.problem_id)
        assert alone.rows[0]["response"] == rows[record.problem_id]

def test_a_picture_belongs_to_its_own_question(questions, tmp_path):
    kept = {}
    class Seen(Local):
        def __call__(self, records, visuals, prompt):
            kept.update(visuals)
            return super().__call__(records, visuals, prompt)
    first = next(record for record in questions.records if record.data_type == "video")
    asked = replace(first, problem_id="with", extra=dict(last=True, image="clips/embedded-heldout-00003.png"))
    found = ask(Seen(SAMPLES / "base", HOW), Suite("records", [first, asked], ""), tmp_path)
    assert len(found.rows) == 2 and not found.failed and len(kept) == 2
    with_it, without = (kept[place].patches for place in sorted(kept, key=lambda place: len(place[1]), reverse=True))
    assert with_it.shape == without.shape and (with_it != without).any()

def test_a_clip_that_cannot_be_read_costs_itself(model, questions, tmp_path):
    media = tmp_path / "media"
    shutil.copytree(SAMPLES / "clips", media / "clips")
    lost, spoilt = questions.records[2].path, questions.records[5].path
    (media / lost).unlink()
    (media / spoilt).write_bytes(b"no film")
    with pytest.raises(ValueError, match="1 media are not there"): ask(model, questions, tmp_path / "out", media)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    found = ask(model, questions, tmp_path / "out", media, skip_missing=True)
    assert len(found.rows) == 20 and {row["video"] for row in found.failed} == {lost, spoilt} and all(row["failed"] for row in found.failed)
    said = found._repr_markdown_()
    assert "without a reply" in said and questions.records[2].problem_id in said
    shutil.copy(SAMPLES / lost, media / lost)
    assert {row["video"] for row in ask(model, questions, tmp_path / "out", media, retry=True).failed} == {spoilt}

def test_media_found_is_a_denominator_of_its_own():
    row = dict(benchmark="mvbench", kind="multiple choice", truth="B", options=["A. x", "B. y"], video="", group={})
    rows = [row | dict(id="1", response="B"), row | dict(id="2", response=None, failed="gone")]
    found = score_all(mark_all(Predictions(rows), ("video-r1",)), 20)[0]
    assert (found["all"], found["n_all"], found["media"], found["n_media"]) == (.5, 2, 1, 1)

def test_other_settings_are_refused_by_name(model, questions, tmp_path):
    ask(model, questions, tmp_path)
    with pytest.raises(ValueError, match="questions was"): ask(model, questions_of("records", SAMPLES / "heldout.jsonl").subset(19), tmp_path)
    with pytest.raises(ValueError, match="top_p was"): ask(Local(SAMPLES / "base", Decoding(frames=4, limit=8, batch=3, top_p=.5)), questions, tmp_path)

class Chat:
    "A server in the process: a reply, or none."
    model, max_tokens, temperature, price = "toy", 8, .01, (0., 0.)
    def __init__(self, text): self.text = text
    def ready(self): return True
    def __call__(self, messages):
        from videop2r.engine.remote import Reply
        text = self.text(messages)
        return Reply(text, "" if text else "503: busy", tokens_out=1)

def served(text):
    from videop2r.tools.predict import AtServer
    model = AtServer("openai:toy@http://127.0.0.1:9/v1", HOW)
    assert model.teacher.chat.extra == dict(top_p=.001) and model.teacher.chat.temperature == .01
    model.teacher.chat = Chat(text)
    return model

def test_replies_that_do_not_come_are_asked_again(questions, tmp_path):
    calls = iter(range(100))
    some = ask(served(lambda messages: "B" if next(calls) % 2 else None), questions, tmp_path)
    assert 0 < len(some.unheard) < 20 and len(some.rows) == 20 - len(some.unheard)
    whole = ask(served(lambda messages: "B"), questions, tmp_path)
    assert not whole.unheard and len(whole.rows) == 20 and {row["response"] for row in whole.rows} == {"B"}

def test_a_server_that_is_gone_ends_the_run(questions, tmp_path):
    with pytest.raises(RuntimeError, match="twenty replies in a row"): ask(served(lambda messages: None), questions, tmp_path)

ROW = dict(benchmark="mvbench", kind="multiple choice", truth="B", options=["A. x", "B. y"], video="v.mp4", group=dict(task="action_count"))

def written(path, rows, more=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + more)
    return str(path)

def test_bad_rows_are_named_and_the_rest_is_scored(tmp_path, capsys):
    rows = [ROW | dict(id=str(i), response="B") for i in range(4)]
    bad = [rows[0], ROW | dict(id="x", benchmark="vqa", response="B"), ROW | dict(id="y", response=3), {k: v for k, v in ROW.items() if k != "truth"} | dict(id="z"), [1], ROW | dict(id="n", kind="numerical", benchmark="video-mmmu", truth="many", response="3")]
    file = written(tmp_path / "p.jsonl", rows + bad, '{"id": "half')
    assert main(["score", file, "--draws", "20"]) == 1
    out, err = capsys.readouterr()
    assert "100.0 (4)" in out
    for said in ("p.jsonl:5: field `id` is '0', which came before", "field `benchmark` is 'vqa'", "field `response` is a int", "field `truth` is missing", "p.jsonl:9: is no object", "p.jsonl:11: is not valid JSON", "video-mmmu, question 'n': field `truth`"): assert said in err, said

def test_predictions_of_another_benchmark_are_refused(tmp_path, capsys):
    file = written(tmp_path / "p.jsonl", [ROW | dict(id="1", response="B")])
    assert main(["score", file, "--only", "video-mme"]) == 1 and "is 'mvbench', not 'video-mme'" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "none.jsonl")]) == 1 and "no such file" in capsys.readouterr().err
    other = written(tmp_path / "q.jsonl", [ROW | dict(id="2", response="B")])
    assert main(["score", file, "--against", other, "--draws", "20"]) == 1 and "no question stands in both" in capsys.readouterr().err
    with pytest.raises(SystemExit): main(["score", file, "--rules", "mine"])

def test_score_writes_its_page_and_tables(tmp_path, capsys):
    rows = [ROW | dict(id=str(i), response=text) for i, text in enumerate(("B", "", "<script>alert(1)</script> The answer is B", "<answer>b</answer>"))]
    file = written(tmp_path / "p.jsonl", rows)
    other = written(tmp_path / "q.jsonl", [row | dict(response="A") for row in rows])
    paths = {name: tmp_path / f"t{end}" for name, end in (("html", "p.html"), ("table", "1.tex"), ("difficulty", "7.md"))}
    args = [f"--{name}={path}" for name, path in paths.items()]
    assert main(["score", file, "--against", other, "--draws", "50", *args]) == 0
    assert "this file minus the other" in capsys.readouterr().out
    page = paths["html"].read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "a small letter" in page and "no reply" in page
    assert r"\textbf{yours}" in paths["table"].read_text() and "are not known here" in paths["difficulty"].read_text()
    assert main(["score", file, "--table", str(tmp_path / "t.doc"), "--draws", "20"]) == 1

def test_partings_count_what_is_scored_differently_alone():
    same = [ROW | dict(id=str(i), response="<answer>B</answer>") for i in range(3)]
    assert partings(mark_all(Predictions(same))) == []
    found = partings(mark_all(Predictions([*same, ROW | dict(id="9", response="<answer>b</answer>")])))
    assert [(row["trait"], row["n"], row["total"]) for row in found] == [("a small letter", 1, 4)]

def test_intervals_over_clips_are_wider_where_questions_share_them():
    rows = [ROW | dict(id=str(i), video=f"{i // 20}.mp4", response="B" if i // 20 % 2 else "A") for i in range(400)]
    found = score_all(mark_all(Predictions(rows), ("ours",)), 500)[0]
    widths = [found[name][1] - found[name][0] for name in ("questions", "videos")]
    assert widths[1] > 3 * widths[0] and found["own"] == .5
    assert widths[0] == pytest.approx(2 * 1.96 * .5 / 20, abs=.02) # the binomial's

def test_a_difference_is_paired():
    a = [ROW | dict(id=str(i), video=str(i), response="B" if i % 2 else "A") for i in range(100)]
    b = [row | dict(response="B" if i % 2 or i < 10 else "A") for i, row in enumerate(a)]
    found = differences(*(mark_all(Predictions(rows), ("ours",)) for rows in (a, b)), 500)[0]
    assert found["difference"] == pytest.approx(.05) and (found["better"], found["worse"]) == (5, 0)
    assert found["questions"][0] > 0 # unpaired, 5 points of a hundred would be nothing

@pytest.mark.parametrize("given", [dict(adapter="/nonesuch/last"), dict(nf4=True), dict(adapter="a", nf4=True)])
def test_what_a_server_loads_is_not_chosen_here(given):
    from videop2r.tools.cli import _asked_model
    names = dict(frames=8, pixels=None, limit=64, temperature=.01, top_p=.001, batch=8, seed=0)
    with pytest.raises(ValueError, match="|".join(f"--{name}" for name in given) + ".*loaded by its server"):
        _asked_model("openai:toy@http://127.0.0.1:9/v1", **{**dict(adapter=None, nf4=False), **given}, send="frames", workers=1, chat={}, settings=names)

@pytest.mark.parametrize("given", [dict(batch=0), dict(frames=0), dict(temperature=-1.), dict(limit=0)])
def test_a_decoding_that_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))): replace(HOW, **given)
