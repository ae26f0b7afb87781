"What other systems lack, taken away: modules and calls of POSIX, a console and files of UTF-8."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
POOR = """
import contextlib, io, json, multiprocessing, os, signal, sys, warnings
import torch, transformers, peft, accelerate  # the libraries guard their own use of it
sys.modules.update(dict.fromkeys(("resource", "pwd", "grp", "fcntl", "termios"), None))
for name in "pread preadv pwrite sysconf fork getuid geteuid sched_getaffinity killpg setsid statvfs".split():
    if hasattr(os, name): delattr(os, name)
for name in "SIGHUP SIGALRM SIGPIPE alarm setitimer".split():
    if hasattr(signal, name): delattr(signal, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
warnings.simplefilter("ignore")
warnings.filterwarnings("error", category=EncodingWarning, module="videop2r")
from videop2r.tools.cli import main

def run(args):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main(args)
        except SystemExit as e: code = e.code
    for stream in (out, err): stream.flush()
    return code, *(stream.buffer.getvalue().decode("cp1252") for stream in (out, err))

print(json.dumps([run(args) for args in json.load(sys.stdin)]))
"""

@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "Commands on such a system, by name: exit code, output, errors; and the folder they wrote to."
    out = tmp_path_factory.mktemp("elsewhere")
    rows = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text(encoding="utf-8").splitlines()[:6]]
    chinese = dict(rows[0], problem="视频里是什么？", problem_id="猫–1", path=str(SAMPLES / rows[0]["path"]))
    for name, held in (("猫.jsonl", [chinese]), ("few.jsonl", rows)):
        (out / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in held), encoding="utf-8")
    small = ["--media", SAMPLES, "--prompt", "short"]
    commands = dict(
        show=["data", "show", out / "猫.jsonl"], check=["data", "check", out / "猫.jsonl"],
        missing=["data", "check", out / "没有.jsonl"],
        stats=["data", "stats", out / "猫.jsonl"],
        convert=["data", "convert", out / "few.jsonl", "--form", "ours", "--out", out / "converted.jsonl"],
        audit=["data", "audit", out / "few.jsonl", "--media", SAMPLES, "--workers", 1, "--out", out / "audit"],
        plan=["plan", "--model", SAMPLES / "base", "--gpu", "24gb"],
        generate=["generate", "--records", out / "few.jsonl", *small, "--teacher", f"local:{SAMPLES / 'teacher'}", "--judge", "oracle",
                  "--how", "lenient", "--limit", 64, "--frames", 8, "--out", out / "traces"],
        sft=["sft", "--records", out / "traces/kept.jsonl", *small, "--model", SAMPLES / "base", "--preset", "tiny",
             "--steps", 1, "--batch", 2, "--frames", 2, "--out", out / "sft"])
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONWARNDEFAULTENCODING": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    given = json.dumps([list(map(str, command)) for command in commands.values()])
    done = subprocess.run([sys.executable, "-c", POOR], input=given, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(commands, json.loads(done.stdout.splitlines()[-1])), out=out)

@pytest.mark.parametrize("name", ["show", "check", "stats", "convert", "audit", "plan", "generate", "sft"])
def test_a_command_needs_no_posix(ran, name): assert ran[name][0] == 0, ran[name][2]

def test_a_console_shows_letters_that_it_lacks_as_numbers(ran):
    assert r"\u89c6\u9891" in ran["show"][1]
    assert ran["missing"][0] == 1 and r"\u6ca1\u6709.jsonl" in ran["missing"][2] and "Traceback" not in ran["missing"][2]

def test_memory_is_known_and_lines_end_as_elsewhere(ran):
    assert json.loads((ran["out"] / "sft/metrics.jsonl").read_text())["memory_gb"] > .05
    assert b"\r\n" not in (ran["out"] / "converted.jsonl").read_bytes()

def test_every_file_is_opened_in_utf_8():
    bare = re.compile(r"\.read_text\(|\.write_text\(|(?<![\w.])(?<!def )open\(")
    lines = [line for path in (ROOT / "videop2r").rglob("*.py") if path.name != "_modidx.py"
             for line in path.read_text(encoding="utf-8").splitlines() if bare.search(line)]
    assert [line for line in lines if "encoding=" not in line and not re.search(r"\"[rwa+]+b\"", line)] == []
