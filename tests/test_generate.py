"""Teachers behind a loopback server, faults, stops, and that every record ends somewhere."""
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
import pytest
from videop2r.cot import SHORT
from videop2r.data import write_jsonl
from videop2r.tools.cli import main
from videop2r.tools.funnel import FUNNEL, Funnel, write_funnel
from videop2r.tools.pipeline import ChatTeacher, Forecast, LocalTeacher, generate
from videop2r.judge import ORACLE, Judge, Verdict
from videop2r.engine.remote import OpenAIChat, Reply
from videop2r.tokens import Coder
from videop2r.engine.scenes import World
from videop2r.world import from_record, gold, make_records, samples
from storm import some, storm
from team import free_port
from test_store import FORK
from tiny_server import Tiny, serve

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")

@pytest.fixture(scope="module")
def tiny(): return Tiny(SAMPLES / "teacher")

@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return list(make_records(root, 18, "server", World(still=.3))), root

@pytest.fixture(scope="module")
def by_hand(tiny, clips, tmp_path_factory):
    "What the local teacher makes of the clips."
    return run(clips, LocalTeacher(tiny.policy, "tiny", 8, limit=80), tmp_path_factory.mktemp("local") / "run")

def run(clips, teacher, out, judge=ORACLE, **kw): return generate(*clips, teacher, judge, out, **{"prompt": SHORT, "how": "lenient", "quiet": True, **kw})

def texts(out): return {r["problem_id"]: r["output"] for r in map(json.loads, open(out / "traces.jsonl"))}

def test_the_run_makes_what_the_lesson_makes(clips, by_hand):
    from videop2r.traces import verify
    plain = verify(clips[0], texts(by_hand.out), ORACLE, how="lenient")
    assert plain.steps == by_hand.steps and {r.problem_id: r.output for r in plain.kept} == {r.problem_id: r.output for r in by_hand.kept}
    assert {(o.record.problem_id, o.step, o.reason) for o in plain.rejected} == {(r["problem_id"], r["step"], r["reason"]) for r in by_hand.rejected}

@pytest.mark.parametrize("send", some(["frames", "video", "file"], ["video"]))
def test_server_writes_what_the_local_teacher_writes(tiny, clips, by_hand, tmp_path, send):
    with serve(tiny) as url: made = run(clips, ChatTeacher(OpenAIChat("tiny", url, max_tokens=64), frames=8, send=send, workers=4), tmp_path / "run")
    assert texts(made.out) == texts(by_hand.out) and made.steps == by_hand.steps
    rows = [json.loads(l) for l in open(made.out / "traces.jsonl")]
    assert all(r["tokens_in"] > 36 and r["tokens_out"] > 10 for r in rows)

def test_a_server_that_moved_is_the_same_teacher_and_judge(tiny, clips, tmp_path):
    from videop2r.judge import chat_judge
    chat = lambda port: OpenAIChat("m", f"http://127.0.0.1:{port}/v1", max_tokens=64, retries=0) # nobody listens there
    with serve(tiny) as url: made = run(clips, ChatTeacher(OpenAIChat("m", url, max_tokens=64), frames=8), tmp_path / "run", chat_judge(chat(1)), max_failures=1)
    assert run(clips, ChatTeacher(chat(2), frames=8), tmp_path / "run", chat_judge(chat(3)), max_failures=1).steps == made.steps
    with pytest.raises(ValueError, match="judge was m, now n"): run(clips, ChatTeacher(chat(2), frames=8), tmp_path / "run", chat_judge(OpenAIChat("n", "http://127.0.0.1:3/v1")))

class Gold:
    "A teacher without a model; `broken` gives a reply for some records instead."
    settings, limit, price = dict(name="gold"), 64, (1., 2.)
    def __init__(self, broken=lambda r: None): self.broken, self.asked = broken, []
    def visual(self, r): return 1024
    def __call__(self, records, media, prompt, save):
        for r in records:
            self.asked.append(r.problem_id)
            save(r, x := self.broken(r) or Reply(gold(from_record(r)), tokens_in=1300, tokens_out=50))
            yield r, x

def test_faults_that_cost_nothing_are_asked_again_and_what_was_paid_for_is_not(clips, tmp_path):
    ids = [r.problem_id for r in clips[0]]
    broken = {ids[0]: Reply(None, "connection refused"), ids[1]: Reply(None, "cut off", 9, 64), ids[2]: Reply(None, "refused", cost=.01)}
    made = run(clips, Gold(lambda r: broken.get(r.problem_id)), tmp_path / "run")
    assert {k[1]: n for k, n in made.lost.items() if k[0] == "written"} == {"connection refused": 1, "cut off": 1, "refused": 1}
    again = run(clips, teacher := Gold(), tmp_path / "run")
    assert teacher.asked == ids[:1] and len(again.kept) == 16 and again.at("written") == 2

@pytest.mark.parametrize("cost", [0., .01])
def test_what_was_cut_off_is_asked_again_with_more_room_and_only_then(clips, tmp_path, cost):
    cut = Reply(None, "cut off at 64 tokens", 9, 64, cost)
    run(clips, Gold(lambda r: cut), tmp_path / "run", max_failures=99)
    same, more = Gold(), Gold()
    more.limit = 128
    assert run(clips, same, tmp_path / "run").at("written") == 18 and not same.asked
    assert Forecast.of(*clips, same, ORACLE, tmp_path / "run", prompt=SHORT, how="lenient").calls == 0
    assert Forecast.of(*clips, more, ORACLE, tmp_path / "run", prompt=SHORT, how="lenient").calls == 18
    assert len(run(clips, more, tmp_path / "run").kept) == 18 and len(more.asked) == 18
    asked = []
    def judge(record, observation):
        asked.append(record.problem_id)
        return Verdict(None, "cut off at 9 tokens; allow more", cost) if len(asked) <= 18 else Verdict(True)
    for n in (18, 36, 36):
        run(clips, Gold(), tmp_path / "judged", Judge(judge, "short"), max_failures=99)
        assert len(asked) == n

def test_missing_verdicts_are_asked_again_and_given_ones_are_not(clips, tmp_path):
    asked = []
    def moody(r, observation):
        asked.append(r.problem_id)
        if len(asked) % 3 == 0: raise TimeoutError("no answer in 30 s")
        return Verdict(True)
    runs = [run(clips, Gold(), tmp_path / "run", Judge(moody, "moody")) for _ in range(3)]
    assert [m.steps["judge"] for m in runs] == [12, 16, 18] and runs[0].lost == {("judge", "no verdict: TimeoutError: no answer in # s"): 6}
    assert sorted(Counter(asked).values()) == [1] * 12 + [2] * 4 + [3] * 2

@pytest.mark.parametrize("where", ["teacher", "judge"])
def test_a_run_whose_replies_fail_stops_early_and_says_why(tmp_path, where):
    records = list(make_records(tmp_path, 60, "stop", World(still=1.), kinds=("count", "shape")))
    down = lambda r: Reply(None, "ConnectionError: 127.0.0.1:1 refused") if r.problem_id > records[19].problem_id else None
    teacher = Gold(down if where == "teacher" else lambda r: None)
    judge = Judge(lambda r, o: Verdict(None, "ConnectionError: 127.0.0.1:1 refused") if where == "judge" else Verdict(True))
    with pytest.raises(RuntimeError, match="ConnectionError: #:# refused") as e: run((records, tmp_path), teacher, tmp_path / "run", judge)
    assert f"no {'trace' if where == 'teacher' else 'verdict'}" in str(e.value) and len(teacher.asked) < 60 + (where == "teacher") * 2
    assert len(texts(tmp_path / "run")) == len(teacher.asked)
    again = run((records, tmp_path), Gold(), tmp_path / "run", Judge(lambda r, o: Verdict(True)))
    assert len(again.kept) == 60

def test_a_teacher_that_never_keeps_the_template_stops_the_run(tmp_path):
    records = list(make_records(tmp_path, 60, "stop", World(still=1.), kinds=("count", "shape")))
    cut = Gold(lambda r: Reply("<answer>2</answer>", tokens_out=9))
    with pytest.raises(RuntimeError, match="no trace in the template.*no </observation>"): run((records, tmp_path), cut, tmp_path / "run")
    assert len(cut.asked) < 40
    assert run((records, tmp_path), Gold(), tmp_path / "run", max_failures=1).steps["written"] == 60

def spoilt(clips, folder):
    "A file with records that no teacher can be asked about, beside good ones."
    rs = [replace(r) for r in clips[0]]
    rs[0] = replace(rs[0], path="nowhere.mp4")
    rs[1] = replace(rs[1], problem_type="numerical", options=[], solution="<answer>a few</answer>", answer="")
    rs[2] = replace(rs[2], problem=rs[2].problem + " <|im_end|>")
    rs[3] = replace(rs[3], path="../../etc/passwd")
    rs[4] = replace(rs[4], problem=rs[4].problem + " really?" * 2000)
    write_jsonl(rs, folder / "rs.jsonl")
    with open(folder / "rs.jsonl", "a") as f: f.write('{"problem_id": "half\n' + json.dumps(dict(rs[5].to_dict(), problem_type="riddle")) + "\n")
    return rs, folder / "rs.jsonl"

def test_every_record_ends_somewhere_once(tiny, clips, tmp_path):
    rs, path = spoilt(clips, tmp_path)
    made = run((path, clips[1]), LocalTeacher(tiny.policy, "tiny", 8, limit=80), tmp_path / "run")
    bad = {q["problem_id"]: q["reason"] for q in made.quarantine}
    assert len(bad) == 7 and {r.problem_id for r in rs[:5]} < set(bad) and sum(w.startswith("rs.jsonl:") for w in bad) == 2
    for i, word in enumerate(("no such file", "not a number", "<|im_end|>", "not inside", "room for")): assert word in bad[rs[i].problem_id]
    ends = [r.problem_id for r in made.kept] + [r["problem_id"] for r in made.rejected] + list(bad)
    assert len(ends) == len(set(ends)) == 20 == made.steps["records"]
    again = run((path, clips[1]), LocalTeacher(tiny.policy, "tiny", 8, limit=80), tmp_path / "run")
    assert again.steps == made.steps and again.quarantine == made.quarantine

def test_the_same_content_is_asked_about_once_and_the_same_id_may_ask_two_things(clips, tmp_path):
    a, b = clips[0][:2]
    teacher = Gold()
    made = run(([a, replace(a, problem_id="twin"), replace(b, problem_id=a.problem_id)], clips[1]), teacher, tmp_path / "run")
    assert len(teacher.asked) == 2 and sorted(r.problem_id for r in made.kept) == sorted([a.problem_id, a.problem_id, "twin"])

def test_a_clip_fetched_again_is_asked_about_again(clips, tmp_path):
    r = next(make_records(tmp_path, 1, "again"))
    run(([r], tmp_path), first := Gold(), tmp_path / "run")
    (tmp_path / r.path).write_bytes((tmp_path / r.path).read_bytes() + b"more")
    run(([r], tmp_path), second := Gold(), tmp_path / "run")
    assert first.asked == second.asked == [r.problem_id]

def slowly(clips, out):
    class Slow(Gold):
        def __call__(self, *a):
            for i, x in enumerate(super().__call__(*a)):
                time.sleep(.02 if i < 9 else .1)
                yield x
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try: run(clips, Slow(), out)
    except KeyboardInterrupt: os._exit(130)

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_a_stopped_run_keeps_what_is_finished(clips, tmp_path, number):
    p = FORK.Process(target=slowly, args=(clips, tmp_path / "run"))
    p.start()
    while not (tmp_path / "run" / "traces.jsonl").exists() or len(texts(tmp_path / "run")) < 5: time.sleep(.005)
    os.kill(p.pid, number)
    p.join(600)
    n = len(texts(tmp_path / "run"))
    assert p.exitcode == 130 and 5 <= n < 18
    made = run(clips, teacher := Gold(), tmp_path / "run")
    assert len(teacher.asked) == 18 - n and len(made.kept) == 18

def test_a_dry_run_asks_nothing_and_makes_nothing(clips, tmp_path):
    forecast = Forecast.of(*clips, teacher := Gold(), ORACLE, tmp_path / "run", prompt=SHORT, how="lenient", judge_price=(3., 15.))
    assert not teacher.asked and not (tmp_path / "run").exists()
    assert (forecast.calls, forecast.visual, forecast.written) == (18, 18 * 1024, 18 * 64)
    assert forecast.dollars == pytest.approx((forecast.visual + forecast.text) * 1e-6 + 18 * 64 * 2e-6 + 18 * (600 * 3 + 150 * 15) * 1e-6)
    run(clips, teacher, tmp_path / "run")
    assert Forecast.of(*clips, teacher, ORACLE, tmp_path / "run", prompt=SHORT, how="lenient").calls == 0
    few = Forecast.of(clips[0][:4], clips[1], teacher, ORACLE, tmp_path / "run", prompt=SHORT, how="lenient", judge_price=(3., 15.))
    assert few.judge_calls == 0 == few.dollars # of four, whatever else is in the folder
    down = Judge(lambda r, o: Verdict(None, "refused"), "down")
    run(clips, teacher, tmp_path / "down", down, max_failures=99)
    assert Forecast.of(*clips, teacher, down, tmp_path / "down", prompt=SHORT, how="lenient").judge_calls == 18
    with pytest.raises(ValueError, match="threshold"): Forecast.of(*clips, teacher, ORACLE, tmp_path / "run", prompt=SHORT, how="lenient", threshold=.9)

def test_the_report_adds_up(clips, by_hand):
    page, figures = write_funnel(by_hand.out).read_text(), Funnel.read(by_hand.out).figures()
    assert figures["steps"] == by_hand.steps == {s: sum(v[s] for v in figures["by_type"].values()) for s in FUNNEL}
    assert sum(r["n"] for r in figures["rejects"]) == 18 - len(by_hand.kept)
    assert json.loads((by_hand.out / "funnel.json").read_text()) == json.loads(json.dumps(figures))
    assert "<script" not in page and 'src="http' not in page and "162,062" in page

PARROT = gold(from_record(next(iter(make_records(SAMPLES, 1, "embedded-train", World(distractors=2, brief=.05), prefix="")))))
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# The server's own template for this family takes <think>...</think> out of the reply, and with it what stood before.
WHOLE = dict(defaults=dict(role="assistant"), start_anchor="<|im_start|>assistant\n", fields=dict(content=dict(close_pattern=r"\s*<\|im_end\|>", content="text")))

def teach_parrot(model, ids, answer, steps=120):
    "Train a text model to say one thing whatever it is asked."
    import torch
    optimizer, width = torch.optim.AdamW(model.parameters(), 1e-2), max(map(len, ids)) + len(answer)
    rows = lambda fill, make: torch.tensor([make(i) + answer + [fill] * (width - len(i) - len(answer)) for i in ids])
    x, labels = rows(0, list), rows(-100, lambda i: [-100] * len(i))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=x, labels=labels).loss
        loss.backward()
        optimizer.step()
    return loss.item()

def text_checkpoint(coder, prompts, folder):
    "A tiny Qwen2 text model that `transformers serve` can load."
    from transformers import Qwen2Config, Qwen2ForCausalLM
    import torch
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(coder.tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                                         eos_token_id=coder.eos, pad_token_id=coder.pad, bos_token_id=None))
    turn = lambda text: coder.ids(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
    assert teach_parrot(model, list(map(turn, prompts)), coder.ids(PARROT) + [coder.eos]) < .05
    model.save_pretrained(folder)
    coder.tokenizer.chat_template = TEMPLATE
    coder.tokenizer.response_template = WHOLE
    coder.tokenizer.save_pretrained(folder)

def answers(url):
    try: return urllib.request.urlopen(url, timeout=1).status == 200
    except (urllib.error.URLError, OSError): return False

@pytest.fixture(scope="module")
def transformers_serve(clips, tmp_path_factory):
    "The base URL of `transformers serve` with a tiny text model."
    for name in ("openai", "fastapi", "uvicorn"): pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("text")
    text_checkpoint(Coder.load(SAMPLES / "teacher"), [SHORT.render(r) for r in clips[0]], folder)
    port = free_port()
    p = subprocess.Popen([sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder), "--host", "127.0.0.1", "--port", port, "--device", "cpu"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    while not answers(f"http://127.0.0.1:{port}/health") and p.poll() is None: time.sleep(.2)
    yield f"http://127.0.0.1:{port}/v1", str(folder)
    p.terminate()
    p.wait(600)

class Blind(ChatTeacher):
    "A teacher that is sent the question alone."
    def message(self, r, media, prompt): return [dict(role="user", content=prompt.render(r))], {}

@storm # tiny_server speaks the protocol in the other tests
def test_text_goes_through_transformers_serve(transformers_serve, clips, tmp_path):
    url, name = transformers_serve
    made = run(clips, Blind(OpenAIChat(name, url, max_tokens=64), workers=3), tmp_path / "run")
    assert made.steps["written"] == 18 and set(texts(made.out).values()) == {PARROT}
    assert all(json.loads(l)["tokens_out"] > 10 for l in open(made.out / "traces.jsonl"))

def test_the_commands_read_through_a_sampler_and_a_cache_and_refuse_another_sampler(tmp_path, capsys):
    "Generate, then rl; the same folder under the other sampler is refused by name."
    (tmp_path / "few.jsonl").write_text("".join((SAMPLES / "heldout.jsonl").read_text().splitlines(True)[:6]))
    media = ("--records", tmp_path / "few.jsonl", "--media", SAMPLES, "--frames", 8, "--cache", tmp_path / "cache")
    write = ("generate", *media, "--out", tmp_path / "traces", "--teacher", f"local:{SAMPLES / 'teacher'}", "--prompt", "short", "--how", "lenient", "--limit", 48)
    train = ("rl", *media, "--out", tmp_path / "rl", "--model", SAMPLES / "teacher", "--preset", "tiny", "--steps", 1, "--prompts", 2, "--g", 2, "--limit", 40)
    for line in (write, train):
        assert main([*map(str, line), "--sampler", "rate:2"]) == 0
        assert main([*map(str, line)]) == 1 and "sampler was" in capsys.readouterr().err
    assert any((tmp_path / "cache").rglob("*.frames"))

def test_answers_in_any_script_are_kept_and_what_cannot_be_scored_is_asked_of_nobody(clips, tmp_path):
    from videop2r.cot import render
    truths = ("红球向左滚", "красный мяч катится", "공이 굴러간다", "…", "🙂🙂", "2个球")
    rs = [replace(r, problem=f"{r.problem} {i}", problem_type="free-form", options=[], solution=f"<answer>{truth}</answer>", answer="") for i, (r, truth) in enumerate(zip(clips[0], truths))]
    teacher = Gold(lambda r: Reply(render("Based on the question, I need to notice a ball.", "Based on the observations, that.", r.truth), tokens_out=9))
    made = run((rs, clips[1]), teacher, tmp_path / "run", Judge(lambda r, o: Verdict(True)), how="faithful")
    assert [r.truth for r in made.kept] == [truths[i] for i in (0, 1, 2, 5)] and len(teacher.asked) == 4
    assert ["no answer to" in q["reason"] for q in made.quarantine] == [True, True]

def test_options_of_any_form_end_where_their_letter_says(clips, tmp_path):
    from videop2r.cot import render
    forms = (["(A) a ball", "(B) a box"], ["1. a ball", "2. a box"], ["a ball", "a box"], ["W. Ball", "A. Box"], ["Ａ、球", "Ｂ、箱"])
    rs = [replace(r, problem=f"{r.problem} {i}", problem_type="multiple choice", options=options, solution=f"<answer>{options[1]}</answer>", answer="") for i, (r, options) in enumerate(zip(clips[0], forms))]
    rs.append(replace(rs[3], problem_id="either", solution="<answer>A</answer>"))
    teacher = Gold(lambda r: Reply(render("Based on the question, I need to notice a ball.", "Based on the observations, that.", "B"), tokens_out=9))
    made = run((rs, clips[1]), teacher, tmp_path / "run", Judge(lambda r, o: Verdict(True)), how="faithful")
    assert len(made.kept) == 5 == len(teacher.asked) and [q["problem_id"] for q in made.quarantine] == ["either"]

@pytest.mark.parametrize("words, why", [(["--how", "foo"], "foo"), (["--batch", "0"], "batch"), (["--threshold", "nan"], "threshold is nan"), (["--dry-run", "--frames", "0"], "frames"), (["--teacher", "openai:m@http://127.0.0.1:9/v1", "--dry-run", "--frames", "0"], "frames"), (["--dry-run", "--threshold", "7"], "threshold is 7")])
def test_a_setting_that_cannot_be_blames_no_record(clips, tmp_path, capsys, words, why):
    write_jsonl(clips[0], tmp_path / "r.jsonl")
    given = ["generate", "--records", str(tmp_path / "r.jsonl"), "--media", str(clips[1]), "--teacher", f"local:{SAMPLES}/teacher", "--judge", "oracle", "--out", str(tmp_path / "out")]
    assert main([*given, *words]) == 1 and why in capsys.readouterr().err and not (tmp_path / "out" / "kept.jsonl").exists()
