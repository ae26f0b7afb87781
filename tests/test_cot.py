"The template survives a round trip, each process answers for its own text, and no text is too strange or too long."
import copy, pickle, re, subprocess, sys, time, timeit
import pytest
from hypothesis import given, settings, strategies as st
from videop2r.engine.prose import sight
from videop2r.cot import SHORT, Prompt, _explain, boundary, example_record, four_rollouts, owners, parse, render
from videop2r.engine.paint import GROUND, WRONG

settings.register_profile("steady", deadline=None, database=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("steady")

O, T, A = "<observation>o</observation>", "<think>t</think>", "<answer>a</answer>"
PIECES = ["<observation>", "</observation>", "<think>", "</think>", "<answer>", "</answer>", " ", "\n", "word", "<", "</think", "é", "<Think>"]
messy = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
plain = st.text(alphabet=st.characters(blacklist_characters="<>", blacklist_categories=["Cs"]), min_size=1).filter(sight)


@given(plain, plain, plain)
def test_round_trip(o, t, a):
    trace = parse(render(o, t, a))
    assert trace.ok and (trace.observation, trace.think, trace.answer) == (o.strip(), t.strip(), a.strip())
    assert [trace.text[slice(*trace.spans[k])] for k in ("observation", "think", "answer")] == [o, t, a]


def filled(gaps, parts):
    "The template with these things between and inside its pairs."
    gap, part = st.sampled_from(gaps), st.one_of(plain, st.sampled_from(parts))
    return st.tuples(gap, part, gap, part, gap, part, gap).map(lambda p: "{}<observation>{}</observation>{}<think>{}</think>{}<answer>{}</answer>{}".format(*p))


well_formed = filled(["", " ", "\n\t", "\u2003"], ["a < b", "<Think>", "</think", "<", "\n b "])
near = filled(["", " ", "\n", "x"], ["a", "b", " ", "", "<answer>", "<Think>", "</think>"])


@given(well_formed | near | messy)
@settings(max_examples=500)
def test_the_quick_reader_and_the_explaining_one_agree(text):
    trace, slow = parse(text), _explain(text)
    assert trace == slow and list(trace) == list(slow)


@given(well_formed)
def test_a_well_formed_trace_renders_to_itself(text):
    "But for white space around the pairs, which is written once and then stays."
    trace = parse(text)
    assert trace.ok
    again = render(*trace)
    assert list(parse(again)) == list(trace) and parse(again).ok
    assert render(*parse(again)) == again
    outside = lambda t: re.sub(r"^\s+|(?<=</observation>)\s+|(?<=</think>)\s+|(?<=</answer>)\s+", "", t)
    assert outside(text) == outside(again)


@given(plain, plain, plain)
def test_what_is_rendered_comes_back_to_the_letter(o, t, a):
    text = render(o, t, a)
    assert render(*parse(text)) == text


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
        assert fault.split(":")[0] == fault.process and fault.process in ("perception", "reasoning")
        assert fault.rule in ("missing", "repeated", "stray", "order", "empty", "outside")
        assert fault.at is None or 0 <= fault.at <= len(text)
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
    (O + T + "<Answer>a</Answer>", True, False, None, "reasoning: no <answer>, only <Answer> at character 44"),
    (O + T + "<answer>a< /answer>", True, False, None, "reasoning: no </answer>, only < /answer> at character 53"),
    (O + "<think/>t</think>" + A, True, False, "a", "reasoning: no <think>, only <think/> at character 28"),
    ("<observation>o</ Observation >" + T + A, False, False, "a", "perception: no </observation>, only </ Observation >, so"),
    ("", False, False, None, "reasoning: no <think>"),
])
def test_malformed(text, perception, reasoning, answer, fault):
    t = parse(text)
    assert (t.perception_ok, t.reasoning_ok, t.answer) == (perception, reasoning, answer)
    assert any(f.startswith(fault) for f in t.faults) if fault else t.ok


HOSTILE = {  # a text of about n characters that a careless reader takes n² steps over
    "open": lambda n: "<observation>" * (n // 13),
    "closed": lambda n: "</answer>" * (n // 9),
    "brackets": lambda n: "<" * n,
    "nested": lambda n: "<observation><think><answer>" * (n // 58) + "</answer></think></observation>" * (n // 58),
    "pairs": lambda n: O + T + A * (n // 18),
    "nearly": lambda n: "<observatio><think </ answer>" * (n // 29),
    "almost tags": lambda n: O + "<think>" + "</think" * (n // 7),
    "spaces": lambda n: O + " " * n + T + " " * n + A + "x",
    "blank parts": lambda n: "<observation>" + " \n" * (n // 2) + "</observation>",
    "spaced brackets": lambda n: "< " * (n // 2) + "think>",
    "unclosed": lambda n: O + "<think>" + "word " * (n // 5),
    "well-formed": lambda n: O + f"<think>{'1 < 2 ' * (n // 6)}</think>" + A,
}


def seconds(text): return min(timeit.repeat(lambda: list(parse(text)), timer=time.process_time, number=1, repeat=5))


@pytest.mark.parametrize("family", HOSTILE)
def test_time_is_linear(family):
    "Sixteen times the text takes about sixteen times as long; 256 times would be quadratic, and caches and neighbours cost a factor of a few."
    seconds(HOSTILE[family](10_000))
    ratios = (seconds(HOSTILE[family](1_000_000)) / max(seconds(HOSTILE[family](62_500)), 1e-6) for _ in range(4))
    assert any(r < 80 for r in ratios)  # a busy machine may spoil one measurement, not four


def test_four_rollouts():
    traces = [parse(t) for t in four_rollouts()]
    assert [(t.perception_ok, t.reasoning_ok, t.answer) for t in traces] == [(True, True, "B"), (True, True, "A"), (True, True, "B"), (False, True, "B")]
    assert example_record().truth == "B"
    four_rollouts().clear()
    assert len(four_rollouts()) == 4


def test_display_escapes_and_colours():
    html = parse("<script>x</script>" + O)._repr_html_()
    assert "<script>" not in html and GROUND["perception"] in html and WRONG in html
    assert all("background:" in style for style in re.findall(r'style="([^"]*color:[^"]*)"', html))


def test_the_place_of_a_fault_is_marked():
    html = parse(O + "so " + T + A)._repr_html_()
    assert html.count("\u25b8") == 1 and html.index("\u25b8") < html.index("so ") and "text before" in html


def test_faults_survive_copies():
    fault = parse(O + T).faults[0]
    for again in (copy.deepcopy(fault), pickle.loads(pickle.dumps(fault))):
        assert again == fault and (again.process, again.rule, again.at) == ("reasoning", "missing", None)


def test_a_malformed_trace_does_not_render():
    for text in ("", O, O + T, T + A):
        with pytest.raises(ValueError, match="is empty"): render(*parse(text))


def test_prompts():
    record = example_record()
    assert SHORT.render(record).splitlines() == [record.problem, "Options:", "A. left", "B. right", "Observe, think, answer."]
    record.options, record.problem_type = [], "poem"
    assert SHORT.render(record).splitlines() == [record.problem, "Observe, think, answer."]
    with pytest.raises(ValueError, match="example.*'poem'"): Prompt().render(record)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"instructions": ""}', b'{"instruction": 1}', b'{"answer_lines": []}',
                                     b'{"answer_lines": {"poem": ""}}', b'{"answer_lines": {"OCR": null}}', b'{"layout": 1}', b'{"layout": "x"}', b""])
def test_bad_prompt_files_are_named(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mine.json"): Prompt.from_file(path)


@pytest.mark.parametrize("content, words", [(b"", "empty"), (b"\xff", "UTF-8"), (b"{problem} {question}", "'question'.*options"), (b"{problem} {", "double every brace"),
                                            (b"{problem} {0}", "'0'"), (b"{problem.x}{problem}", "problem.x")])
def test_bad_text_prompts_are_named(tmp_path, content, words):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"mine.txt: .*{words}"): Prompt.from_file(path)


def test_text_prompts(tmp_path):
    record, path = example_record(), tmp_path / "mine.md"
    path.write_text("\ufeffSee {{x}}.\n\n{problem}\n{options}\n{answer_line}\n", encoding="utf-8")
    assert Prompt.from_file(path).render(record).startswith("See {x}.\n\nWhich way does the red square move?\nOptions:\nA. left\nB. right\nInside")
    record.options = []
    assert "Options" not in Prompt.from_file(path).render(record)
    path.write_text('Reply as {"a": 1} does.')
    assert Prompt.from_file(path).render(record).splitlines()[1] == 'Reply as {"a": 1} does.'
    record.problem, record.problem_type = "What is {instruction}?", "OCR"  # braces of a question are its own
    assert Prompt("Look.").render(record).startswith("What is {instruction}?\nLook.")


def test_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, videop2r.cot, videop2r.scoring; assert 'torch' not in sys.modules"], check=True)
