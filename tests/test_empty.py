"The empty case: nothing to read, nothing kept, numbers of zero, and steps none of whose clips can be read."
import json, math, shutil
from pathlib import Path
import pytest
from videop2r.recipe import RL
from videop2r.sft import SFT
from videop2r.tools.cli import main
from videop2r.tools.funnel import Funnel, _pictures

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
TINY = ["--preset", "tiny", "--prompt", "short", "--frames", 2, "--steps", 4]
TRACE = "<observation>The red square moves.</observation> <think>It moves.</think><answer>A</answer>"

def lines(path): return [json.loads(line) for line in Path(path).read_text().splitlines()]

def media(folder, bad, missing=False):
    "Six records whose clips at these places are cut off, or not there."
    rows = lines(SAMPLES / "train.jsonl")[:6]
    for i, row in enumerate(rows):
        row["output"], path = TRACE, folder / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if i not in bad: shutil.copy(SAMPLES / row["path"], path)
        elif not missing: path.write_bytes((SAMPLES / row["path"]).read_bytes()[:99])
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--records", folder / "records.jsonl", "--media", folder, *TINY]

def run(capsys, *words):
    code = main(list(map(str, words)))
    return code, capsys.readouterr()

@pytest.mark.parametrize("name", "steps prompts limit slices micro rows save_every give_up temperature top_p lr max_norm".split())
@pytest.mark.parametrize("value", (0, -1, math.nan))
def test_a_run_needs_numbers_above_zero(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}: give a number above 0"): RL(**{name: value})
    if name in SFT.__dataclass_fields__:
        with pytest.raises(ValueError, match=f"{name} is {value}: give a number above 0"): SFT(**{name: value})

@pytest.mark.parametrize("name", "warmup clip beta refill workers".split())
def test_others_may_be_zero_and_no_less(name):
    assert getattr(RL(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"{name} is -1: give 0 or more"): RL(**{name: -1})

RL_ARGS = ["--model", SAMPLES / "teacher", "--prompts", 1, "--g", 2, "--limit", 6, "--judge", "oracle"]
SFT_ARGS = ["--model", SAMPLES / "base", "--batch", 2, "--validate-every", 1]

@pytest.mark.parametrize("missing", (False, True))
def test_rl_takes_the_steps_it_was_asked_for_with_the_clips_that_open(tmp_path, capsys, missing):
    code, said = run(capsys, "rl", *media(tmp_path, {0, 1, 2, 3, 4}, missing), *RL_ARGS, "--out", tmp_path / "run")
    assert code == 0, said.err
    rows = lines(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 4 and all(row["quarantined"] == 5 for row in rows[-1:]) and len(lines(tmp_path / "run/quarantine.jsonl")) == 5

def test_rl_with_no_clip_that_opens_names_one_and_why(tmp_path, capsys):
    code, said = run(capsys, "rl", *media(tmp_path, set(range(6))), *RL_ARGS, "--out", tmp_path / "run")
    assert code == 1 and "no medium can be read: 6 are in quarantine: embedded-train-0000" in said.err and "rewards" not in said.err

def test_sft_goes_on_past_a_batch_none_of_whose_clips_opens(tmp_path, capsys):
    code, said = run(capsys, "sft", *media(tmp_path, {0, 1, 2, 3, 4}), *SFT_ARGS, "--out", tmp_path / "run")
    assert code == 0, said.err
    rows = lines(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 4 and {"skipped", "loss"} <= {name for row in rows for name in row}
    assert (tmp_path / "run/last/adapter_config.json").exists() and len(lines(tmp_path / "run/quarantine.jsonl")) == 5

def test_sft_with_no_clip_that_opens_names_one_and_why(tmp_path, capsys):
    code, said = run(capsys, "sft", *media(tmp_path, set(range(6))), *SFT_ARGS, "--out", tmp_path / "run")
    assert code == 1 and "no record can be read" in said.err and "cannot be read as a video" in said.err

def test_nothing_kept_is_a_funnel_and_no_fault(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text("\n\n")
    for records in (tmp_path / "none.jsonl", media(tmp_path, set(range(6)), missing=True)[1]):
        code, said = run(capsys, "generate", "--records", records, "--media", tmp_path, "--teacher", f"local:{SAMPLES / 'teacher'}", "--judge", "oracle",
                         "--prompt", "short", "--limit", 8, "--frames", 2, "--out", tmp_path / records.stem)
        assert code == 0 and "vocabulary" not in said.err
    assert Funnel.places(dict(perception=["", "…"], reasoning=[])) == {}

@pytest.mark.parametrize("said", ["So.", "The, of and.", "1 2 3", "…", "So so."])
def test_texts_without_a_word_worth_showing_have_no_picture_and_cost_no_run(said):
    pytest.importorskip("wordcloud")
    texts = dict(perception=["I see a red square."] * 9, reasoning=[said] * 9)
    pictures, why = _pictures(texts)
    assert not why and len(pictures["clouds"]) == 1
    assert Funnel.places(dict(perception=[said] * 9, reasoning=[said] * 9)) == {}

def test_a_subset_of_nothing_says_so(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text("")
    code, said = run(capsys, "data", "subset", tmp_path / "none.jsonl", "--n", 1, "--out", tmp_path / "out")
    assert code == 1 and "none.jsonl: no good record" in said.err
