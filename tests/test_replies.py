"Whatever a server sends, and however it sends it, ends in a reply, or in one reason, within bounds."
import gzip, io, json, math, os, sys, time, zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import pytest
pytest.importorskip("openai")
pytest.importorskip("anthropic")
from loopback import reply as good, serve
from videop2r.data import write_jsonl
from videop2r.engine.remote import AnthropicChat, Cache, Chat, OpenAIChat
from videop2r.judge import Judge, Verdict
from videop2r.tools.cli import main
from videop2r.engine.scenes import World
from videop2r.world import make_records

ASK = [dict(role="user", content="Where?")]
KINDS = dict(openai=lambda url, **kw: OpenAIChat("m", f"{url}/v1", **kw), anthropic=lambda url, **kw: AnthropicChat("m", url, **kw))
TRACE = "<observation>Based on the question, I need to notice it. It is red.</observation> <think>So.</think><answer>A</answer>"

def raw(*parts, pause=0.):
    "A server's bytes as they stand, with a pause after each part."
    def send(h, body):
        h.close_connection = True
        try:
            for part in parts[0]() if callable(parts[0]) else parts:
                h.wfile.write(part)
                h.wfile.flush()
                time.sleep(pause)
        except OSError: pass
    return send

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"
def forever(part, first=b""):
    def parts():
        yield first
        while True: yield part
    return parts
def packed(data, how="gzip"): return HEAD + f"Content-Encoding: {how}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
BOMB = gzip.compress(bytes(200 << 20), 9)
ENDLESS = {"a byte of the body now and then": (raw(forever(b" ", HEAD + b"Content-Length: 100000\r\n\r\n"), pause=.1), "no whole reply within 0.5 s"),
           "a byte of a header now and then": (raw(forever(b"x", HEAD + b"X-Long: "), pause=.1), "no whole reply within 0.5 s"),
           "hints without end": (raw(forever(b"HTTP/1.1 103 Early Hints\r\n\r\n"), pause=.01), "no whole reply within 0.5 s"),
           "headers without end": (raw(forever(b"X-More: " + b"x" * 900 + b"\r\n", HEAD)), "RemoteProtocolError"),
           "chunks without end": (raw(forever(b"10000\r\n" + b"x" * 65536 + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n")), "larger than 8 MB"),
           "an error without end": (raw(forever(b"x" * 65536, b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\n\r\n")), "500: the reply is larger"),
           "a bomb": (raw(packed(BOMB)), "unpacks to more than 8 MB"), "a bomb in an error": (raw(packed(BOMB).replace(b"200 OK", b"400 Bad")), "400: the reply unpacks"),
           "half a packet": (raw(packed(gzip.compress(b"{}" * 900)[:40])), "malformed"), "not packed": (raw(packed(b"{}")), "cannot be unpacked"), "another packing": (raw(packed(b"abcd", "br")), "'br', which was not asked")}

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ENDLESS)
def test_one_call_is_bounded_in_time_and_bytes(kind, what):
    fault, why = ENDLESS[what]
    with serve(faults=[fault]) as s:
        first, second = (KINDS[kind](s.url, retries=0, timeout=wait)(ASK) for wait in (.5 if "0.5 s" in why else 60., 60.))
        assert first.text is None and why in first.reason and first.seconds < 60, first
        assert second.text == "fine"

@pytest.mark.parametrize("how", ["gzip", "deflate"])
def test_an_honest_packet_is_unpacked(how):
    data = json.dumps(good("/chat", "fine")).encode()
    with serve(faults=[raw(packed(gzip.compress(data) if how == "gzip" else zlib.compress(data), how))]) as s: assert OpenAIChat("m", f"{s.url}/v1")(ASK).text == "fine"

ODD = [None, "", "12", "١٢", "1e9", "9" * 5000, -1, -0.5, 1.5, True, [], {}, [1], math.nan, math.inf, -math.inf, 10 ** 30, 1e308]

@pytest.mark.parametrize("kind", KINDS)
def test_odd_counts_are_numbers_in_bounds(kind, tmp_path):
    names = dict(openai=("prompt_tokens", "completion_tokens"), anthropic=("input_tokens", "output_tokens"))[kind]
    used = [dict(zip(names, (odd, odd))) for odd in ODD] + [None, [], "none", 3, {}, {names[0]: 5}]
    def answer(h, body): h.send(200, {**good(h.path, "fine"), "usage": used[len(h.server.seen) - 1]})
    with serve(faults=[answer] * len(used)) as s:
        chat = KINDS[kind](s.url, retries=0, price=(1., 2.))
        replies = [chat([dict(role="user", content=str(i))]) for i in range(len(used))]
    assert all(r.text == "fine" and r.cost == (r.tokens_in + 2 * r.tokens_out) / 1e6 and 0 <= r.tokens_in <= 1e9 for r in replies)
    assert [r.tokens_in for r in replies if r.tokens_in] == [12, 1, 5] and json.dumps([r.cost for r in replies], allow_nan=False)

def test_a_paid_reply_without_counts_is_kept(tmp_path):
    with serve(faults=[lambda h, b: h.send(200, {**good(h.path, "fine"), "usage": None})]) as s:
        chat = OpenAIChat("m", f"{s.url}/v1", cache=Cache(tmp_path / "c"))
        assert [chat(ASK).cached for _ in range(2)] == [False, True]

@pytest.mark.parametrize("given", [dict(timeout=math.nan), dict(timeout=0.), dict(timeout=math.inf), dict(timeout=-1.), dict(price=(math.nan, 1.)), dict(price=(-1., 1.)), dict(price=(1., math.inf)), dict(price=(1.,)), dict(max_tokens=0), dict(retries=-1), dict(temperature=math.nan)], ids=str)
def test_numbers_that_no_call_can_have_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))): OpenAIChat("m", "http://h/v1", **given)

def records(folder, n=3):
    found = list(make_records(folder, n, "replies", World(still=1.), kinds=("count", "shape")))
    write_jsonl(found, folder / "r.jsonl")
    return found

def command(*words):
    "(exit code, what it wrote to stderr)"
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(io.StringIO()):
        try: code = main([str(word) for word in words])
        except SystemExit as e: code = e.code
    return code, err.getvalue()

def written(folder, url, *more, judge=None): return command("generate", "--records", folder / "r.jsonl", "--media", folder, "--out", folder / "o", "--frames", 2, "--teacher", f"openai:t@{url}/v1", "--judge", judge or f"openai:j@{url}/v1", *more)
def rows(path): return [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in open(path)]

@pytest.mark.parametrize("flag, value", [("--price", "nan,1"), ("--judge-price", "-1,2"), ("--timeout", "nan")])
def test_the_command_refuses_such_numbers(flag, value, tmp_path):
    records(tmp_path, 1)
    code, said = written(tmp_path, "http://127.0.0.1:1", f"{flag}={value}")
    assert code in (1, 2) and flag.strip("-").split("-")[-1] in said and "Traceback" not in said and not (tmp_path / "o/traces.jsonl").exists()

def test_no_nan_of_a_server_or_a_judge_reaches_a_file(tmp_path):
    from videop2r.tools.pipeline import ChatTeacher, generate
    found = records(tmp_path)
    def answer(h, body): h.send(200, {**good(h.path, TRACE), "usage": dict(prompt_tokens=math.nan, completion_tokens=-math.inf)})
    with serve(faults=[answer] * 9) as s:
        made = generate(found, tmp_path, ChatTeacher(OpenAIChat("m", f"{s.url}/v1", price=(1., 1.)), frames=2), Judge(lambda r, o: Verdict(True, cost=math.nan)), tmp_path / "o", threshold=0., how="lenient", quiet=True)
    assert made.steps["written"] == 3 and all(row["cost"] == 0 for name in ("traces", "verdicts") for row in rows(tmp_path / f"o/{name}.jsonl"))

# ---- whatever a reply holds

def said(content, stop="stop", **more): return dict(choices=[dict(index=0, finish_reason=stop, message=dict(role="assistant", content=content, **more))], usage=dict(prompt_tokens=7, completion_tokens=3))
TEXT = dict(type="text", text="fine")
WHOLE = {"a part": said(TEXT), "parts": said([dict(type="thinking", thinking=[TEXT]), TEXT]), "texts": said(["fi", "ne"]), "output text": said([dict(type="output_text", text="fine", annotations=[])]), "a value": said([dict(type="text", text=dict(value="fine", annotations=[]))]),
         "null among parts": said([None, TEXT, dict(type="image_url", image_url=None)]), "a call beside it": said("fine", "tool_calls", tool_calls=[dict(id="1")]), "an odd stop": said("fine", ["x"]), "no stop": said("fine", None),
         "thought beside it": said("fine", reasoning_content="No. <answer>"), "completion": dict(choices=[dict(text="fine", index=0)]), "an empty error": dict(said("fine"), error={}), "no refusal": said("fine", refusal=None)}
LACK = {"a number": (said(5), "of type int"), "a flag": (said(True), "of type bool"), "parts of numbers": (said([1, 2]), "not text"), "null": (said(None), "empty reply"), "no parts": (said([]), "empty reply"), "blank": (said(" \n"), "empty reply"),
        "no choices": (dict(choices=[]), "no choice"), "null choices": (dict(choices=None), "no choice"), "choices by name": (dict(choices=dict(a=1)), "no choice"), "a null choice": (dict(choices=[None]), "no choice"), "no message": (dict(choices=[{}]), "empty reply"),
        "null message": (dict(choices=[dict(message=None)]), "empty reply"), "a text": ("fine", "of type str"), "a list": ([said("fine")], "of type list"), "an error": (dict(error=dict(message="out of memory")), "the server says: .*out of memory"), "an error as text": (dict(error="busy"), "the server says: .*busy"),
        "a call": (said(None, "tool_calls", tool_calls=[dict(id="1")]), "calls a tool"), "an old call": (said("", "function_call", function_call=dict(name="f")), "calls a tool"), "a refusal": (said(None, "stop", refusal="I cannot help."), "refused: I cannot help."), "a refusal as part": (said([dict(type="refusal", refusal="no")]), "refused"),
        "a filter": (said("fi", "content_filter"), "refused"), "loud filter": (said("", "SAFETY"), "refused"), "thought alone": (said(None, reasoning_content="hm"), "no text beside its thought"), "thought in parts": (said([dict(type="thinking", thinking="hm")]), "no text beside its thought"),
        "cut thought": (said(None, "length", reasoning="hm"), "cut off at 3 tokens, before its thought had ended; allow more with --limit"), "cut": (said("fi", "MAX_TOKENS"), "cut off at 3 tokens"), "broken off": (said("fi", "abort"), "broke off"), "no memory": (said("fi", "insufficient_system_resource"), "broke off")}

@pytest.mark.parametrize("what", [*WHOLE, *LACK])
def test_whatever_a_reply_holds_is_a_text_or_a_reason(what):
    body, why = LACK.get(what) or (WHOLE[what], None)
    with serve(faults=[lambda h, b: h.send(200, body)]) as s: found = OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK)
    assert (found.text, found.reason) == ("fine", "") if why is None else found.text is None and __import__("re").search(why, found.reason), found

@pytest.mark.parametrize("content, why", [(None, "empty"), ([], "empty"), ("fine", ""), ([dict(type="thinking", thinking="hm"), TEXT], ""), ([dict(type="tool_use", id="1", name="f", input={})], "calls a tool"), ([dict(type="redacted_thinking", data="x")], "no text beside"), ([dict(type="text")], "empty"), (7, "not text")], ids=str)
def test_blocks_of_the_other_protocol(content, why):
    with serve(faults=[lambda h, b: h.send(200, dict(type="message", content=content, stop_reason=None))]) as s: found = AnthropicChat("m", s.url, retries=0)(ASK)
    assert (found.text == "fine") == (not why) and why in found.reason, found

def test_bodies_that_are_no_object_or_too_deep():
    bodies = [b"data: {\"choices\": []}\n\n", b"[" * 100_000, b"{\"choices\":" * 50_000, b"9" * 9000, b"\xff\xfe", b"NaN", b""]
    with serve(faults=[lambda h, b, x=x: h.send(200, x) for x in bodies]) as s: found = [OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK) for _ in bodies]
    assert all(r.text is None and "malformed" in r.reason and len(r.reason) < 300 for r in found), found

def test_half_of_a_surrogate_pair_is_a_mark():
    with serve(faults=[lambda h, b: h.send(200, b'{"choices": [{"message": {"content": "fi\\ud800ne \\ud83d\\ude00"}}]}')]) as s: assert OpenAIChat("m", f"{s.url}/v1")(ASK).text == "fi\ufffdne \U0001f600"

# ---- what a model wants

def sent_with(seen): return {name.lower(): value for name, value in seen["headers"].items()}

def picky(**wants):
    "A server that refuses these fields of a request, each with its words."
    def answer(h, body):
        for name, words in wants.items():
            if name in body: return h.send(wants.get("status", 400), dict(error=dict(message=words, param=name, code="unsupported_parameter")))
        h.send(200, reply_to(h, body))
    return answer
def reply_to(h, body): return good(h.path, h.server.answer(body))

NEW = dict(max_tokens="Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", temperature="Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported.")
PYDANTIC = dict(max_tokens="body.max_tokens: Extra inputs are not permitted", temperature="temperature: unexpected keyword")

@pytest.mark.parametrize("words", [NEW, PYDANTIC, {"temperature": "`temperature` is deprecated for this model."}], ids=["new", "pydantic", "deprecated"])
def test_a_field_that_a_model_refuses_is_called_otherwise_or_left_out_with_a_warning(words):
    with serve(faults=[picky(**words)] * 9) as s:
        chat = OpenAIChat("o", f"{s.url}/v1", retries=0, max_tokens=4096)
        with pytest.warns(UserWarning, match="without a temperature"): assert chat(ASK).text == "fine"
        n = len(s.seen)
        assert chat(ASK).text == "fine" and len(s.seen) == n + 1 and "temperature" not in s.seen[-1]["body"]
        assert s.seen[-1]["body"].get("max_completion_tokens" if "max_tokens" in words else "max_tokens") == 4096

@pytest.mark.parametrize("words", ["max_tokens is too large: 4096. This model supports at most 2048 completion tokens", "This model's maximum context length is 2048 tokens", "messages: not supported"])
def test_another_complaint_is_a_reason_at_once(words):
    with serve(faults=[lambda h, b: h.send(400, dict(error=dict(message=words)))] * 5) as s:
        found = OpenAIChat("m", f"{s.url}/v1", retries=0, max_tokens=4096)(ASK)
        assert found.text is None and words in found.reason and len(s.seen) == 1

def test_settings_reach_the_request_and_null_leaves_one_out():
    with serve() as s:
        OpenAIChat("m", f"{s.url}/v1", effort="high", extra=dict(temperature=None, top_p=.9, max_tokens=7))(ASK)
        OpenAIChat("m", f"{s.url}/v1", extra=dict(max_completion_tokens=9))(ASK)
        AnthropicChat("m", s.url, effort="low", headers={"X-Team": "a"})(ASK)
        one, two, three = (x["body"] for x in s.seen)
        assert sent_with(s.seen[2])["x-team"] == "a"
    assert (one["reasoning_effort"], one["top_p"], one["max_tokens"]) == ("high", .9, 7) and "temperature" not in one
    assert two["max_completion_tokens"] == 9 and "max_tokens" not in two and three["output_config"] == dict(effort="low")

def test_headers_are_read_from_the_environment_and_shown_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", "canary-0123")
    with serve(faults=["401"]) as s:
        chat = OpenAIChat("m", f"{s.url}/v1", headers={"X-Token": "$MY_TOKEN", "Authorization": "canary-4567"}, extra=dict(user="canary-89", metadata=dict(api_key="canary-ab")))
        told = repr(chat) + chat.name + repr(chat(ASK))
        assert sent_with(s.seen[0])["x-token"] == "canary-0123" and s.seen[0]["body"]["metadata"] == dict(api_key="canary-ab") and "401" in told and "canary" not in told
    for bad in ("$NOT_THERE", "canary\u200b"):
        with pytest.raises(ValueError, match="header X-Token") as e: OpenAIChat("m", "http://127.0.0.1:1/v1", headers={"X-Token": bad})(ASK)
        assert "canary" not in str(e.value)

@pytest.mark.parametrize("stage", ["generate", "rl"])
def test_flags_reach_a_judge_and_a_teacher(stage, tmp_path):
    records(tmp_path, 1)
    judge = ["--judge-max-tokens", 4096, "--judge-temperature", 1, "--judge-effort", "high", "--judge-headers", '{"X-Team": "judges"}', "--judge-extra", '{"top_p": 0.5}']
    answer = lambda body: TRACE if body["model"] == "t" else "It is.\n<judgement>Yes</judgement>"
    with serve(answer) as s:
        if stage == "generate":
            teacher = ["--limit", 99, "--temperature", 0.5, "--effort", "low", "--headers", '{"X-Team": "teachers"}', "--extra", '{"seed": 1}', "--threshold", 0, "--how", "lenient"]
            code, err = written(tmp_path, s.url, *judge, *teacher)
        else:
            samples = Path(__file__).parent.parent / "data_samples"
            code, err = command("rl", "--records", samples / "train.jsonl", "--media", samples, "--model", samples / "teacher", "--out", tmp_path / "rl", "--preset", "tiny", "--steps", 1, "--prompts", 2, "--g", 2, "--limit", 48, "--judge", f"openai:j@http://me:canary-pw@{s.url[7:]}/canary-p1/v1?key=canary-q", *judge)
            assert not [f.name for f in (tmp_path / "rl").rglob("*") if f.is_file() and b"canary" in f.read_bytes()] and "canary" not in err and (tmp_path / "rl").stat().st_mode & 0o77 == 0
        sent = {x["body"]["model"]: x for x in s.seen}
    assert code == 0 and "j" in sent, err
    asked, own = sent["j"]["body"], sent_with(sent["j"])
    assert (asked["max_tokens"], asked["temperature"], asked["reasoning_effort"], asked["top_p"], own["x-team"]) == (4096, 1, "high", .5, "judges")
    if stage == "rl": return
    asked, kept = sent["t"]["body"], json.loads((tmp_path / "o/manifest.json").read_text())["settings"]
    assert (asked["max_tokens"], asked["temperature"], asked["reasoning_effort"], asked["seed"], sent_with(sent["t"])["x-team"]) == (99, .5, "low", 1, "teachers")
    assert "low" in kept["teacher.told"] and kept["judge"] == 'j (effort "high", extra {"top_p": 0.5}, temperature 1.0)' and "teachers" not in json.dumps(kept)

def test_a_flag_that_is_no_json_is_refused_with_an_example(tmp_path):
    from argparse import ArgumentTypeError
    from videop2r.tools.cli import settings_of
    for text in ("{top_p: 1}", "[1]", "3", '{"a": NaN}', "["*9000):
        with pytest.raises(ArgumentTypeError, match="not a JSON object; write one in single quotes"): settings_of(text)
    code, err = written(tmp_path, "http://127.0.0.1:1", "--judge-extra", "{top_p: 1}")
    assert code == 2 and "--judge-extra: not a JSON object" in err

# ---- packages and proxies

@pytest.mark.parametrize("who, package, spec", [("teacher", "openai", "openai:m@http://127.0.0.1:1/v1"), ("judge", "anthropic", "anthropic:m@http://127.0.0.1:1"), ("panel", "httpx2", "openai:m@http://127.0.0.1:1/v1"), ("panel", "anthropic", "anthropic:m@http://127.0.0.1:1")])
def test_a_missing_package_is_one_line_before_anything_is_paid(package, spec, who, tmp_path, monkeypatch):
    records(tmp_path, 1)
    monkeypatch.setitem(sys.modules, package, None)
    judge = dict(teacher="oracle", judge=spec, panel=f"oracle+{spec}")[who]
    with serve(lambda b: TRACE) as s:
        words = ["generate", "--records", tmp_path / "r.jsonl", "--media", tmp_path, "--out", tmp_path / "o", "--frames", 2, "--judge", judge, "--teacher", spec if who == "teacher" else f"openai:m@{s.url}/v1"]
        code, err = command(*words)
        assert code == 1 and "pip install 'videop2r[servers]'" in err and len([l for l in err.splitlines() if l.startswith("videop2r")]) == 1 and "Traceback" not in err and not s.seen

PROXIES = {"socks5://127.0.0.1:9": "socksio", "socks5h://me:canary@127.0.0.1:9": "socksio", "socks://127.0.0.1:9": "socksio", "socks4://127.0.0.1:9": "not known", "ftp://me:canary@h": "not known"}

@pytest.mark.parametrize("name", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_cannot_be_used_is_named_with_the_way_round_it(name, proxy, monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    for other in ("ALL_PROXY", "all_proxy", "http_proxy", "NO_PROXY", "no_proxy"): monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, proxy)
    with serve() as s:
        with pytest.raises(ValueError, match=PROXIES[proxy]) as e: OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK)
        assert "list 127.0.0.1 in NO_PROXY" in str(e.value) and "canary" not in str(e.value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK).text == "fine"

def test_a_proxy_is_used_and_its_password_shown_nowhere(monkeypatch):
    with serve(faults=["401"]) as s:
        monkeypatch.setenv("http_proxy", f"me:canary-pw@{s.url[7:]}")
        for other in ("NO_PROXY", "no_proxy"): monkeypatch.delenv(other, raising=False)
        found = [OpenAIChat("m", "http://far.example/v1", retries=0)(ASK) for _ in range(2)]
        assert found[1].text == "fine" and s.seen[0]["path"] == "http://far.example/v1/chat/completions" and "canary" not in repr(found)

# ---- a model's own thought

from videop2r.engine.remote import closing_of, spoken, trace_of
from videop2r.judge import chat_judge, judge_of, read_verdict
from videop2r.cot import example_record, parse

YES, NO = "<judgement>Yes</judgement>", "<judgement>No</judgement>"
BOTH = f"I must end with {YES} or {NO}. It is not stated."
THOUGHT = {name: text.replace("…", BOTH) for name, text in {
    "whole": "<think>…</think>\n\n", "closing only": "…\n</think>\n\n", "thinking": "<thinking>\n…\n</thinking>\n", "thought": "<thought>…</thought>", "reasoning": "<reasoning>…</reasoning>\n", "closing reasoning": "…</reasoning>\n", "loud": "<THINK>…</THINK>\n", "spaced": "< think >…</ think >\n",
    "with words": '<thinking effort="high">…</thinking>\n', "nested": "<think>a <think>…</think> b</think>\n", "names its tag": "<think>I write <think> first. …</think>\n", "names its end": "<think>It ends in </think>, so …</think>\n", "twice": "<think>…</think>\nSo.\n<think>…</think>\n", "square": "[THINK]…[/THINK]",
    "round": "◁think▷…◁/think▷", "long marks": "<|begin_of_thought|>…<|end_of_thought|>\n", "channels": "<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>", "seed": "<seed:think>…</seed:think>", "empty": "<think>\n\n</think>\n\n", "draft": f"<think>…\n{YES}\n</think>\n"}.items()}

@pytest.mark.parametrize("how", THOUGHT)
def test_a_verdict_and_a_trace_are_what_follows_the_thought(how):
    assert read_verdict(f"{THOUGHT[how]}It lacks it.\n{NO}").yes is False and read_verdict(f"{THOUGHT[how]}{YES}").yes is True
    drafted = THOUGHT[how].replace("It is not", "<observation> comes first, as in <observation>a</observation>. It is not")
    for text in (THOUGHT[how] + TRACE, drafted + TRACE): assert how == "channels" or trace_of(text).strip() == TRACE, text

@pytest.mark.parametrize("text", ["<think>" + BOTH, f"<think>{BOTH}\n{YES}", f"<think>a</think><think>\n{YES}", "<think>", "[THINK]\n" + YES, "◁think▷" + YES])
def test_a_thought_without_an_end_is_no_verdict(text): assert read_verdict(text).yes is None and "thought has no end" in read_verdict(text).reason

def test_what_is_no_thought_stays():
    for text in (TRACE, f"Sure.\n{TRACE}", TRACE.replace("So.", "I think </thinking> is a tag."), f"{TRACE}{TRACE}", "<observation>a</observation> <think>b</think><observation>c</observation> <think>d</think><answer>A</answer>", "<think>a</think><answer>A</answer>", "", "<observation>", "The <think> tag"):
        assert trace_of(text) == text
    assert read_verdict(f"It names a <think> tag.\n{NO}").yes is False and spoken("a <think> b") == "a <think> b"

@pytest.mark.parametrize("who, kind", [("judge", "openai"), ("teacher", "anthropic")])
def test_thoughts_by_command_cost_no_trace(who, kind, tmp_path):
    records(tmp_path)
    ways = iter([*THOUGHT][:3])
    seen = {}
    def answer(body):
        head = seen.setdefault(json.dumps(body), THOUGHT[next(ways)] if body["model"] == who[0] else "")
        return head + (TRACE if body["model"] == "t" else f"So.\n{YES}")
    with serve(answer) as s:
        at = s.url + "/v1" * (kind == "openai")
        code, err = command("generate", "--records", tmp_path / "r.jsonl", "--media", tmp_path, "--out", tmp_path / "o", "--frames", 2, "--teacher", f"{kind}:t@{at}", "--judge", f"{kind}:j@{at}", "--threshold", 0, "--how", "lenient", "--workers", 1)
    assert code == 0 and (tmp_path / "o/kept.jsonl").read_text().count("\n") == 3, err
    assert all(parse(row["output"]).ok for row in rows(tmp_path / "o/kept.jsonl"))

def test_a_judge_whose_words_are_thought_alone_is_no_verdict_and_its_cost_is_kept():
    with serve(faults=[lambda h, b: h.send(200, said(None, reasoning_content=f"hm\n{YES}"))]) as s:
        v = judge_of(f"openai:m@{s.url}/v1", price=(0., 1e6))(example_record(), "A cat.")
    assert v.yes is None and "no text beside its thought" in v.reason and v.cost == 3

@pytest.mark.parametrize("opened, closing", [("<think>\n", "</think>"), ("<think>", "</think>"), ("<thinking>\n\n", "</thinking>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<seed:think>", "</seed:think>"), ("<think>\n\n</think>\n\n", ""), ("", "")])
def test_a_template_that_opens_a_thought_is_closed(opened, closing):
    from videop2r.tokens import Coder
    from videop2r.world import samples
    coder = Coder.load(samples(Path(__file__).parent.parent / "data_samples") / "base")
    coder.tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n" + opened
    after = coder.turn[1]
    assert "".join(after.split()).endswith("assistant" + "".join((opened + closing).split())) and closing_of(after) == ""
    if opened != "<think>\n": return
    coder = Coder(coder.tokenizer, coder.family)
    coder.tokenizer.chat_template += "Okay, so"
    with pytest.raises(ValueError, match="opens a thought and writes words into it; use one that does not"): coder.turn

def test_the_bridge_refuses_a_template_that_opens_a_thought():
    pytest.importorskip("trl")
    from transformers import AutoTokenizer
    from videop2r.judge import ORACLE
    from videop2r.tools.trl import process_rewards
    from videop2r.world import samples
    tokenizer = AutoTokenizer.from_pretrained(samples(Path(__file__).parent.parent / "data_samples") / "base")
    tokenizer.chat_template = "{{ messages[0]['content'] }}<|im_start|>assistant\n<think>\n"
    with pytest.raises(ValueError, match="take the opening tag out"): process_rewards(tokenizer, ORACLE)
    tokenizer.chat_template += "</think>"
    assert len(process_rewards(tokenizer, ORACLE)) == 2

# ---- kept replies

def test_a_file_of_replies_that_is_none_is_named_with_what_to_do(tmp_path):
    records(tmp_path, 1)
    (tmp_path / "o").mkdir()
    (tmp_path / "o/replies.db").write_bytes(b"not a database" * 99)
    code, err = written(tmp_path, "http://127.0.0.1:1")
    assert code == 1 and "replies.db: the kept replies cannot be used" in err and "move the file away" in err

def test_damaged_rows_are_asked_again_and_a_reply_that_cannot_be_kept_is_given(tmp_path):
    cache = Cache(tmp_path / "c")
    with serve() as s:
        chat = OpenAIChat("m", f"{s.url}/v1", cache=cache)
        chat(ASK)
        for damaged in ("{half", "[1]", '{"words": 1}', "null"):
            cache._ask("update replies set reply = ?", damaged)
            found = chat(ASK)
            assert found.text == "fine" and not found.cached and chat(ASK).cached
        (tmp_path / "c").write_bytes(b"damaged" * 99)
        with pytest.warns(UserWarning, match="cannot be used"): cache.put("a", {})

def test_a_reply_that_was_paid_for_and_holds_no_text_keeps_its_cost():
    with serve(faults=[lambda h, b: h.send(200, said([7]))]) as s: found = OpenAIChat("m", f"{s.url}/v1", price=(1e6, 0.))(ASK)
    assert found.cost == 7 and found.text is None and "of type list" in found.reason

def test_a_chat_of_ones_own_needs_no_more_than_a_call(tmp_path):
    from videop2r.engine.remote import Reply
    from videop2r.judge import panel
    from videop2r.tools.pipeline import ChatTeacher, generate
    class Own:
        model, name, max_tokens, temperature, price = "own", "own", 64, 0., (0., 0.)
        def __call__(self, messages): return Reply(TRACE if isinstance(messages[0]["content"], list) else YES, tokens_out=1)
    made = generate(records(tmp_path), tmp_path, ChatTeacher(Own(), frames=2), panel(chat_judge(Own())), tmp_path / "o", threshold=0., how="lenient", quiet=True)
    assert len(made.kept) == 3
