"The machine's own faults while something is written, two processes on one folder, and children whose parent is gone."
import errno, io, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import psutil, pytest, torch
from patience import soon
from videop2r.engine import files
from videop2r.engine.audit import audit
from videop2r.engine.files import Journal, append, claimed, of_disk, replacing, replacing_folder
from videop2r.engine.runs import RunFolder, save_adapter
from videop2r.model import Policy, add_lora, load, merge_adapter
from videop2r.families import FAMILIES
from videop2r.tools.cli import main
from videop2r.tools.corpus import Subset

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"

@pytest.fixture
def full(monkeypatch): monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

@pytest.mark.parametrize("error", [RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), ValueError("I/O error"), OSError("no name")])
def test_a_full_disk_is_named_whatever_a_library_calls_it(tmp_path, full, error):
    with pytest.raises(OSError, match="No space left on device.*make room and run the same command again") as e:
        with replacing(tmp_path / "new/checkpoint.pt") as part:
            part.write_bytes(b"half")
            raise error
    assert e.value.errno == errno.ENOSPC and e.value.filename == str(tmp_path / "new/checkpoint.pt") and not list((tmp_path / "new").iterdir())

def test_an_error_of_another_kind_stays_itself(tmp_path):
    with pytest.raises(RuntimeError, match="mine"):
        with replacing(tmp_path / "a"): raise RuntimeError("mine")
    assert of_disk(RuntimeError("x"), tmp_path / "a").args == ("x",) and str(of_disk(ValueError("No space left on device (os error 28)"), tmp_path / "a")).count("No space") == 1

@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_row_that_cannot_be_written_leaves_nothing_and_names_the_file(tmp_path, number):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(dict(a=1))
    class Failing(io.FileIO):
        def write(self, data):
            super().write(data[:3])
            raise OSError(number, os.strerror(number))
    with Failing(tmp_path / "j.jsonl", "a") as file, pytest.raises(OSError, match="the row was not kept: make room") as e: append(file, [dict(b=2)])
    assert e.value.errno == number and e.value.filename == str(tmp_path / "j.jsonl") and Journal(tmp_path / "j.jsonl").rows == [dict(a=1)]

def test_an_adapter_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, full):
    model = add_lora(load(SAMPLES / "base"), FAMILIES["qwen2_5_vl"], rank=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
        save_adapter(model, tmp_path / "last", card="a card")
    before = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()}
    def fails(*args, **kw):
        (Path(args[0]) / "half").parent.mkdir(parents=True, exist_ok=True)
        raise RuntimeError("I/O error")
    model.save_pretrained = fails
    with pytest.raises(OSError, match="No space left") as e: save_adapter(model, tmp_path / "last", card="another")
    assert e.value.filename == str(tmp_path / "last") and [path.name for path in tmp_path.iterdir()] == ["last"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()} == before

@pytest.mark.parametrize("work", [
    lambda out: audit(SAMPLES, [], out, quiet=True), lambda out: Subset.draw(SAMPLES / "train.jsonl", 2, out),
    lambda out: RunFolder(out, dict(a=1)).__enter__(), lambda out: main(["data", "subset", str(SAMPLES / "train.jsonl"), "-n", "2", "--out", str(out)])])
def test_a_folder_in_use_is_refused_and_one_of_the_dead_is_not(tmp_path, work, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.lock").write_text("left by the dead")
    with claimed(tmp_path / "out"):
        try: code = work(tmp_path / "out")
        except RuntimeError as e: assert "another process is at work" in str(e)
        else: assert code == 1 and "another process is at work" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock"]
    found = work(tmp_path / "out")
    if isinstance(found, RunFolder): found.__exit__()

CHILD = """
import multiprocessing, sys, time
from pathlib import Path
from videop2r.engine.runs import end_with_parent
def work(path):
    end_with_parent()
    Path(path).write_text(str(multiprocessing.current_process().pid))
    time.sleep(1200)
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],)).start()
    time.sleep(1200)
"""

@pytest.mark.skipif(os.name != "posix", reason="kills by SIGKILL")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "run.py").write_text(CHILD)
    parent = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "pid"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert soon(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    def ended(): return not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert soon(ended), f"child {child} outlives its parent"

# ---- folders, and what was written beside them

def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a") as part:
        (part / "new.txt").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "old.txt"]
    real = Path.rename
    def failing(self, target):
        if self.name.endswith(".part"): raise OSError(5, "Input/output error", str(self))
        return real(self, target)
    with monkeypatch.context() as m:
        m.setattr(Path, "rename", failing)
        with pytest.raises(OSError), replacing_folder(tmp_path / "a") as part: (part / "new.txt").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "old.txt"]
    with replacing_folder(tmp_path / "a") as part: (part / "new.txt").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "new.txt"]

def test_a_merged_checkpoint_is_whole_or_not_there_and_writes_over_nothing(tmp_path, monkeypatch):
    model = add_lora(load(SAMPLES / "base"), FAMILIES["qwen2_5_vl"], rank=2)
    save_adapter(model, tmp_path / "adapter", "policy")
    with monkeypatch.context() as m:
        def full(*args, **kw): raise OSError(28, "No space left on device")
        m.setattr("videop2r.tokens.Coder.load", full)
        with pytest.raises(OSError): merge_adapter(SAMPLES / "base", tmp_path / "adapter", tmp_path / "merged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    merge_adapter(SAMPLES / "base", tmp_path / "adapter", tmp_path / "merged")
    for out in ("merged", "adapter"):
        with pytest.raises(ValueError, match="holds files already; give another folder"): merge_adapter(SAMPLES / "base", tmp_path / "adapter", tmp_path / out)
    assert Policy.load(tmp_path / "merged").family.name == Policy.load(SAMPLES / "base").family.name

def test_a_plot_that_cannot_be_written_leaves_nothing(tmp_path, capsys):
    records = str(SAMPLES / "train.jsonl")
    assert main(["data", "stats", records, "--plot", str(tmp_path / "words.pdf")]) == 0 and (tmp_path / "words.pdf").read_bytes().startswith(b"%PDF")
    assert main(["data", "stats", records, "--plot", str(tmp_path / "words.nothing")]) == 1
    assert "nothing" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["words.pdf"]
