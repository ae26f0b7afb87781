"Tables of questions become records, and every row that cannot be used is named."
import pytest
from videop2r.data import read_jsonl
from videop2r.tools.cli import main
from videop2r.tools.importing import import_table


def made(folder, text, code="utf-8", **kw):
    for name in ("a.mp4", "b.mp4"): (folder / name).write_bytes(b"")
    (folder / "q.csv").write_bytes(text.encode(code))
    return import_table(folder / "q.csv", folder, folder / "r.jsonl", **kw)


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_delimiters_and_encodings(tmp_path, code, mark):
    done = made(tmp_path, mark.join(["Question", "Video", "Answer"]) + "\n" + mark.join(["Wo läuft er?", "a.mp4", "über"]), code)
    assert not done.faults and read_jsonl(tmp_path / "r.jsonl")[0].problem == "Wo läuft er?" and done.unasked == ["b.mp4"]


@pytest.mark.parametrize("head,row,truth", [
    ("question,video,A,B,answer", "Who?,a.mp4,cat,dog,B", "B"), ("question,video,option_a,option_b,answer", "Who?,a.mp4,cat,dog,dog", "B"),
    ("question,video,options,answer", "Who?,a.mp4,cat|dog,A", "A"), ("question,video,answer", "How many?,a.mp4,3", "3")])
def test_options_and_answers(tmp_path, head, row, truth):
    done = made(tmp_path, f"{head}\n{row}\n")
    assert not done.faults and done.records[0].truth == truth


def test_rows_that_cannot_be_used_are_named(tmp_path):
    done = made(tmp_path, "question,clip,Lösung\nx?,a.mp4,nan\n,a.mp4,y\nz?,c.mp4,y\nz?,../q.csv,y\nz?,a.mp4,y,more\nz?,b.mp4,y\n", columns=dict(answer="Lösung"))
    assert len(done.records) == 1 and [fault.split(":")[0] for fault in done.faults] == [f"row {n}" for n in range(2, 7)]
    assert "column `Lösung`" in done.faults[0] and "column `question`" in done.faults[1] and "c.mp4" in done.faults[2]


def test_the_command(tmp_path, capsys):
    made(tmp_path, "was,clip,answer\nx?,a.mp4,y\n".replace("was", "question"))
    words = ["data", "import", str(tmp_path / "q.csv"), "--media", str(tmp_path), "--out", str(tmp_path / "r.jsonl")]
    assert main(words) == 0 and "1 records" in capsys.readouterr().out
    assert main([*words, "--columns", "question=no"]) and "the table's columns" in capsys.readouterr().err


def test_an_id_that_came_before_is_named(tmp_path):
    done = made(tmp_path, "id,question,clip,answer\n7,x?,a.mp4,y\n7,z?,b.mp4,y\n")
    assert len(done.records) == 1 and "column `id` is '7', which came before" in done.faults[0]


def test_a_table_is_not_overwritten(tmp_path):
    made(tmp_path, "question,clip,answer\nx?,a.mp4,y\n")
    with pytest.raises(ValueError, match="the table itself"): import_table(tmp_path / "q.csv", tmp_path, tmp_path / "q.csv")
