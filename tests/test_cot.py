"The template survives a round trip, each process answers for its own text, and no text is too strange or too long."
import re, subprocess, sys, time
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.cot import COLOURS, SHORT, Prompt, boundary, example_record, four_rollouts, owners, parse, render

settings.register_profile("steady", deadline=None, database=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("steady")

O, T, A = "<observation>o</observation>", "<think>t</think>", "<answer>a</answer>"
PIECES = ["<observation>", "</observation>", "<think>", "</think>", "<answer>", "</answer>", " ", "\n", "word", "<", "</think", "é", "<Think>"]
messy = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
plain = st.text(alphabet=st.characters(blacklist_characters="<>", blacklist_categories=["Cs"]), min_size=1).filter(str.strip)


@given(plain, plain, plain)
def test_round_trip(o, t, a):
    trace = parse(render(o, t, a))
    assert trace.ok and (trace.observation, trace.think, trace.answer) == (o.strip(), t.strip(), a.strip())
    assert [trace.text[slice(*trace.spans[k])] for k in ("observation", "think", "answer")] == [o, t, a]


@given(messy)
def test_ok_agrees_with_a_regular_expression(text):
    "The whole template as one expression that forbids tags inside: slow on hostile text, but independent."
    inside = r"(?:(?!</?(?:observation|think|answer)>).)*?"
    part = lambda name: rf"\s*<{name}>(?=\s*(?!</{name}>)\S){inside}</{name}>\s*"
    whole = re.compile(part("observation") + part("think") + part("answer"), re.S)
    assert parse(text).ok == bool(whole.fullmatch(text))


@given(messy)
def test_segments_are_total(text):
    "Every character has an owner, and both own it only where there is no boundary."
    (a, b), (c, d) = owners(text).values()
    assert (a, d) == (0, len(text))
    assert b == c if boundary(text) is not None else (b, c) == (len(text), 0)


@given(messy, messy)
def test_what_follows_the_boundary_is_no_fault_of_perception(one, two):
    start = "<observation>" + one.replace("</observation>", "") + "</observation>"
    assert [f for f in parse(start + two).faults if f.startswith("perception")] == [f for f in parse(start).faults if f.startswith("perception")]


@given(messy)
def test_faults_name_a_process_and_a_true_place(text):
    for fault in parse(text).faults:
        assert fault.split(":")[0] in ("perception", "reasoning")
        if m := re.search(r"(</?\w+>) (?:again|out of order) at character (\d+)$|stray (</?\w+>) at character (\d+)$", fault):
            assert text.startswith(m[1] or m[3], int(m[2] or m[4]))


@given(messy)
def test_well_formed_processes_have_their_parts(text):
    t = parse(text)
    if t.perception_ok: assert t.observation
    if t.reasoning_ok: assert t.think and t.answer
    assert t.ok == (t.perception_ok and t.reasoning_ok)


@pytest.mark.parametrize("text, perception, reasoning, answer, fault", [
    (O + T + A, True, True, "a", None),
    (f"\n{O}\n{T}\n{A}\n", True, True, "a", None),
    (T + A, False, True, "a", "perception: no </observation>"),
    ("o</observation>" + T + A, False, True, "a", "perception: no <observation>"),
    ("Hi " + O + T + A, False, True, "a", "perception: text before <observation> at character 0"),
    ("<observation> </observation>" + T + A, False, True, "a", "perception: <observation> is empty at character 13"),
    ("<observation>" + O + T + A, False, True, "a", "perception: <observation> again at character 13"),
    (O + T, True, False, None, "reasoning: no <answer>"),
    (O + A, True, False, "a", "reasoning: no <think>"),
    (O + "<think>t" + A, True, False, "a", "reasoning: no </think>"),
    (O + A + T, True, False, None, "reasoning: <answer> out of order at character 28"),
    (O + T + A + "!", True, False, "a", "reasoning: text after </answer> at character 62"),
    (O + "so " + T + A, True, False, "a", "reasoning: text before <think> at character 28"),
    (O + T + "so" + A, True, False, "a", "reasoning: text before <answer> at character 44"),
    (O + T + A + A, True, False, None, "reasoning: <answer> again at character 62"),
    (O + O + T + A, True, False, "a", "reasoning: stray <observation> at character 28"),
    (O + f"<think>not {A} but</think><answer>b</answer>", True, False, "b", "reasoning: <answer> again at character 69"),
    (O + T + "<answer>a", True, False, None, "reasoning: no </answer>"),
    (O + T + "<Answer>a</Answer>", True, False, None, "reasoning: no <answer>"),
    ("", False, False, None, "reasoning: no <think>"),
])
def test_malformed(text, perception, reasoning, answer, fault):
    t = parse(text)
    assert (t.perception_ok, t.reasoning_ok, t.answer) == (perception, reasoning, answer)
    assert any(f.startswith(fault) for f in t.faults) if fault else t.ok


@pytest.mark.parametrize("piece", PIECES[:6] + ["<observation></observation>", "<think></think>", "<answer>a</answer>", "<", " "])
def test_time_is_linear(piece):
    start = time.perf_counter()
    parse(piece * 100_000)
    assert time.perf_counter() - start < 2  # a quadratic reader takes minutes


def test_four_rollouts():
    traces = [parse(t) for t in four_rollouts()]
    assert [(t.perception_ok, t.reasoning_ok, t.answer) for t in traces] == [(True, True, "B"), (True, True, "A"), (True, True, "B"), (False, True, "B")]
    assert example_record().truth == "B"
    four_rollouts().clear()
    assert len(four_rollouts()) == 4


def test_display_escapes_and_colours():
    html = parse("<script>x</script>" + O)._repr_html_()
    assert "<script>" not in html and COLOURS["perception"] in html
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in COLOURS.values())


def test_prompts():
    record = example_record()
    assert SHORT.render(record).splitlines() == [record.problem, "Options:", "A. left", "B. right", "Observe, think, answer."]
    record.options, record.problem_type = [], "poem"
    assert SHORT.render(record).splitlines() == [record.problem, "Observe, think, answer."]
    with pytest.raises(ValueError, match="example.*'poem'"): Prompt().render(record)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"instructions": ""}', b'{"instruction": 1}', b'{"answer_lines": []}',
                                     b'{"answer_lines": {"poem": ""}}', b'{"answer_lines": {"OCR": null}}'])
def test_bad_prompt_files_are_named(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mine.json"): Prompt.from_file(path)


def test_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, videop2r.cot, videop2r.scoring; assert 'torch' not in sys.modules"], check=True)
