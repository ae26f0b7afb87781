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
from videop2r.world import World, make_records

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

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
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
        chat, start = KINDS[kind](s.url, retries=0, timeout=.5 if "0.5 s" in why else 20.), time.monotonic()
        reply = chat(ASK)
        assert reply.text is None and why in reply.reason and time.monotonic() - start < (4 if "0.5 s" in why else 20), reply
        assert chat(ASK).text == "fine"

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

@pytest.mark.parametrize("flag, value", [("--price", "nan,1"), ("--price", "1,inf"), ("--judge-price", "-1,2"), ("--timeout", "nan"), ("--timeout", "0")])
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
