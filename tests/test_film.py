"The film of the demo: the same questions answered while an arm trains, which changes nothing of the training."
import json, subprocess, sys, time
from pathlib import Path
import pytest
from videop2r.cot import SHORT
from videop2r.data import Record
from videop2r.engine.learner import train_rl
from videop2r.engine.reading import to_prompts
from videop2r.judge import ORACLE
from videop2r.model import Policy, add_lora
from videop2r.recipe import RL
from videop2r.tools.demo import RECIPE, Run, TrainingFilm, _film, _film_records
from videop2r.tools.monitor import monitor
from videop2r.world import from_record, make_records, samples

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = samples(ROOT / "data_samples")

@pytest.fixture(scope="module")
def run(tmp_path_factory): return Run.open(tmp_path_factory.mktemp("film"), "smoke", 0, SAMPLES)

def trained(run, film=None):
    base = Policy.load(SAMPLES / "teacher")
    policy = Policy(add_lora(base.model, base.family, seed=1), base.coder)
    def ready(records): return to_prompts(policy.coder, records, run.out, SHORT, 4)
    prompts, records, _ = ready(list(make_records(run.out, 2, "learn", kinds=("where", "mover"))))
    features = policy.see([each.visual for each in prompts])
    settings = RL(RECIPE, steps=2, prompts=2, g=4, limit=24, lr=5e-3, beta=0., warmup=0)
    asked, filmed, _ = ready(_film_records(run)[:2])
    shot = film and TrainingFilm(policy, filmed, asked, film, 24)
    if shot: shot.take(0)
    def hook(step, row, rollout): return shot and shot.take(step + 1)
    rows = train_rl(policy, records, prompts, features, ORACLE, settings, hook=hook, quiet=True)
    def timeless(row): return {key: value for key, value in row.items() if not key.startswith(("seconds", "memory"))}
    return [timeless(row) for row in rows]

def test_a_film_changes_no_figure_of_the_run(run):
    bare, filmed = trained(run), trained(run, run.out / "film.json")
    assert json.dumps(bare) == json.dumps(filmed) # NaN is equal to itself as text
    film = json.loads((run.out / "film.json").read_text())
    assert list(film) == ["0", "1", "2"] and all(len(texts) == 2 for texts in film.values())

def test_when_a_film_is_due(run):
    film = TrainingFilm(None, [], [], None, 1)
    assert [step for step in range(1, 111) if film.due(step, 110)] == [20, 40, 60, 80, 100, 110]

def test_the_film_of_a_report_is_judged_and_its_questions_are_whole(run):
    records = _film_records(run)
    texts = [f"<observation>x {i}</observation><think>y</think><answer>{r.truth}</answer>" for i, r in enumerate(records)]
    arms = {arm: dict(film={"0": texts, "20": ["no tags"] * len(texts)}) for arm in ("pagrpo", "grpo")}
    film = _film(run, arms)
    first, later = film["answers"]["grpo"]
    assert film["steps"] == [0, 20] and not any(told["sufficient"] or told["format"] for told in later)
    assert [told["exact"] for told in first] == [1.] * len(records) and not any(told["sufficient"] for told in first)
    for shot, record in zip(film["questions"], records):
        kept = {key: value for key, value in json.loads(json.dumps(shot)).items() if key != "clip"}
        assert from_record(Record(**kept)) == from_record(record) and shot["clip"].startswith("data:image/webp;base64,")
    assert _film(run, dict(arms, grpo=dict())) is None

STORED = ROOT / "nbs" / "4_evidence" / "demo" / "film.json"

@pytest.mark.skipif(not STORED.exists(), reason="no film is stored")
def test_the_stored_film_agrees_with_itself_and_with_the_code():
    from videop2r.tools.demo import _answered, change
    film = json.loads(STORED.read_text(encoding="utf-8"))
    assert STORED.stat().st_size < 150_000 and film["answers"]["pagrpo"][0] == film["answers"]["grpo"][0]
    for arm, steps in film["answers"].items():
        rows = [dict(zip(film["curves"][arm], values)) for values in zip(*film["curves"][arm].values())]
        for key, told in film["change"][arm].items():
            now = change(rows, key)
            assert now["diff"] == pytest.approx(told["diff"], abs=2e-4), key
        for shot, told in zip(film["questions"] * len(steps), (told for step in steps for told in step)):
            kept = {key: value for key, value in shot.items() if key != "clip"}
            assert json.loads(json.dumps(_answered(Record(**kept), told["output"]))) == told

def test_the_command_that_stores_a_film_refuses_a_run_without_one(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    found = subprocess.run([sys.executable, ROOT / "scripts" / "results.py", tmp_path, "--film", tmp_path / "film.json"], capture_output=True, text=True)
    assert found.returncode == 2 and "holds no film" in found.stderr

# ---- the monitor, which follows what the film shows afterwards

def told(step): return json.dumps(dict(step=step, reward_perception=1., kl=.1, seconds_update=2.)) + "\n"

def until(what, seconds=30):
    end = time.time() + seconds
    while not what() and time.time() < end: time.sleep(.05)
    return what()

@pytest.mark.parametrize("arms", ((), ("grpo", "pagrpo")), ids=("a run", "runs"))
def test_the_monitor_follows_a_run_and_ends_with_it(tmp_path, arms):
    folders = [tmp_path / arm for arm in arms or ("",)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(dict(settings=dict(steps=2))))
        (folder / "metrics.jsonl").write_text(told(0))
    box = monitor(tmp_path, .05)
    button, view = box.children
    assert until(lambda: view.value.count("step 1 of 2") == len(folders)) and not button.disabled and box.watch.thread.is_alive()
    for folder in folders:
        with open(folder / "metrics.jsonl", "a") as file: file.write(told(1))
    assert until(lambda: view.value.count("step 2 of 2") == len(folders))
    if arms:
        time.sleep(.3)
        assert box.watch.thread.is_alive() # another arm may come until there is a report
        (tmp_path / "report.json").write_text("{}")
    assert until(lambda: not box.watch.thread.is_alive()) and button.disabled

def test_the_monitor_stops_when_it_is_told_to(tmp_path):
    box = monitor(tmp_path / "not there", .05)
    assert until(lambda: "No run has written" in box.children[1].value)
    box.children[0].click()
    assert not box.watch.thread.is_alive() and box.children[0].disabled
