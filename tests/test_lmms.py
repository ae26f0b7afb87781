"""Our model as one of lmms-eval's: what it answers without lmms-eval, and by lmms-eval's own command on a task of ours where VIDEOP2R_LMMS names a Python that holds both."""
import json, os, subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
import pytest
from PIL import Image
from videop2r.cot import SHORT, Prompt
from videop2r.data import Record, read_jsonl
from videop2r.engine.media import Reader
from videop2r.engine.rules import content_of
from videop2r.tools.lmms import VideoP2R, manifest
from videop2r.tools.predict import Decoding, Local

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
PYTHON = os.environ.get("VIDEOP2R_LMMS")
HOW = Decoding(frames=8, limit=96, batch=3)
TASK = Prompt("", {}, "{problem}\n{options}") # what the task writes; ours puts the template around it
RECORDS = [*filter(lambda record: record.data_type == "video", read_jsonl(SAMPLES / "heldout.jsonl"))][:7]

@pytest.fixture(scope="module")
def teacher(): return Local(SAMPLES / "teacher", HOW)

def question(record, name, **more): return name, [dict(role="user", content=[dict(type="video", url=str(SAMPLES / record.path), **more), dict(type="text", text=TASK.render(record))])]

def own(local, records, names):
    "What our evaluation is told, one question at a time."
    reader = Reader(SAMPLES, HOW.frames, HOW.pixels)
    asked = [replace(record, problem_id=name) for record, name in zip(records, names)]
    return [local([record], {(record.path, "[]"): reader.visual(record, local.policy.family)}, SHORT)[0]["response"] for record in asked]

def test_replies_are_those_of_our_evaluation_in_their_order(teacher):
    names = [f"tiny/test/{i}" for i in range(len(RECORDS))]
    asked = [question(record, name) for record, name in zip(RECORDS, names)]
    text_alone = ("sum/test/0", [dict(role="user", content="What is 2 + 2?")])
    lost = question(replace(RECORDS[0], path="clips/none.mp4"), "lost/test/0")
    two = ("two/test/0", [dict(role="user", content=[dict(type="image", url=Image.new("RGB", (56, 56)))] * 2)])
    with pytest.warns(UserWarning, match="2 of 10 questions have an empty reply.*two/test/0: asks about 2 media"):
        found = teacher.replies(iter([asked[0], two, lost, *asked[1:], text_alone]), replace(SHORT, answer_lines={}), raw=True)
    assert found[1:3] == ["", ""] and len(found) == 10
    assert [found[0], *found[3:-1]] == own(teacher, RECORDS, names) and all("<observation>" in text for text in found[3:-1])
    contents = teacher.replies(asked, SHORT)
    assert contents == [content_of(text) for text in [found[0], *found[3:-1]]] and not any("<" in text for text in contents)

def test_a_picture_in_memory_and_seconds_of_a_film(teacher):
    picture = ("image/test/0", [dict(role="user", content=[dict(type="image", url=Image.new("RGBA", (70, 40), "red")), dict(type="text", text="What colour?")])])
    assert len(teacher.replies([picture], SHORT)) == 1
    part = Record.from_messages(question(RECORDS[0], "part", start_time=1., end_time=2.)[1], "part")
    assert part.extra["clip"] == [1., 2.] and part.path == str(SAMPLES / RECORDS[0].path)

@pytest.mark.skipif(bool(find_spec("lmms_eval")), reason="not run: lmms-eval is here")
def test_without_lmms_eval_the_remedy_is_named():
    for use in (manifest, lambda: VideoP2R(str(SAMPLES / "base"))):
        with pytest.raises(ImportError, match=r"lmms-eval, which is not installed: pip install 'videop2r\[lmms\]'"): use()

TASKS = '''
import os
def doc_to_visual(doc): return [os.path.join(doc["media"], doc["path"])]
def doc_to_text(doc, lmms_eval_specific_kwargs=None): return doc["text"]
def process_results(doc, results): return dict(right=float(results[0].strip() == doc["answer"]))
def mean(values): return sum(values) / len(values)
'''
YAML = '''
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
task: tiny
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 16
process_results: !function utils.process_results
metric_list:
  - metric: right
    aggregation: !function utils.mean
    higher_is_better: true
'''

def logged(out):
    "The replies that lmms-eval wrote down, in the order of the questions, and its number."
    rows = [json.loads(line) for path in out.rglob("*samples_tiny*.jsonl") for line in path.read_text().splitlines()]
    texts = [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
    number = next(json.loads(path.read_text()) for path in out.rglob("*results.json"))["results"]["tiny"]["right,none"]
    return [text if isinstance(text, str) else text[0] for text in texts], number

@pytest.mark.skipif(not PYTHON, reason="not run: VIDEOP2R_LMMS names no Python with lmms-eval; `make parity` makes one")
def test_lmms_evals_own_command_runs_ours(teacher, tmp_path):
    home = tmp_path / "tasks/tiny"
    home.mkdir(parents=True)
    (home / "utils.py").write_text(TASKS)
    (home / "tiny.yaml").write_text(YAML.format(rows=home / "rows.json"))
    (home / "rows.json").write_text("\n".join(json.dumps(dict(media=str(SAMPLES), path=record.path, text=TASK.render(record), answer=record.truth)) for record in RECORDS))
    said = own(teacher, RECORDS, [f"tiny/test/{i}" for i in range(len(RECORDS))])
    args = f"pretrained={SAMPLES / 'teacher'},prompt=short,frames={HOW.frames},limit={HOW.limit}"
    command = [PYTHON, "-m", "lmms_eval", "--model", "videop2r", "--model_args", args, "--tasks", "tiny", "--include_path", str(tmp_path / "tasks"), "--batch_size", "3", "--output_path", str(tmp_path / "out"), "--log_samples"]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME",)} | dict(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(tmp_path / "home"), CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    right = sum(content_of(text).strip() == record.truth for text, record in zip(said, RECORDS)) / len(RECORDS)
    assert logged(tmp_path / "out") == ([content_of(text) for text in said], pytest.approx(right))
