"""A run's folder: killed, shared, mixed up, and gone on with."""
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest
import torch
from filelock import FileLock
from videop2r.engine.runs import RunFolder, Team, changed, check_same, ctrl_c, digest, fingerprint, must_hold, peak_gb, rng_state, set_rng

class Toy(torch.nn.Module):
    "A model with as much of PEFT as `save_adapter` asks for."
    def __init__(self):
        super().__init__()
        self.weight, self.active_adapter, self.peft_config = torch.nn.Parameter(torch.ones(3)), "policy", dict(policy=self)
        self.base_model_name_or_path = None
    def save_pretrained(self, folder, selected_adapters, **kw):
        (out := Path(folder) / selected_adapters[0]).mkdir(parents=True)
        (out / "weights").write_text(str(self.weight.tolist()))

def run(out, steps=4, stop=None, save_every=2, **kw):
    "Steps that draw from torch's own generator."
    torch.manual_seed(0)
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=.1)
    with RunFolder(out, dict(lr=.1, **kw.pop("facts", {})), **kw) as folder:
        state = folder.restore(model, optimizer)
        if state: set_rng(state["rng"])
        for step in range(len(folder.rows), steps):
            (model.weight * torch.randn(3)).sum().backward()
            optimizer.step(), optimizer.zero_grad()
            folder.add(dict(step=step, weight=model.weight.tolist()))
            folder.leave_out([dict(where=f"r{step}", reason="lost"), dict(where="r0", reason="lost again")])
            if (step + 1) % save_every == 0: folder.save(model, optimizer, rng=rng_state())
            if step == stop: raise EOFError
    return folder, {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}

def lines(path): return [json.loads(x) for x in path.read_text().splitlines()]

def test_it_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, expected = run(tmp_path / "whole", 7)
    with pytest.raises(EOFError): run(tmp_path / "run", 7, stop=4)
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 5
    folder, weights = run(tmp_path / "run", 7)
    assert torch.equal(weights["weight"], expected["weight"]) and folder.rows == whole.rows == lines(tmp_path / "run/metrics.jsonl")
    assert [x["where"] for x in lines(tmp_path / "run/quarantine.jsonl")] == [f"r{k}" for k in range(7)] and folder.bad == whole.bad

def test_a_folder_is_one_process_s(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="another process"): run(tmp_path)
    run(tmp_path)
    with RunFolder(tmp_path, dict(lr=.1)), pytest.raises(RuntimeError, match="another process"): run(tmp_path)
    run(tmp_path) # and is let go of, by an error too
    with pytest.raises(ValueError, match="lr was 0.1, now 0.2"), RunFolder(tmp_path, dict(lr=.2)): pass
    run(tmp_path)

def test_other_facts_are_named_and_free_ones_are_noted(tmp_path):
    run(tmp_path, facts=dict(micro=1))
    with pytest.raises(ValueError, match="settings differ: micro was 1, now 2. Ask"): run(tmp_path, facts=dict(micro=2))
    run(tmp_path, 6, facts=dict(micro=2), free=("micro",))
    assert json.loads((tmp_path / "settings.json").read_text()) == dict(settings=dict(lr=.1, micro=2), changes=[dict(field="micro", old=1, new=2, step=6)])

def test_a_folder_without_a_checkpoint_belongs_to_nothing(tmp_path):
    with pytest.raises(EOFError): run(tmp_path, stop=0)
    assert run(tmp_path, facts=dict(seed=1))[0].rows[0]["step"] == 0
    with pytest.raises(ValueError, match="no checkpoint to resume"): must_hold(tmp_path / "none")
    must_hold(tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="without its settings.json"): run(tmp_path, facts=dict(seed=2))

def test_bound_at_once(tmp_path):
    with RunFolder(tmp_path, dict(seed=1)) as folder: folder.bind()
    with pytest.raises(ValueError, match="seed was 1, now 2"), RunFolder(tmp_path, dict(seed=2)): pass

def test_nothing_is_kept_without_a_folder():
    folder, weights = run(None)
    assert len(folder.rows) == 4 and [x["where"] for x in folder.bad] == ["r0", "r1", "r2", "r3"]

def test_what_a_killed_process_left_is_cleared_or_put_back(tmp_path):
    run(tmp_path)
    (tmp_path / "last").rename(tmp_path / ".last.old")
    (tmp_path / ".last.part").mkdir(), (tmp_path / ".checkpoint.pt.1.2.part").write_bytes(b"half")
    run(tmp_path)
    assert (tmp_path / "last/weights").exists() and sorted(p.name for p in tmp_path.glob(".*")) == [".lock"]

def test_cards_are_kept_up(tmp_path):
    class Held: rows = 0
    def card(place): return f"{place} {Held.rows}"
    with RunFolder(tmp_path, {}, card=card) as folder:
        model = Toy()
        optimizer = torch.optim.AdamW(model.parameters())
        folder.restore(model, optimizer)
        folder.add(dict(step=0))
        folder.save(model, optimizer, True)
        Held.rows = 1
        folder.save(model, optimizer)
    assert [(tmp_path / p / "README.md").read_text() for p in ("last", "best")] == ["last 1", "best 1"]

@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_signals_are_noted_and_given_back():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ctrl_c() as stop: os.kill(os.getpid(), signal.SIGTERM), os.kill(os.getpid(), signal.SIGTERM)
    assert stop == [signal.SIGTERM] * 2 and signal.signal(signal.SIGTERM, before) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), ctrl_c() as stop: os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)

def test_long_settings_are_shown_around_the_difference():
    with pytest.raises(ValueError) as e: check_same("x", dict(prompt="a" * 100 + "b" + "c" * 100), dict(prompt="a" * 100 + "d" + "c" * 100))
    assert len(str(e.value)) < 260 and "ab" in str(e.value) and "ad" in str(e.value)
    assert changed(dict(a=1, b=2), dict(b=2, c=3)) == dict(a=(1, None), c=(None, 3))

def test_a_fingerprint_is_of_the_weights_and_not_of_the_place(tmp_path):
    for place, last in (("a/m", b"1"), ("b/m", b"1"), ("c/m", b"2")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}"), (tmp_path / place / "model.safetensors").write_bytes(b"0" * 70000 + last)
    a, b, c = (fingerprint(tmp_path / f"{k}/m") for k in "abc")
    assert a == b != c and a.startswith("m ") and fingerprint("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"

def test_a_team_of_one():
    team, params = Team(), [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    params[0].sum().backward()
    team.sum_gradients(params)
    assert params[1].grad.tolist() == [0, 0] and team.gather([1]) == [1] and team.share([1, 2]) == [1, 2] and team.any([1]) and not team.any([])
    with pytest.raises(ValueError, match="tracker 'nonesuch' is not installed"): Team(trackers=["nonesuch"])
    assert peak_gb() > 0 and len(digest("a", 1)) == 32

def test_a_fingerprint_sees_what_a_merge_changes_in_the_middle_of_a_file(tmp_path):
    for name in "ab":
        (tmp_path / name / "m").mkdir(parents=True)
        data = bytearray(4 << 20)
        if name == "b": data[1 << 20:3 << 20] = bytes([1]) * (2 << 20) # both ends are as they were
        (tmp_path / name / "m" / "model.safetensors").write_bytes(data)
    assert fingerprint(tmp_path / "a" / "m") != fingerprint(tmp_path / "b" / "m")
