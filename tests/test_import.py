"The front door for one's own clips: tables as people keep them, read or refused by row, column and remedy."
import json, shutil
from pathlib import Path
import pytest
from videop2r.data import read_records
from videop2r.tools.cli import main
from videop2r.tools.importing import Imported, read_table

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
CLIP, STILL = (next((SAMPLES / "clips").glob(end)) for end in ("*.mp4", "*.png"))

@pytest.fixture
def media(tmp_path):
    folder = tmp_path / "media"
    (folder / "a").mkdir(parents=True)
    for name in ("one.mp4", "a/two.mp4", "a/drei Hunde.mp4"): shutil.copy(CLIP, folder / name)
    for name in ("pic.png", "called.mp4"): shutil.copy(STILL, folder / name)
    return folder

def table(folder, text, name="t.csv", encoding="utf-8"):
    path = folder.parent / name
    path.write_bytes(text.encode(encoding))
    return Imported.of(path, folder)

HEAD = "file,question,answer\n"

@pytest.mark.parametrize("text, encoding", [
    ("file,question,answer\none.mp4,What is it?,a cat\n", "utf-8"), ("file,question,answer\none.mp4,What is it?,a cat\n", "utf-8-sig"), ("file;question;answer\none.mp4;What is it?;a cat\n", "utf-8"),
    ("file\tquestion\tanswer\none.mp4\tWhat is it?\ta cat", "utf-8"), ("File Name|QUESTION|Ground_Truth\r\none.mp4|What is it?|a cat\r\n", "utf-8"), ("Datei;Frage;Antwort\none;What is it?;a cat\n", "utf-8"),
    ("file,question,answer\none.mp4,What is it?,a cat\n", "utf-16"), ('"file","question","answer"\n"one.mp4","What is it?","a cat"\n\n,,\n', "utf-8"), ("\nfile,question,answer,\none.mp4,What is it?,a cat,\n", "utf-8"),
    ("video,prompt,label,problem_id\n./one.mp4,x,y,z\none.mp4,What is it?,a cat,7\n", "utf-8")], ids=range(10))
def test_tables_in_many_forms(media, text, encoding):
    record = table(media, text, encoding=encoding).records[-1]
    assert (record.path, record.problem, record.truth, record.problem_type, record.data_type) == ("one.mp4", "What is it?", "a cat", "free-form", "video")

def test_another_code_page_is_read_and_said(media):
    done = table(media, HEAD + "one.mp4,Wo ist die Tür?,über dem Bett\n", encoding="cp1252")
    assert done.records[0].truth == "über dem Bett" and "cp1252" in done.notes[0]

@pytest.mark.parametrize("row, truth", [
    ('"A. left|B. right",B', "B"), ('"left|right",right', "B"), ('"left;right",2', "B"), ('"[""left"", ""right""]",A', "A"), ('"{""A"": ""left"", ""B"": ""right""}",B', "B"), ('"left\nright",left', "A"), ('"10|20",20', "B"), ('"left, right",B', "B")])
def test_options_in_one_cell_and_answers_by_letter_text_or_number(media, row, truth):
    record, = table(media, f"file,question,options,answer\none.mp4,Which?,{row}\n").records
    assert record.problem_type == "multiple choice" and record.truth == truth and len(record.options) == 2

def test_options_as_python_writes_a_list(media):
    rows = ["['left', 'right']", "['A. left', 'B. right']", "['left, then up', \"it's right\"]"]
    found = table(media, "file;question;options;answer\n" + "".join(f"one;Q;{options.replace(chr(34), chr(34) * 2).join([chr(34)] * 2)};B\n" for options in rows))
    assert [r.options for r in found.records] == [["left", "right"], ["A. left", "B. right"], ["left, then up", "it's right"]] and not found.rejected

@pytest.mark.parametrize("answers, truths", [("0123", "ABCD"), ("1234", "ABCD"), ("1123", "AABC"), ("0124", "-ABD")])
def test_answers_by_number_count_from_where_the_table_does(media, tmp_path, answers, truths):
    (tmp_path / "t.json").write_text(json.dumps([dict(id=i, video="one.mp4", question="Q", options=["red", "green", "blue", "grey"], answer=int(n)) for i, n in enumerate(answers)]))
    found = Imported.of(tmp_path / "t.json", media)
    known = {r.problem_id: r.truth for r in found.records}
    assert [known.get(str(i), "-") for i in range(4)] == list(truths) and any("counted from 0" in note for note in found.notes) == (answers == "0123")

@pytest.mark.parametrize("truth, read", [("3,5", "3.5"), ("-12,25", "-12.25"), ("0,125", "0.125"), ("1234,567", "1234.567"), ("1,234", "1,234"), ("12", "12"), ("2.5", "2.5")])
def test_a_decimal_comma_is_a_point(media, truth, read):
    [record] = table(media, f"file;question;answer\none;Q;{truth}\n").records
    assert (record.problem_type, record.truth) == ("numerical", read)

@pytest.mark.parametrize("head", ["A,B,C", "option_a,option_b,option_c", "choice1,choice2,choice3", "Option 1,Option 2,Option 3", "a0,a1,a2"])
def test_options_in_columns(media, head):
    done = table(media, f"file,question,{head},answer\none.mp4,Which?,red,green,blue,green\na/two.mp4,Which?,red,green,,A\npic.png,How many?,,,,3\n")
    assert [record.truth for record in done.records] == ["B", "A", "3"] and [len(record.options) for record in done.records] == [3, 2, 0]
    assert done.records[2].problem_type == "numerical" and done.records[2].data_type == "image"

@pytest.mark.parametrize("row, column, why", [
    ("none.mp4,Q,x", "file", "no file below"), (",Q,x", "file", "is empty; give the clip"), ("one.mp4,,x", "question", "is empty; give the question"), ("one.mp4,Q,", "answer", "is empty; give the answer"), ("one.mp4,Q,nan", "answer", "is empty"),
    ("one.mp4,Q,None", "answer", "is empty"), ("../one.mp4,Q,x", "file", "no file below"), ("one.mp4,Q,x,more", "", "has 4 cells")])
def test_a_row_that_cannot_be_used_is_named_and_costs_itself(media, row, column, why):
    done = table(media, HEAD + f"{row}\na/two.mp4,Fine?,yes\n")
    assert [record.problem for record in done.records][-1] == "Fine?"
    assert len(done.records) == 1 and [(bad["row"], bad["column"]) for bad in done.rejected] == [(2, column)] and why in done.rejected[0]["reason"]

def test_a_sign_that_nobody_sees_costs_no_row(media):
    done = table(media, HEAD + "one.mp4,Q \x00,x\n")
    assert [record.problem.strip(" \x00") for record in done.records] == ["Q"] and not done.rejected

def test_rows_keep_their_number_past_line_breaks_and_empty_rows(media):
    done = table(media, HEAD + '"one.mp4","two\nlines",x\n,,\nnone,Q,x\n')
    assert done.records[0].problem == "two\nlines" and done.rejected[0]["row"] == 4

def test_names_without_folder_or_ending_and_two_that_fit(media):
    shutil.copy(CLIP, media / "two.mp4")
    done = table(media, HEAD + "drei Hunde,Q,x\ntwo,Q,x\nTwo.mp4,Q,x\na\\two.mp4,Q,x\n")
    assert [record.path for record in done.records] == ["a/drei Hunde.mp4", "a/two.mp4"]
    assert "fits 2 files (a/two.mp4, two.mp4)" in done.rejected[0]["reason"] and done.unused == ["called.mp4", "one.mp4", "pic.png", "two.mp4"]

def test_a_still_is_told_by_its_bytes(media): assert table(media, HEAD + "called.mp4,Q,x\n").records[0].data_type == "image"

def test_ids_are_made_kept_and_named_where_they_stand_twice(media):
    done = table(media, "id,file,question,answer\nx,one.mp4,Q,y\nx,pic.png,Q,y\n,pic.png,Q,y\n3.0,pic.png,Q,y\n")
    assert [record.problem_id for record in done.records] == ["x", "t-00004", "3.0"] and "stands in row 2 too" in done.rejected[0]["reason"]

def test_types_as_people_write_them_and_one_that_is_none(media):
    done = table(media, "file,question,type,answer\none.mp4,Q,Open-Ended,y\none.mp4,Q,count,3\none.mp4,Q,ocr,AB\none.mp4,Q,essay,y\none.mp4,Q,numerical,many\n")
    assert [record.problem_type for record in done.records[:3]] == ["free-form", "numerical", "OCR"] and done.rejected[0]["column"] == "type" and "essay" in done.rejected[0]["reason"]

def test_formulas_numbers_and_further_columns_are_text(media):
    record, = table(media, "file,question,answer,level,nothing\none.mp4,=1+1,=HYPERLINK(1),hard,\n").records
    assert (record.problem, record.truth, record.extra) == ("=1+1", "=HYPERLINK(1)", dict(level="hard"))

@pytest.mark.parametrize("text, why", [("", "is empty"), ("\n\n", "is empty"), ("a,b,c\n1,2,3\n", "no column holds the question"), ("question,answer,answer\n", "two columns named 'answer'"), ("file,question\nx,y\n", "say which with --columns solution=NAME")])
def test_a_table_that_is_none_is_refused_with_a_remedy(media, text, why):
    with pytest.raises(ValueError, match=why): table(media, text)

def test_plain_objects_and_a_sheet_without_its_package(media, tmp_path):
    rows = [dict(video="one.mp4", question="Which?", options=["left", "right"], answer="right"), 7, dict(video="one.mp4", question="What?", answer=float("nan"))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = Imported.of(tmp_path / "t.jsonl", media)
    assert done.records[0].truth == "B" and [bad["row"] for bad in done.rejected] == [2, 3]
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(Exception, match="openpyxl|zip"): read_table(tmp_path / "t.xlsx")

def run(capsys, *words):
    code = main(["data", "import", *map(str, words)])
    return code, capsys.readouterr()

def test_the_command_writes_records_that_other_commands_take(media, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("clip,Was,Antwort\none.mp4,Was ist das?,ein Hund\nnone.mp4,Q,x\npic,Wie viele?,3\n")
    code, said = run(capsys, tmp_path / "t.csv", "--media", media, "--out", tmp_path / "r.jsonl")
    assert code == 1 and "no column holds the question" in said.err and "--columns problem=NAME" in said.err
    code, said = run(capsys, tmp_path / "t.csv", "--media", media, "--out", tmp_path / "r.jsonl", "--columns", "question=Was")
    assert code == 1 and "row 3, column 'clip': 'none.mp4' is no file below" in said.err and "| problem | Was |" in said.out
    assert [json.loads(line)["row"] for line in (tmp_path / "r.rejected.jsonl").read_text().splitlines()] == [3]
    assert run(capsys, tmp_path / "t.csv", "--media", media, "--out", tmp_path / "r.jsonl", "--columns", "question=Was", "--skip-bad")[0] == 0
    assert len(list(read_records(tmp_path / "r.jsonl"))) == 2 and main(["data", "check", str(tmp_path / "r.jsonl"), "--media", str(media)]) == 0

@pytest.mark.parametrize("words, why", [(["--columns", "Frage"], "give pairs"), (["--columns", "question=Q"], "no column 'Q'"), (["--columns", "colour=file"], "no such field")])
def test_a_wrong_word_is_named(media, tmp_path, capsys, words, why):
    (tmp_path / "t.csv").write_text(HEAD + "one.mp4,Q,x\n")
    try: code, said = run(capsys, tmp_path / "t.csv", "--media", media, "--out", tmp_path / "r.jsonl", *words)
    except SystemExit as e: code, said = e.code, capsys.readouterr()
    assert code in (1, 2) and why in said.err and not (tmp_path / "r.jsonl").exists()

def test_nothing_is_written_where_no_row_is_good(media, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(HEAD + "none,Q,x\n")
    code, said = run(capsys, tmp_path / "t.csv", "--media", media, "--out", tmp_path / "r.jsonl")
    assert code == 1 and "no row can be used (row 2, file:" in said.err and not (tmp_path / "r.jsonl").exists()

def test_the_table_itself_is_never_written_over(media, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text(json.dumps(dict(video="one.mp4", question="Q", answer="x")) + "\n")
    before = (tmp_path / "t.jsonl").read_text()
    code, said = run(capsys, tmp_path / "t.jsonl", "--media", media, "--out", tmp_path / "t.jsonl")
    assert code == 1 and "is the table itself" in said.err and (tmp_path / "t.jsonl").read_text() == before
