"What an address holds beside scheme, host and port reaches no file, name, message or log; what models wrote is its owner's alone."
import io, json, logging, os, stat
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import pytest
pytest.importorskip("openai")
pytest.importorskip("anthropic")
from loopback import serve
from videop2r.cot import example_record
from videop2r.data import write_jsonl
from videop2r.engine.remote import AnthropicChat, Cache, OpenAIChat, chat_of, is_remote, secrets_of, without_secrets
from videop2r.judge import judge_of
from videop2r.tools.cli import main
from videop2r.tools.pipeline import ChatTeacher
from videop2r.engine.scenes import World
from videop2r.world import make_records

ASK = [dict(role="user", content="Where?")]
# the parts of an address that may be secret; each holds "canary"
ADDRESSES = {"user and password": "http://canary-me:canary-pw@{}/v1", "token as user": "http://canary1x@{}/v1", "query": "http://{}/v1?api_key=canary-q1&team=a", "path": "http://{}/canary-p1/v1",
             "path without a version": "http://{}/t/canary2p/", "quoted": "http://me:canary%2Fp%40w@{}/v1", "plus": "http://me:ca+openai+canary@{}/v1", "fragment": "http://{}/v1#canary-f", "upper case": "HTTP://canary-me:canary-pw@{}/v1"}

def echo(h, body):
    "A complaint that quotes the address and every header."
    said = f"no route for {h.path} of {dict(h.headers)} at http://canary-me:canary-pw@{h.headers['Host']}{h.path}; user canary-me:canary-pw, canary/p@w, ca+openai+canary, token canary1x"
    h.send(404, dict(error=dict(message=said)))

@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"): monkeypatch.setenv(name, "sk-canary-0123456789")

@pytest.fixture
def log():
    "Everything that is logged, at every level."
    out, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(out), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)

def all_files(folder): return b"".join(f.read_bytes() for f in Path(folder).rglob("*") if f.is_file())

@pytest.mark.parametrize("make", [OpenAIChat, AnthropicChat])
@pytest.mark.parametrize("kind", ADDRESSES)
def test_an_address_is_used_whole_and_shown_by_its_origin(kind, make, log, tmp_path):
    with serve(faults=[echo, "401", "500", "drop", "malformed"]) as s:
        chat = make("m", ADDRESSES[kind].format(s.url[7:]), retries=0, timeout=600., cache=Cache(tmp_path / "c.db"))
        replies = [chat(ASK) for _ in range(7)]
        sent = s.seen[0]
    told = [repr(chat), str(chat), chat.name, *map(repr, replies), log.getvalue(), repr(chat.ready())]
    assert "canary" not in "".join(told).replace("sk-canary", "key") and b"canary" not in all_files(tmp_path)
    assert "404" in replies[0].reason and replies[-1].text == "fine" and f"m at {s.url}" == chat.name
    carried = sent["path"] + json.dumps(sent["headers"])
    if kind in ("query", "path", "path without a version"): assert "canary" in sent["path"]
    if kind == "quoted": assert "Basic bWU6Y2FuYXJ5L3BAdw==" in carried
    if kind in ("user and password", "upper case"): assert "Basic Y2FuYXJ5LW1lOmNhbmFyeS1wdw==" in carried

def elsewhere(status, place=None):
    def send_on(h, body): h.send(status, b"", {"Location": (place or "http://127.0.0.1:{}").format(h.server.server_port) + "/v1/messages" * (h.path.endswith("messages")) + "/v1/chat/completions" * (not h.path.endswith("messages"))})
    return send_on

@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(status):
    with serve() as other, serve(faults=[elsewhere(status, other.url + "/canary?key=canary-q")] * 3) as s:
        reply = OpenAIChat("m", f"http://canary-me:canary-pw@{s.url[7:]}/v1", retries=2, timeout=600.)(ASK)
        assert not other.seen and len(s.seen) == 1
    assert reply.text is None and f"sends on to {other.url}" in reply.reason and "canary" not in reply.reason

def test_a_redirect_on_the_same_host_is_followed_and_an_endless_one_is_not():
    with serve(faults=[elsewhere(307), elsewhere(308)]) as s:
        assert OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK).text == "fine" and [x["body"]["messages"] for x in s.seen] == [ASK] * 3
    with serve(faults=[elsewhere(307)] * 9) as s: assert "sends on" in OpenAIChat("m", f"{s.url}/v1", retries=0)(ASK).reason and len(s.seen) < 6

BAD = ["openai:m@me:canary@host/v1", "openai:http://me:canary@host/v1", "openai:m@http://me:canary/w@host/v1", "openai:m@http://me:canary?w@host/v1", "openai:m@http://me:canary#w@host", "opnai:m@http://me:canary@host/v1", "openai@http://me:canary@h/v1",
       "anthropic:m@ftp://me:canary@h", "openai:m@http://h:canary/v1", "openai:m@http://me:canary@/v1", "openai:m@http://me:ca nary@h/v1", "oracle+opnai:m@http://me:canary@h/v1", "oracle+openai:m@http://me:canary\\w@h/v1"]

@pytest.mark.parametrize("where, spec", [*((("judge", "teacher")[i % 2], spec) for i, spec in enumerate(BAD)), ("teacher", BAD[2]), ("rl", BAD[0]), ("rl", BAD[-1])])
def test_a_word_with_an_address_that_cannot_be_used_is_refused_without_it(spec, where, tmp_path):
    write_jsonl([example_record()], tmp_path / "r.jsonl")
    common = ["--records", tmp_path / "r.jsonl", "--media", tmp_path, "--out", tmp_path / "o", "--judge", spec if where != "teacher" else "oracle"]
    line = ["rl", *common, "--model", Path(__file__).parent.parent / "data_samples/base", "--preset", "tiny"] if where == "rl" else ["generate", *common, "--teacher", spec if where == "teacher" else "openai:m"]
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(err): code = main(list(map(str, line)))
    assert code == 1 and len(err.getvalue().strip().splitlines()) == 1 and "canary" not in err.getvalue() and "ca nary" not in err.getvalue(), err.getvalue()

def test_a_key_given_for_its_name_and_a_key_with_a_line_break():
    with pytest.raises(ValueError, match="name of an environment variable") as e: OpenAIChat("m", key="sk-canary-0123")
    assert "canary" not in str(e.value)
    os.environ["OPENAI_API_KEY"] += "\r\n"
    with serve() as s: assert OpenAIChat("m", f"{s.url}/v1")(ASK).text == "fine" and s.seen[0]["headers"]["authorization"] == "Bearer sk-canary-0123456789"
    os.environ["OPENAI_API_KEY"] = "sk-canary-\u200b0123"
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds signs") as e: OpenAIChat("m", "http://127.0.0.1:1/v1")(ASK)
    assert "canary" not in str(e.value)

def test_an_address_in_the_environment_is_as_secret(monkeypatch, log):
    with serve(faults=[echo]) as s:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://canary-me:canary-pw@{s.url[7:]}/canary-p1/v1")
        chat = OpenAIChat("m", retries=0)
        told = repr(chat(ASK)) + repr(chat) + chat.name + log.getvalue()
        assert "404" in told and "canary" not in told.replace("sk-canary", "") and s.seen[0]["path"] == "/canary-p1/v1/chat/completions"

def test_a_panel_is_cut_between_its_judges_alone():
    judge = judge_of("oracle+openai:a@http://me:p+w@h:1/v1+recorded:x.jsonl+openai:b+c@http://h:2/t?k=1+2+anthropic")
    assert judge.name == "panel of oracle, a at http://h:1, recorded in x.jsonl, b+c at http://h:2, claude-sonnet-5-5"
    assert [is_remote(x) for x in ("anthropic", "oracle+openai:m", "recorded:openai.jsonl", "base:anthropic:x", "oracle")] == [True, True, False, False, False]

def test_texts_keep_what_is_no_secret():
    assert without_secrets("A sign says http://h/a/b?c, go (https://u@h:1/x).") == "A sign says http://h, go (https://h:1)."
    assert secrets_of("https://api.openai.com/v1") == secrets_of("http://h:8000/openai/deployments/v2beta/chat/completions") == set()

def modes(folder): return {f.name: stat.S_IMODE(f.stat().st_mode) for f in Path(folder).iterdir()}

@pytest.mark.skipif(os.name == "nt", reason="no such rights")
@pytest.mark.parametrize("made", [False, True], ids=["new folder", "folder that was there"])
def test_a_run_by_command_hides_its_addresses_and_keeps_replies_to_their_owner(made, tmp_path, log):
    records = list(make_records(tmp_path, 4, "secrets", World(still=1.), kinds=("count", "shape")))
    write_jsonl(records, tmp_path / "r.jsonl")
    trace = "<observation>Based on the question, I need to notice it. It is red.</observation> <think>So.</think><answer>A</answer>"
    old, out = os.umask(0o022), tmp_path / "o"
    if made: out.mkdir(mode=0o755)
    try:
        err = io.StringIO()
        with serve(lambda b: trace if "frame" in str(b["messages"])[:99] or isinstance(b["messages"][0]["content"], list) else "So.\n<judgement>Yes</judgement>", faults=[echo]) as s, redirect_stderr(err), redirect_stdout(err):
            spec = f"openai:m@http://canary-me:canary-pw@{s.url[7:]}/canary-p1/v1?api_key=canary-q1"
            line = ["generate", "--records", tmp_path / "r.jsonl", "--media", tmp_path, "--out", out, "--teacher", spec, "--judge", f"{spec}+oracle+{spec}", "--frames", 2, "--workers", 1]
            codes = [main(list(map(str, line))), main(list(map(str, line)).__add__(["--dry-run"]))]
    finally: os.umask(old)
    assert codes == [0, 0]
    assert (out / "traces.jsonl").stat().st_size and b"canary" not in all_files(out).replace(b"sk-canary", b"") and "canary" not in (err.getvalue() + log.getvalue()).replace("sk-canary", ""), err.getvalue()
    found = modes(out)
    assert (out.stat().st_mode & 0o77 == 0) != made
    assert not {n: oct(m) for n, m in found.items() if m & 0o77 and n.split(".")[0] in ("traces", "verdicts", "replies", "kept", "rejected", "sft", "funnel") and not n.endswith("funnel.json")}
    assert {"traces.jsonl", "verdicts.jsonl", "replies.db", "kept.jsonl", "rejected.jsonl"} <= set(found)

@pytest.mark.skipif(os.name == "nt", reason="no such rights")
def test_caches_and_recorded_verdicts_are_their_owners_even_where_they_were_not(tmp_path):
    for name in ("c.db", "v.jsonl"): (tmp_path / name).touch(mode=0o644)
    cache = Cache(tmp_path / "c.db")
    cache.put("a", {})
    judge_of("oracle").recording(tmp_path / "v.jsonl")
    assert set(modes(tmp_path).values()) == {0o600}

def test_a_teacher_shows_its_chat_by_name_and_keeps_no_address():
    teacher = ChatTeacher(chat_of("openai:m@http://me:canary@h:1/canary/v1"))
    assert "canary" not in repr(teacher) + json.dumps(teacher.settings)

def test_a_moved_address_or_new_password_asks_nothing_again(tmp_path):
    with serve() as s:
        for place in ("http://me:one@{}/v1", "http://me:two@{}/v1", "http://{}/token/v1?key=3"): OpenAIChat("m", place.format(s.url[7:]), cache=Cache(tmp_path / "c"))(ASK)
        assert len(s.seen) == 1

def test_a_misplaced_address_is_not_quoted_by_the_command(capsys):
    with pytest.raises(SystemExit): main(["generate", "--records", "a", "--media", "b", "--out", "c", "--teacher", "openai:m", "openai:m@http://me:canary@h:1/v1"])
    assert "unrecognized arguments: openai:m@http://h:1" in capsys.readouterr().err

def test_a_server_that_writes_what_it_was_sent_into_its_reply_gives_nothing_away():
    with serve() as s:
        s.answer = lambda body: f"It is red. {s.seen[-1]['headers']} {s.seen[-1]['path']} A canary sings."
        text = OpenAIChat("m", f"http://me:canary-pw-01@{s.url[7:]}/canary/v1?key=canary-q-02")(ASK).text
    assert text.startswith("It is red.") and text.endswith("/canary/v1/chat/completions?[secret] A canary sings.") and text.count("canary") == 2
