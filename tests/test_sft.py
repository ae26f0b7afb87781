"""Fine-tuning that is killed, split, spread over processes, or fed what it cannot use."""
import json, os, signal, subprocess, sys, warnings
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from filelock import FileLock
from videop2r.model import load
from videop2r.engine.tuner import Tuner, check_data, train_sft
from videop2r.sft import SFT, fine_tune
from videop2r.update import NotFinite
sys.path.insert(0, str(Path(__file__).parent))
from sft_child import SAMPLES, SETTINGS, data, model_of, weights
from storm import storm
from team import check_both, on_two

CHILD = [sys.executable, str(Path(__file__).parent / "sft_child.py")]

@pytest.fixture(scope="module")
def media(tmp_path_factory): return tmp_path_factory.mktemp("media")

@pytest.fixture(scope="module")
def world(media): return data(media)

@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    "The run that nothing interrupts: its folder, rows and weights."
    coder, examples = world
    model, out = model_of(coder), tmp_path_factory.mktemp("whole")
    rows = train_sft(model, coder, examples[:10], SETTINGS, out, examples[10:], quiet=True)
    return out, rows, weights(model)

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def timeless(rows): return [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second", "memory_gb")} for r in rows]
def lines(path): return [json.loads(l) for l in Path(path).read_text().splitlines()]

def child(*args, **kw): return subprocess.Popen([*CHILD, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true", **kw})

def sleeping(out, media, at):
    "A child that has fallen asleep after a step."
    p = child(out, media, "--sleep-at", at)
    said = []
    for line in p.stdout:
        if "asleep" in line: return p
        said.append(line)
    pytest.fail("".join(said))

def test_the_lesson_s_loop_and_the_run_take_the_same_steps(world):
    "Equal to the last bit where nothing is cut or drawn: one piece a batch, no dropout, one thread."
    coder, examples = world
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    s = replace(SETTINGS, dropout=0., micro=None, bucket=2)
    plain, robust = (model_of(coder, s) for _ in range(2))
    one, two = fine_tune(plain, coder, examples, s), train_sft(robust, coder, examples, s, quiet=True)
    torch.set_num_threads(threads)
    assert same(weights(plain), weights(robust)) and one == [{k: r[k] for k in one[0]} for r in two]

def test_a_killed_run_ends_in_the_same_weights_bit_for_bit(world, whole, media, tmp_path, at=4):
    p = sleeping(tmp_path / "run", media, at)
    p.kill()
    p.wait()
    assert p.returncode == -signal.SIGKILL and len(lines(tmp_path / "run/metrics.jsonl")) == at + 1
    coder, examples = world
    model = model_of(coder)
    rows = train_sft(model, coder, examples[:10], SETTINGS, tmp_path / "run", examples[10:], resume=True, quiet=True)
    assert same(weights(model), whole[2]) and timeless(rows) == timeless(whole[1])
    assert timeless(lines(tmp_path / "run/metrics.jsonl")) == timeless(rows)
    for name in ("last", "best"): assert (tmp_path / "run" / name / "adapter_model.safetensors").read_bytes() == (whole[0] / name / "adapter_model.safetensors").read_bytes()

def test_other_settings_are_named_and_not_mixed_in(world, whole):
    coder, examples = world
    before = (whole[0] / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="settings differ: lr was 0.001, now 0.002"):
        train_sft(model_of(coder), coder, examples[:10], replace(SETTINGS, lr=2e-3), whole[0], examples[10:], quiet=True)
    with pytest.raises(ValueError, match="data was 10 examples .*, now 9 examples"):
        train_sft(model_of(coder), coder, examples[:9], SETTINGS, whole[0], examples[10:], quiet=True)
    assert (whole[0] / "checkpoint.pt").read_bytes() == before

def test_a_finished_run_is_not_run_again_and_resume_wants_a_checkpoint(world, whole, tmp_path):
    coder, examples = world
    model = model_of(coder)
    assert train_sft(model, coder, examples[:10], SETTINGS, whole[0], examples[10:], quiet=True, hook=lambda row: pytest.fail("a step was taken")) == whole[1]
    assert same(weights(model), whole[2])
    with pytest.raises(ValueError, match="no checkpoint to resume"): train_sft(model_of(coder), coder, examples, SETTINGS, tmp_path / "none", resume=True, quiet=True)

def test_half_written_files_of_a_killed_run_do_no_harm(world, whole, tmp_path):
    import shutil
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run/.checkpoint.pt.part").write_bytes(b"half")
    (tmp_path / "run/.last.part").mkdir()
    with open(tmp_path / "run/metrics.jsonl", "a") as f: f.write('{"step": 8, "lo')
    coder, examples = world
    rows = train_sft(model_of(coder), coder, examples[:10], SETTINGS, tmp_path / "run", examples[10:], quiet=True)
    assert rows == whole[1] == lines(tmp_path / "run/metrics.jsonl")

@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_goes_on_to_the_same_end(world, whole, tmp_path, number):
    coder, examples = world
    before = signal.signal(number, signal.default_int_handler) # a background job inherits SIGINT as ignored
    def press(row):
        if row["step"] == 4: os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt): train_sft(model_of(coder), coder, examples[:10], SETTINGS, tmp_path / "run", examples[10:], quiet=True, hook=press)
    assert signal.signal(number, before) is signal.default_int_handler
    held = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert len(held["rows"]) == 5 == len(lines(tmp_path / "run/metrics.jsonl"))
    model = model_of(coder)
    train_sft(model, coder, examples[:10], SETTINGS, tmp_path / "run", examples[10:], quiet=True)
    assert same(weights(model), whole[2])

def test_two_processes_in_one_folder_are_refused(world, tmp_path):
    coder, examples = world
    with FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="another process"):
        train_sft(model_of(coder), coder, examples[:10], SETTINGS, tmp_path, examples[10:], quiet=True)

@storm # test_ranks has the command in two processes
def test_two_gloo_processes_give_one_process_s_weights(world, media, tmp_path):
    coder, examples = world
    check_both(on_two([*CHILD, tmp_path / "run", media, "--dropout", 0, "--save", tmp_path / "weights"]))
    alone = model_of(coder, s := replace(SETTINGS, dropout=0.))
    rows = train_sft(alone, coder, examples[:10], s, validation=examples[10:], quiet=True)
    a, b = (torch.load(tmp_path / f"weights.{r}", weights_only=True) for r in range(2))
    assert same(a, b)
    for k, w in weights(alone).items(): assert (a[k] - w).abs().max() < 1e-5
    both = lines(tmp_path / "run/metrics.jsonl")
    assert len(both) == len(rows) and all(abs(x[k] - y[k]) < 1e-5 for x, y in zip(rows, both) for k in ("loss", "loss_perception", "grad_norm"))

def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_record(world, tmp_path):
    coder, examples = world
    model = model_of(coder)
    bad = replace(examples[3], visual=replace(examples[3].visual, patches=examples[3].visual.patches * float("nan")))
    before = weights(model)
    with pytest.raises(NotFinite, match=rf"step 0: the loss is nan .* on the records {bad.name}; nothing of this step"):
        train_sft(model, coder, [bad if e is examples[3] else e for e in examples], replace(SETTINGS, batch=14), tmp_path, quiet=True)
    assert same(weights(model), before) and not (tmp_path / "checkpoint.pt").exists()

def test_a_rising_loss_is_said_once_with_its_records(world, tmp_path, monkeypatch):
    from videop2r.engine import tuner
    coder, examples = world
    monkeypatch.setattr(tuner, "rising", lambda losses: len(losses) >= 3)
    with pytest.warns(UserWarning, match="step 2: the loss has been rising") as seen:
        train_sft(model_of(coder), coder, examples, replace(SETTINGS, steps=5), tmp_path, quiet=True)
    notes = [r for r in lines(tmp_path / "metrics.jsonl") if "note" in r]
    assert len(notes) == len([w for w in seen if "rising" in str(w.message)]) == 1 and examples[0].name[:3] in notes[0]["note"]

def test_what_is_too_long_is_named_before_anything_is_trained(world, tmp_path):
    coder, examples = world
    longest = max(examples, key=lambda e: len(e.ids))
    with pytest.raises(ValueError, match=rf"examples have more than 40 tokens: {longest.name} \({len(longest.ids)}\)"):
        train_sft(model_of(coder), coder, examples, replace(SETTINGS, limit=40), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()

def test_plain_peft_loads_the_adapter(world, whole):
    from peft import PeftConfig, PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration
    coder, examples = world
    where = PeftConfig.from_pretrained(whole[0] / "last").base_model_name_or_path
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(where, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, whole[0] / "last")
    assert {p.name for p in (whole[0] / "last").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    held = {n.replace("default", "policy"): p for n, p in plain.named_parameters() if "lora_" in n}
    assert same({k: v.detach() for k, v in held.items()}, whole[2])
    plain.load_adapter(whole[0] / "best", "best")
    assert where == str(SAMPLES / "base") and set(plain.peft_config) == {"default", "best"}

def test_the_loss_comes_back_from_what_was_saved(world, whole):
    from videop2r.model import load_adapter
    coder, examples = world
    model = load_adapter(load(SAMPLES / "base", device="cpu"), whole[0] / "best", "policy", trainable=True)
    seen = Tuner(model, coder, examples[:10], SETTINGS, validation=examples[10:])
    best = min((r for r in whole[1] if "val_loss" in r), key=lambda r: r["val_loss"])
    assert abs(seen.validate()["val_loss"] - best["val_loss"]) < 1e-6

def test_tensorboard_gets_the_rows(world, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    coder, examples = world
    rows = train_sft(model_of(coder), coder, examples[:6], replace(SETTINGS, steps=2), tmp_path, track="tensorboard", quiet=True)
    seen = EventAccumulator(str(next(p for p in (tmp_path / "videop2r-sft").iterdir() if p.is_file()))).Reload()
    assert [e.step for e in seen.Scalars("loss")] == [0, 1] and abs(seen.Scalars("loss")[1].value - rows[1]["loss"]) < 1e-4
    with pytest.raises(ValueError, match="tracker 'nonesuch' is not installed"): train_sft(model_of(coder), coder, examples, SETTINGS, tmp_path / "x", track="nonesuch")

def test_the_gradient_does_not_depend_on_the_split(world):
    from videop2r.engine.runs import Team
    from videop2r.engine.tuner import Features, gradients
    coder, examples = world
    model, found = model_of(coder, replace(SETTINGS, dropout=0.)).double(), [] # in single precision another machine's kernels leave 2e-6
    tokens = sum(len(e.response) for e in examples)
    for micro in (None, 1, 3, 5, 13):
        model.zero_grad()
        gradients(model, coder, Team(), list(enumerate(examples)), tokens, Features(model), micro)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert all((g - found[0]).abs().max() < 1e-9 * found[0].abs().max() for g in found[1:])

def test_recomputing_layers_changes_nothing(world, whole):
    coder, examples = world
    rows = train_sft(model_of(coder), coder, examples[:10], replace(SETTINGS, checkpointing=True), validation=examples[10:], quiet=True)
    assert all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in zip(rows, whole[1])) and "val_loss" in rows[-1]

def test_a_validation_clip_of_nan_is_named(world):
    coder, examples = world
    bad = replace(examples[3], visual=replace(examples[3].visual, patches=examples[3].visual.patches * float("nan")))
    with pytest.raises(NotFinite, match=f"validation loss is not finite on the records {bad.name}"):
        train_sft(model_of(coder), coder, examples[4:10], replace(SETTINGS, validate_every=1), validation=[examples[0], bad], quiet=True)

@pytest.fixture(scope="module")
def traced(media):
    "Records with gold traces, as a file beside their clips."
    from videop2r.cot import parse
    from videop2r.data import write_jsonl
    from videop2r.traces import with_trace
    from videop2r.world import from_record, gold, make_records
    records = [with_trace(r, parse(gold(from_record(r))), 1.) for r in make_records(media, 14, "sft")]
    write_jsonl(records, media / "traces.jsonl")
    return records

def test_a_broken_clip_is_left_out_and_named_and_nothing_takes_its_place(traced, media, tmp_path):
    import shutil
    from videop2r.tools.launch import run_sft
    from videop2r.cot import SHORT
    shutil.copytree(media, tmp_path / "media")
    broken = next(r for r in traced if r.data_type == "video")
    (tmp_path / "media" / broken.path).write_bytes((media / broken.path).read_bytes()[:700])
    s = replace(SETTINGS, steps=7, batch=4, dropout=0., nf4=False, frames=4)
    tuned = run_sft(tmp_path / "media/traces.jsonl", tmp_path / "media", SAMPLES / "base", tmp_path / "run", s, prompt=SHORT, quiet=True)
    assert [q["where"] for q in lines(tmp_path / "run/quarantine.jsonl")] == [broken.problem_id] == list(tuned.bad)
    assert sum(r["examples"] for r in tuned.rows) == 28 - 2 and {r["examples"] for r in tuned.rows} == {3, 4}
    card = (tmp_path / "run/last/README.md").read_text()
    assert "| training examples | 14 |" in card and f"| lr | {s.lr} |" in card and "step 7 of 7." in card and str(tmp_path) not in card

def test_traces_made_on_demand_train_as_a_list_does(traced, media, world):
    from videop2r.cot import SHORT
    from videop2r.tools.launch import Traces
    coder, examples = world
    s = replace(SETTINGS, steps=4, frames=4)
    lazy = Traces(coder, traced, media, SHORT, s, workers=3)
    assert [e.ids for e in lazy] == [e.ids for e in examples] and all(len(e.ids) <= n for e, n in zip(examples, lazy.lengths))
    lazy.lengths = [len(e.ids) for e in examples]
    assert timeless(train_sft(model_of(coder), coder, lazy, s, quiet=True)) == timeless(train_sft(model_of(coder), coder, examples, s, quiet=True))

def test_only_media_that_may_be_too_long_are_opened(traced, media, world):
    from videop2r.cot import SHORT
    from videop2r.engine.media import Reader
    from videop2r.tools.launch import Traces
    opened = []
    class Watched(Reader):
        def clip(self, record, *a): return opened.append(record.path) or super().clip(record, *a)
    s = replace(SETTINGS, frames=4, pixels=84 * 84)
    lazy = Traces(world[0], traced, Watched(media, s.frames, s.pixels), SHORT, s)
    check_data(lazy, max(lazy.lengths))
    assert not opened
    with pytest.raises(ValueError, match="more than 60 tokens: wsft-"): check_data(lazy, 60)
    assert opened

def test_the_cache_the_sampler_and_the_time_limit_serve_a_run(traced, media, tmp_path):
    from videop2r.cot import SHORT
    from videop2r.tools.launch import run_sft
    s = replace(SETTINGS, steps=2, batch=4, dropout=0., nf4=False, frames=4)
    def run(name, **kw): return run_sft(media / "traces.jsonl", media, SAMPLES / "base", tmp_path / name, s, prompt=SHORT, quiet=True, **kw).rows
    plain = timeless(run("plain"))
    assert timeless(run("cached", cache=tmp_path / "cache")) == plain and any((tmp_path / "cache").rglob("*"))
    def first(film, n, record=None): return list(range(n))
    assert timeless(run("first", sampler=first)) != plain
    with pytest.raises(ValueError, match="sampler was first, now uniform"): run("first")

def test_agnostic_traces_hold_no_observation(traced, media, world):
    from videop2r.tools.launch import Traces, prompt_of
    coder = world[0]
    lazy = Traces(coder, traced, media, prompt_of("short", True), replace(SETTINGS, frames=4), True)
    text = coder.text(lazy[0].response)
    assert text == traced[0].output.split("</observation> ")[1] and "observation" not in coder.text(lazy[0].prompt).lower()
    assert "observ" not in prompt_of(None, True).render(traced[0]).lower()

def test_what_validation_leaves_out_at_the_door_is_listed_too(world, tmp_path):
    coder, examples, *_ = world
    class Held(list): bad = {"val-1": "its trace is not in the template"}
    train_sft(model_of(coder), coder, examples[:10], replace(SETTINGS, steps=1), tmp_path, validation=Held(examples[10:12]), quiet=True)
    assert '"val-1"' in (tmp_path / "quarantine.jsonl").read_text()
