"""Small files in every official form, made here: read to one record, counted, refused where they are another's, and scored to values computed by hand."""
import io, json, shutil, sys
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from videop2r.benchmarks import Predictions, differences, mark_all, read_predictions, score_all
from videop2r.engine.suites import _FIELD, SUITE_READERS, SuiteReader, Within, check_media, read_suite, suite_prompt
from videop2r.cot import SHORT, Prompt
from videop2r.data import Record
from videop2r.families import FAMILIES
from videop2r.video import VideoError

def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in value))
    return path

def parquet(path, rows):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(arrow.Table.from_pylist(rows), path)
    return path

VSI = [dict(id=i, dataset="scannet", scene_name=f"scene{i:04d}_00", question_type=task, question="How many lamps?", ground_truth=truth, options=options)
       for i, (task, truth, options) in enumerate([("object_counting", "4", None), ("room_size_estimation", "10", None), ("route_planning", "B", ["A. left", "B. right"]),
                                                   ("object_rel_direction_easy", "A", ["A. left", "B. right"]), ("object_rel_direction_hard", "B", ["A. left", "B. right"])])]
MMMU = dict(id="validation_Physics_9", question="<image 1> Which slope is steeper?", options=["left", "right"], answer="B", question_type="multiple-choice")
MMVU = [dict(id="validation_9001", video="x/videos/Computer_Science/77.mp4", question_type="multiple-choice", metadata={"subject": "Computer Science"}, question="Which?", choices=dict(A="a", B="b", C="c", D="d", E="e"), answer="C"),
        dict(id="validation_9002", video="x/videos/Law/8.mp4", question_type="open-ended", metadata={}, question="What?", choices=dict.fromkeys("ABCDE", ""), answer="12 kg")]
VCR = [dict(id=1, video_path="video/Toy/walk #2.mp4", duration=31, dimension="Temporal Spatial Reasoning", question="Which?", choices=dict(A="x", B="y", C="", D=""), answer="B", **{"multiple-choice": True}),
       dict(id=2, video_path="video/Toy/run.mp4", duration=400, dimension="Grounding", question="When?", choices={}, answer="[10, 20]", **{"multiple-choice": False})]
MV = dict(video="ABCDE.mp4", question="What happened?", candidates=["Sat down.", "Left."], answer="Left.", start=3.2, end=9.0)
TC = {"multi-choice": dict(question="How fast is it?\nA. fast\nB. slow", answer="B. slow"), "yes_no": dict(question="Is it fast?", answer="no"),
      "caption_matching": dict(question="Which fits?\nCaption A: a dog\nCaption B: a cat", answer="Caption B: a cat"), "captioning": dict(question="Describe it.", answer="B", mc_question="How fast?\nA. fast\nB. slow", mc_answer="B. slow")}
MME = [dict(video_id="901", duration=d, domain="Knowledge", sub_category="Law", url="", videoID=f"-abc{i}", question_id=f"901-{i}", task_type="Counting Problem", question="How many?", options=["A. 1.", "B. 2.", "C. 3.", "D. 4."], answer="B") for i, d in enumerate(("short", "short", "long"))]

def test_vsi_bench_as_lines_and_as_a_parquet(tmp_path):
    found = read_suite("vsi-bench", write(tmp_path / "test.jsonl", VSI))
    assert [r.problem_type for r in found.records] == ["regression"] * 2 + ["multiple choice"] * 3 and not found.faults
    assert found.records[0].path == "scannet/scene0000_00.mp4" and found.records[0].extra["group"] == dict(task="object_counting", scenes="scannet")
    assert "5 questions, which is no known set: 5,130 (full)" in found.variant
    again = read_suite("vsi-bench", parquet(tmp_path / "p" / "test_debiased.parquet", VSI))
    assert [r.path for r in again.records] == [r.path for r in found.records] and again.variant.startswith("debiased, 5 questions")

def test_video_mmmu_keeps_its_tracks_and_the_picture(tmp_path):
    for track in ("Adaptation", "Comprehension", "Perception"): parquet(tmp_path / track / "test-00000-of-00001.parquet", [dict(MMMU, image=dict(bytes=b"", path="validation_Physics_9.png"))] if track == "Adaptation" else [MMMU])
    found = read_suite("video-mmmu", tmp_path).records
    assert [r.extra["group"]["track"] for r in found] == ["Adaptation", "Comprehension", "Perception"] and {r.path for r in found} == {"Science/validation_Physics_9.mp4"}
    assert found[0].extra["image"] == "validation_Physics_9.png" and found[0].extra["last"] and "last" not in found[1].extra
    assert found[0].options == ["A. left", "B. right"] and found[0].answer == "B" and len({r.problem_id for r in found}) == 3
    assert len(_FIELD) == 30

def test_mmvu_and_its_hidden_split(tmp_path):
    found = read_suite("mmvu", write(tmp_path / "validation.json", MMVU))
    assert [(r.problem_type, r.path, r.extra["group"]["subject"]) for r in found.records] == [("multiple choice", "videos/Computer_Science/77.mp4", "Computer Science"), ("open", "videos/Law/8.mp4", "Law")]
    assert found.records[0].extra["group"]["discipline"] == "Engineering"
    with pytest.raises(ValueError, match="test split is hidden"): read_suite("mmvu", write(tmp_path / "test.json", [dict(MMVU[0], answer="")]))

def test_vcr_bench_as_json_and_as_a_table(tmp_path):
    found = read_suite("vcr-bench", write(tmp_path / "input.json", VCR)).records
    assert [(r.problem_type, r.answer, r.extra["group"]["length"]) for r in found] == [("multiple choice", "B", "up to 60 s"), ("open", "[10, 20]", "longer")]
    assert found[0].path == "video/Toy/walk #2.mp4" and found[0].options == ["A. x", "B. y"]
    (tmp_path / "VCR-Bench.tsv").write_text("index\tquestion\tanswer\tdimension\tduration\tvideo_path\n7\tWhen?\t[10, 20]\tGrounding\t70\tvideo/Toy/run.mp4\n")
    table = read_suite("vcr-bench", tmp_path / "VCR-Bench.tsv").records
    assert [(r.problem_id, r.problem_type, r.extra["group"]["length"]) for r in table] == [("7", "open", "up to 300 s")]

def test_mvbench_has_bounds_folders_and_no_collisions(tmp_path):
    for task in ("action_sequence", "episodic_reasoning", "object_shuffle", "object_existence"): write(tmp_path / "json" / f"{task}.json", [dict(MV, video="video_7.mp4" if task[0] == "o" else MV["video"], **({} if task[0] in "ae" else dict(start=None, end=None)))])
    found = {r.extra["group"]["task"]: r for r in read_suite("mvbench", tmp_path / "json").records}
    assert found["action_sequence"].path == "star/Charades_v1_480/ABCDE.mp4" and found["action_sequence"].extra["clip"] == [3.2, 9]
    assert found["episodic_reasoning"].extra["frames"] == dict(fps=3., first=1)
    assert (found["object_shuffle"].path, found["object_existence"].path) == ("perception/videos/video_7.mp4", "clevrer/video_validation/video_7.mp4")
    cut = read_suite("mvbench", write(tmp_path / "test.json", dict(root={"action_sequence": "star/Charades_segment/"}, meta={"action_sequence": [MV]}))).records
    assert cut[0].path == "star/Charades_segment/ABCDE.mp4" and "clip" not in cut[0].extra
    one = read_suite("mvbench", write(tmp_path / "one" / "counterfactual_inference.json", [dict(MV, candidates=["Left."])])).records
    assert one[0].options == ["A. Left."] and one[0].answer == "A"

def test_tempcompass_from_its_repository_and_from_the_hub(tmp_path):
    for task, row in TC.items(): write(tmp_path / "questions" / f"{task}.json", {"555_reverse": {"speed": [row]}})
    found = {r.extra["group"]["task"]: r for r in read_suite("tempcompass", tmp_path / "questions").records}
    assert {task: r.answer for task, r in found.items()} == {"multi-choice": "B", "yes_no": "no", "caption_matching": "Caption B: a cat", "captioning": "B"}
    assert found["multi-choice"].options == ["A. fast", "B. slow"] and found["multi-choice"].problem == "How fast is it?"
    assert {r.path for r in found.values()} == {"videos/555_reverse.mp4"} and found["yes_no"].extra["group"]["base"] == "555"
    for task, row in TC.items(): parquet(tmp_path / "hub" / task / "test.parquet", [dict(row, video_id="555", dim="speed")])
    assert sorted(r.problem_type for r in read_suite("tempcompass", tmp_path / "hub").records) == ["caption matching", "captioning", "multiple choice", "yes or no"]

def test_video_mme_takes_ids_that_begin_with_a_dash(tmp_path):
    found = read_suite("video-mme", parquet(tmp_path / "test-00000-of-00001.parquet", MME)).records
    assert found[0].path == "videos/-abc0.mp4" and found[2].extra["group"]["duration"] == "long"

def r1(**more): return dict(problem_id=1, problem="Which?", data_type="video", problem_type="multiple choice", original_question_type="order", options=["A. red", "B. blue"], process="", solution="<answer>B</answer>", path="./clips/k.mp4", data_source="Toy") | more

R1 = {"vsi-bench": r1(path="./arkitscenes/41.mp4", options=None, problem_type="regression", solution="<answer>3</answer>", original_question_type="object_counting"),
      "video-mmmu": r1(path="./validation_Art_Theory_3.mp4"), "mmvu": r1(path="./videos/Chemistry/0.mp4"), "vcr-bench": r1(path="video/x/y.mp4", data_source="VCR-Bench", options=[], problem_type="open-ended", solution="<answer>Kitchen</answer>"),
      "mvbench": r1(problem_id=450, video="a.mp4", question="Which?", answer="blue", path="./sta/sta_video/a.mp4", start=1., end=4.), "tempcompass": r1(path="./videos/1034419625_reverse.mp4"),
      "video-mme": r1(videoID="x", question_id="1-1", duration="short", domain="d", sub_category="s", task_type="t", question="Which?", answer="B", path="./videos/x.mp4")}

@pytest.mark.parametrize("benchmark", SUITE_READERS)
def test_the_json_of_video_r1_is_read_and_that_of_another_refused(benchmark, tmp_path):
    found = read_suite(benchmark, write(tmp_path / f"{benchmark}.json", [R1[benchmark]])).records[0]
    assert not found.path.startswith(".") and found.extra["benchmark"] == benchmark
    for other in SUITE_READERS:
        if other in (benchmark, "tempcompass"): continue
        with pytest.raises(ValueError, match=f"is no file of {other}.*give "): read_suite(other, tmp_path / f"{benchmark}.json")

def test_lost_keys_are_put_back(tmp_path):
    assert read_suite("mvbench", write(tmp_path / "m.json", [R1["mvbench"]])).records[0].extra["group"] == dict(task="action_localization")
    rows = [dict(R1["video-mmmu"], problem_id=i, path=f"./validation_Art_Theory_{i % 300}.mp4") for i in range(900)]
    tracks = [r.extra["group"]["track"] for r in read_suite("video-mmmu", write(tmp_path / "v.json", rows)).records]
    assert tracks == ["Adaptation"] * 300 + ["Comprehension"] * 300 + ["Perception"] * 300
    short = read_suite("video-mmmu", write(tmp_path / "w.json", rows[:5]))
    assert "track" not in short.records[0].extra["group"] and "no known set" in short.variant
    assert read_suite("mmvu", write(tmp_path / "u.json", [R1["mmvu"]])).records[0].extra["group"] == dict(subject="Chemistry", discipline="Science")

def test_a_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'videop2r\[parquet\]', or give the JSON"): read_suite("video-mme", tmp_path / "test.parquet")

def test_a_bad_row_costs_itself(tmp_path):
    rows = [*VSI, dict(VSI[0]), dict(VSI[1], id=77, question=None), dict(VSI[2], id=78, ground_truth="F"), "text"]
    found = read_suite("vsi-bench", write(tmp_path / "test.jsonl", rows))
    assert len(found.records) == 5 and [f.split(": ", 1)[0] for f in found.faults] == [f"test.jsonl:{i}" for i in (6, 7, 8, 9)]
    with open(tmp_path / "test.jsonl", "a") as file: file.write('{"id": 9')
    assert len(read_suite("vsi-bench", tmp_path / "test.jsonl").faults) == 5

@pytest.mark.parametrize("content", ["", "[", "{}", "[1, 2]", '{"a": 1}', '{"a": {"b": 3}}', "null"])
def test_a_file_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="give "): read_suite("tempcompass", tmp_path / "x.json")

def test_missing_media_are_named_with_known_gaps(tmp_path):
    records = [Record(path="nturgbd/a.mp4"), Record(path="nturgbd/a.mp4"), Record(path="ssv2_video/1.webm"), Record(path="../out.mp4")]
    with pytest.raises(ValueError) as e: check_media(records, tmp_path)
    assert "3 media are not there, for 4 of 4 questions: nturgbd/a.mp4, ssv2_video/1.webm, ../out.mp4; NTU" in str(e.value)
    assert "action_antonym's clips are .webm" in str(e.value) and str(e.value).endswith("go on without with --skip-missing")
    check_media([], tmp_path)

class Film: timestamps = [i / 10 for i in range(100)]

def test_frames_are_taken_within_bounds_and_the_last_one_is_kept():
    assert Within()(Film, 4, Record(extra=dict(clip=[2., 5.]))) == [20, 30, 40, 50]
    assert Within()(Film, 2, Record(extra=dict(clip=[50., 60.]))) == [99, 99]
    assert Within()(Film, 4, Record()) == [0, 33, 66, 99]
    sparse = Within(lambda film, n, record=None: [0, 10, 20])
    assert sparse(Film, 3, Record(extra=dict(last=True))) == [0, 10, 99]
    assert Within().key(Record(extra=dict(clip=[1., 2.]))) != Within().key(Record())

CLIP = Path(__file__).resolve().parent.parent / "data_samples/clips/embedded-heldout-00000.mp4"
QWEN = FAMILIES["qwen2_5_vl"]

def png(colour, size=(300, 100)):
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, "PNG")
    return held.getvalue()

def with_picture(tmp_path, picture=None):
    "The question of the adaptation track about a film, and the one of the perception track about the same."
    media = tmp_path / "media/Science"
    media.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLIP, media / "validation_Physics_9.mp4")
    for track in ("Adaptation", "Perception"): parquet(tmp_path / track / "t.parquet", [dict(MMMU, image=dict(bytes=picture or b"", path="validation_Physics_9.png"))] if track == "Adaptation" else [MMMU])
    return tmp_path / "media", *read_suite("video-mmmu", tmp_path).records

def test_the_picture_of_the_adaptation_track_ends_the_clip_and_the_question_says_so(tmp_path):
    media, asked, other = with_picture(tmp_path, png("red"))
    reader = SuiteReader(media, 8, 56 * 56, sampler=Within())
    clip, plain = reader.clip(asked, QWEN), SuiteReader(media, 6, 56 * 56).clip(other, QWEN)
    assert len(clip.frames) == 8 and (clip.frames[:6] == plain.frames).all() and clip.timestamps[:6] == plain.timestamps
    red = (clip.frames[6:] == (255, 0, 0)).all(-1)
    assert red[:, 28].all() and not red[:, 0].any() # as wide as the frame, with bars above and below: 300 x 100 in a square
    assert np.diff(clip.timestamps) == pytest.approx(np.diff(plain.timestamps)[0], rel=.3) and clip.fps == pytest.approx(plain.fps, rel=.05)
    assert reader.visual(asked, QWEN).grid[0] == 4 and len(reader.clip(asked).frames) == 8 # as pictures for a server too
    assert (reader.clip(other, QWEN).frames != clip.frames).any()
    said = [suite_prompt(Prompt()).render(record) for record in (asked, other)]
    assert [text.count("at the video's end") for text in said] == [1, 0] and said[0].index("<image 1> Which slope") < said[0].index("A. left")

@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_picture_has_a_layer_of_its_own_in_every_family(family, tmp_path):
    media, asked, other = with_picture(tmp_path, png("red"))
    found = SuiteReader(media, 6, 64 * 64).visual(asked, family)
    layers = found.patches.reshape(found.grid[0], -1, found.patches.shape[1])
    frames = layers.reshape(*layers.shape[:2], 3, family.temporal, -1)
    assert found.grid[0] == 3 and (frames[-1, :, :, 0] == frames[-1, :, :, 1]).all() and not (layers[-1] == layers[-2]).all()

def test_the_picture_comes_from_a_file_too_or_from_the_film_alone(tmp_path):
    media, asked, _ = with_picture(tmp_path)
    reader = SuiteReader(media, 8, 56 * 56, sampler=Within(), cache=tmp_path / "cache")
    film = reader.clip(asked, QWEN).frames
    assert (film == SuiteReader(media, 8, 56 * 56).clip(Record(path=asked.path), QWEN).frames).all() # the released video shows it in its last frame
    (media / "validation_Physics_9.png").write_bytes(png("blue"))
    blue = reader.clip(asked, QWEN).frames # and not what the cache had
    assert (blue[-2:, 28] == (0, 0, 255)).all() and (reader.clip(asked, QWEN).frames == blue).all()
    (media / "validation_Physics_9.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="validation_Physics_9.png"): reader.clip(asked, QWEN)
    with pytest.raises(VideoError, match="validation_Physics_9.png"): SuiteReader(media, 8).clip(with_picture(tmp_path, b"no picture")[1], QWEN)

def test_every_kind_has_a_line_for_its_answer():
    for kind in ("yes or no", "caption matching", "captioning", "open", "regression", "numerical", "multiple choice"):
        assert "answer tags" in suite_prompt(Prompt()).render(Record(problem="Which?", problem_type=kind))
    assert suite_prompt(SHORT) == SHORT

def predicted(benchmark, records, responses):
    return [dict(id=r.problem_id, benchmark=benchmark, kind=r.problem_type, group=r.extra["group"], video=r.path, question=r.problem, options=r.options, truth=r.answer, response=text) for r, text in zip(records, responses)]

def values(rows, suite): return {row["name"]: row["own"] for row in score_all(mark_all(Predictions(rows), (suite,)), 50)}

def test_the_fixture_of_vsi_bench_scores_what_a_pencil_says(tmp_path):
    rows = predicted("vsi-bench", read_suite("vsi-bench", write(tmp_path / "test.jsonl", VSI)).records, ["4", "5", "B", "A", "A"])
    # counting 1; room 5 of 10: 0.1 (official), 0 (Video-R1); route 1; direction: mean of easy 1 and hard 0
    assert values(rows, "official")["mean of 8 subtasks"] == pytest.approx((1 + .1 + 1 + .5) / 4)
    assert values(rows, "lmms-eval")["pooled"] == pytest.approx((1 + .1 + 1 + 1 + 0) / 5)
    found = values(rows, "video-r1")
    assert (found["multiple choice"], found["MRA"]) == (pytest.approx(2 / 3), .5) and found["mean of the two"] == pytest.approx((2 / 3 + .5) / 2)

def test_the_fixture_of_tempcompass_gives_four_numbers_and_both_means(tmp_path):
    for task, row in TC.items(): write(tmp_path / f"{task}.json", {"5": {"speed": [row, row] if task == "yes_no" else [row]}})
    records = read_suite("tempcompass", tmp_path).records
    said = {"multi-choice": "B", "yes_no": "No.", "caption_matching": "Caption A", "captioning": "a slow dog"}
    rows = predicted("tempcompass", records, [said[r.extra["group"]["task"]] for r in records])
    found = values(rows, "official")
    assert {name: found[name] for name in ("multi-choice", "yes_no", "caption_matching")} == {"multi-choice": 1, "yes_no": 1, "caption_matching": 0}
    assert found["mean of tasks"] == pytest.approx(2 / 3) and found["all"] == .75 # captions wait for a judge
    judged = score_all(mark_all(Predictions(rows), ("official",), judge=lambda row: False), 50)
    assert {r["name"]: r["own"] for r in judged}["mean of tasks"] == .5

@pytest.mark.parametrize("lost", [None, "", " "])
def test_a_reply_or_a_verdict_that_is_lost_costs_itself(lost):
    rows = [dict(benchmark="mmvu", id=str(i), kind="open", truth="a dog", options=[], video="", group={}, response="a cat") for i in range(4)]
    silent = [rows[0], dict(rows[1], response=lost), *rows[2:]]
    for some, judge in ((silent, lambda row: True), (rows, lambda row: None if row["id"] == "1" else True)):
        found = mark_all(Predictions(some), ("official",), judge=judge)
        assert [mark.score for mark in found.marks["official"]] == [1, 0 if some is silent else None, 1, 1]
        assert .75 in {r["all"] for r in score_all(found, 50)}

def test_unequal_tasks_mean_differently():
    rows = [dict(benchmark="tempcompass", id=f"{task}{i}", kind="yes or no", group=dict(task=task), options=[], truth="yes", video="", response="yes" if i < right else "no")
            for task, n, right in (("multi-choice", 1580, 1264), ("yes_no", 2453, 1472), ("caption_matching", 1503, 1052), ("captioning", 2004, 1002)) for i in range(n)]
    found = values(rows, "official")
    assert round(100 * found["mean of tasks"], 1) == 65.0 and round(100 * found["all"], 1) == 63.5

def test_files_whose_rows_name_no_task_are_compared_all_together():
    rows = [dict(benchmark="vsi-bench", id=str(i), kind="multiple choice", group={}, options=["A. x", "B. y"], truth="A", video="", response="A") for i in range(4)]
    marked = [mark_all(Predictions(given), ("official",)) for given in (rows, [dict(row, response="B") for row in rows[:2]] + rows[2:])]
    assert [(row["name"], row["difference"]) for row in differences(*marked, 20)] == [("pooled", -.5)]
