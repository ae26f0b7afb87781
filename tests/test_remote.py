"Every fault of a server ends in a reply with a reason; keys show nowhere; what was paid for is kept."
import io, json, logging, re, subprocess, sys, threading, traceback
from concurrent.futures import ThreadPoolExecutor
import pytest
pytest.importorskip("openai")
pytest.importorskip("anthropic")
from loopback import serve
from storm import storm
from videop2r.engine.remote import AnthropicChat, Cache, OpenAIChat, Reply

ASK = [dict(role="system", content="Be brief."), dict(role="user", content="Where?")]
KINDS = dict(openai=lambda url, **kw: OpenAIChat("m", f"{url}/v1", **kw), anthropic=lambda url, **kw: AnthropicChat("m", url, **kw))


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"): monkeypatch.setenv(name, "sk-canary-0123456789")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault, why", [("401", "401"), ("500", "500"), ("503", "503"), ("drop", "Connection"), ("hang", "Timeout|timed out"), ("malformed", "malformed"), ("other", "malformed"), ("null", "malformed"),
                                        ("bytes", "malformed|Decode"), ("empty", "empty"), ("cut", "cut off at 3 tokens")])
def test_each_fault_has_its_reason_and_spoils_nothing(kind, fault, why):
    with serve(faults=[fault]) as s:
        first, second = (KINDS[kind](s.url, retries=0, timeout=wait, price=(1., 2.))(ASK) for wait in (1. if fault == "hang" else 60., 60.))
    assert first.text is None and re.search(why, first.reason), first
    assert first.cost == (pytest.approx(13e-6) if fault in ("cut", "empty") else 0)
    assert second == Reply("fine", "", 7, 3, pytest.approx(13e-6), second.seconds)


@pytest.mark.parametrize("kind, faults", [
    *((kind, faults) for kind in KINDS for faults in (["500"], ["503", "drop"], ["429"])), ("openai", ["hang", "500"]),
    pytest.param("anthropic", ["hang", "500"], marks=storm)],
    ids=lambda given: given if isinstance(given, str) else "+".join(given))
def test_passing_faults_are_retried(kind, faults):
    with serve(faults=faults, slow=60.) as s:
        assert KINDS[kind](s.url, retries=3, timeout=5. if "hang" in faults else 600.)(ASK).text == "fine"
        assert len(s.seen) == len(faults) + 1
        if faults == ["429"]: assert s.seen[1]["time"] - s.seen[0]["time"] > .95 # as Retry-After asks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["401", "500", "drop", "malformed", "429"])
def test_keys_show_nowhere(kind, fault, tmp_path):
    log, cache = io.StringIO(), Cache(tmp_path / "c.db")
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        with serve(faults=[fault] * 2) as s:
            chat = KINDS[kind](s.url, retries=0, timeout=600., cache=cache)
            told = [repr(chat), str(chat), chat.name, repr(chat(ASK)), repr(chat(ASK)), repr(chat(ASK))]
            sent = json.dumps(s.seen[0]["headers"])
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
    assert "sk-canary" in sent and "sk-canary" not in "".join(told) + log.getvalue()
    assert not any(b"sk-canary" in f.read_bytes() for f in tmp_path.iterdir())


@pytest.mark.parametrize("make", [OpenAIChat, AnthropicChat])
def test_no_key_is_said_at_once(make, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match="MY_KEY is not set"): make("m", key="MY_KEY")(ASK)
    with serve() as s: assert make("m", s.url + "/v1" * (make is OpenAIChat), key="MY_KEY")(ASK).text == "fine" # a server of one's own


def test_pictures_and_system_words_reach_both_protocols():
    ask = [ASK[0], dict(role="user", content=[dict(type="image_url", image_url=dict(url="data:image/png;base64,AAAA")), dict(type="text", text="What?")])]
    with serve() as s:
        for make in KINDS.values(): assert make(s.url)(ask).text == "fine"
        openai, anthropic = (x["body"] for x in s.seen)
    assert openai["messages"] == ask and openai["temperature"] == 0 and openai["max_tokens"] == 1024
    assert anthropic["system"] == "Be brief." and "temperature" not in anthropic
    assert anthropic["messages"] == [dict(role="user", content=[dict(type="image", source=dict(type="base64", media_type="image/png", data="AAAA")), dict(type="text", text="What?")])]
    with serve() as s, pytest.raises(ValueError, match="video_url"): AnthropicChat(base_url=s.url)([dict(role="user", content=[dict(type="video_url", video_url=dict(url="x"))])])


def test_the_default_model_is_not_retired():
    from typing import get_args
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from anthropic.types.model import Model
    name = AnthropicChat().model
    assert name not in DEPRECATED_MODELS and name in str(get_args(Model))


def test_what_was_paid_for_is_asked_once(tmp_path):
    cache = Cache(tmp_path / "c.db")
    with serve(faults=["500", "cut"]) as s:
        chat = OpenAIChat("m", f"{s.url}/v1", retries=0, price=(1., 1.), cache=cache)
        replies = [chat(ASK) for _ in range(3)]
        assert [r.cached for r in replies] == [False, False, True] and len(s.seen) == 2 and len(cache) == 1
        assert replies[2].reason == "cut off at 3 tokens" and replies[2].cost == 0 # a fault is asked again, a paid reply is not
        for other in (dict(max_tokens=9), dict(temperature=1.), dict(extra=dict(seed=1))): OpenAIChat("m", f"{s.url}/v1", cache=cache, **other)(ASK)
        assert len(s.seen) == 5 and len(cache) == 4


WRITER = "import sys; from videop2r.engine.remote import Cache\nc = Cache(sys.argv[1])\nfor i in range(300): c.put(f'{sys.argv[2]}-{i}', dict(i=i))"

def test_a_cache_is_shared_by_processes_and_threads(tmp_path):
    path = str(tmp_path / "c.db")
    running = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(k)]) for k in range(3)]
    cache = Cache(path)
    with ThreadPoolExecutor(4) as pool: list(pool.map(lambda i: cache.put(f"t-{i}", dict(i=i)), range(200)))
    running[0].kill()
    for p in running: p.wait(600)
    assert [p.returncode for p in running[1:]] == [0, 0]
    assert all(cache.get(f"{k}-{i}") == dict(i=i) for k in (1, 2) for i in range(300)) and all(cache.get(f"t-{i}") == dict(i=i) for i in range(200))


def test_keys_depend_on_content_alone():
    assert Cache.key(dict(a=1, b=[2])) == Cache.key(dict(b=[2], a=1)) != Cache.key(dict(a=1, b=[3])) and Cache.key("a", "b") != Cache.key("ab")


def test_no_torch():
    assert subprocess.run([sys.executable, "-c", "import sys, videop2r.engine.remote; print('torch' in sys.modules, 'openai' in sys.modules)"], capture_output=True, text=True).stdout.strip() == "False False"
