"A rehearsal on this machine, and memory at true shapes for two cards, counted without a weight."
import json, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch
from videop2r.engine import shared
from videop2r.families import parameters, shape_of
from videop2r.model import Policy, add_lora
from videop2r.tools import rehearse as module
from videop2r.tools.cli import main
from videop2r.tools.launch import PRESETS
from videop2r.tools.plan import NF4, gpu_of
from storm import storm
from videop2r.tools.rehearse import Peer, Rehearsal, Row, Stand, filled, hollow, rehearse

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data_samples/base")
sys.path.insert(0, str(ROOT / "benchmarks"))

def test_the_command_runs_every_stage_and_tells_memory_time_and_equality(capsys):
    assert main(["rehearse", "--model", BASE, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in told["rows"]] == [*Stand.stages, Peer.stage] and told["fits"] and told["good"] and not told["skipped"]
    assert all(row["seconds"] > 0 and row["gb"] is not None for row in told["rows"]) and told["equal"][0][1] < 1e-4
    *_, update, sft, peer = told["rows"]
    assert peer["ratio"] == pytest.approx(peer["seconds"] / update["seconds"]) and f"{peer['ratio']:.2f} × our update's seconds" in peer["note"]

@storm
def test_gated_delta_nets_are_rehearsed(monkeypatch):
    "At an eighth of the widths, in four layers of which one attends: every stage, and the shared prompt's numbers."
    monkeypatch.setattr(module, "find_spec", lambda name: None) # TRL's update is the slowest of all, and is held elsewhere
    done = rehearse(replace(shape_of("qwen3.5-4b"), layers=4, nets=3, v_layers=4, vocab=8 * 512))
    assert [row.stage for row in done.rows] == [*Stand.stages, Peer.stage] and all(row.seconds > 0 for row in done.rows[:-1])
    assert done.good and done.equal[0][1] < 1e-4

def held_to_a_minute(monkeypatch):
    "A rehearsal of the update alone."
    monkeypatch.setattr(Stand, "stages", {"a clip is seen": Stand.stages["a clip is seen"], "the update": Stand.stages["the update"]})

def test_without_trl_the_row_says_so(monkeypatch):
    held_to_a_minute(monkeypatch)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    done = rehearse(BASE)
    assert done.rows[-1] == Row(Peer.stage, note="not run: trl is not installed") and done.good and "| TRL's update |  |  |  |  | not run: trl is not installed |" in done._repr_markdown_()

def test_a_fault_of_trl_s_ends_nothing(monkeypatch):
    held_to_a_minute(monkeypatch)
    def full(s): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
    monkeypatch.setattr(module, "_peer", full)
    done = rehearse(BASE)
    assert done.rows[-1].note == "not run: OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB" and done.fits and done.good

def test_trl_s_gradient_is_ours(monkeypatch):
    "Of the same group, on the batch in which every row has its own prompt and clip; TRL knows no forbidden ids."
    pytest.importorskip("trl")
    monkeypatch.setattr(module.Coder, "forbidden", lambda self, n: [])
    shape = replace(shape_of("4b").eighth(), layers=3, v_layers=5)
    coder = shape.coder()
    policy = Policy(add_lora(filled(hollow(shape.config(coder), dtype=torch.float32), "cpu"), coder.family, 2), coder)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight, std=.02)
    told = PRESETS["12gb"].planned(shape, **{**module._LESS, "completion": 12, "frames": 2})
    s = module.Stand.of(policy, told.settings, PRESETS["12gb"].rl, PRESETS["12gb"].sft)
    module._see(s)
    def gradient(): return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    rollout, prompt = module._rollout(s), module.collate(coder, s.prompts)
    with torch.no_grad(): near = module.group_logprobs(policy, prompt, s.words, rollout.mask, 8, s.features)
    rollout.old, rollout.ref = near + .1 * torch.randn(near.shape), near + .1 * torch.randn(near.shape) # beyond 10 nats ours bounds KL, and TRL does not
    module.backward(policy, s.prompts, s.features, rollout, s.rl)
    ours = gradient()
    policy.model.zero_grad()
    policy.train() # or TRL takes no share of the accumulated steps
    module.Peer(policy, prompt, s.words.shape[1], s.rl.beta).gradient(s.words, rollout.mask, rollout.old, rollout.ref, torch.ones(len(s.words)), 2)()
    assert (gradient() - ours).norm() < 1e-4 * ours.norm()

def test_a_difference_or_a_lack_of_memory_is_exit_code_2(monkeypatch, capsys):
    with monkeypatch.context() as m:
        m.setitem(shared.ATTEND, "cpu", lambda *inputs: shared.plain(*inputs) * 1.5)
        assert main(["rehearse", "--model", BASE, "--minutes", ".001"]) == 2 and "**no**" in capsys.readouterr().out
    def full(s): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    monkeypatch.setitem(Stand.stages, "the reference reads", (full, "reference"))
    assert main(["rehearse", "--model", BASE]) == 2
    assert "does not fit (CUDA out of memory" in (said := capsys.readouterr().out) and "| the update |" in said

@pytest.mark.parametrize("words, why", [(["--cap", "12"], "there is no GPU here"), (["--model", "1000b"], "not a size"), (["--model", "Qwen/Qwen3-VL-30B-A3B-Instruct"], "mixture of experts"), (["--model", str(ROOT / "data_samples/clips")], "config.json"), (["--gpu", "huge"], "give gigabytes"), (["--model", BASE, "--attention", "flash_attention_2"], "needs the package flash-attn")])
def test_what_cannot_be_rehearsed_is_named(capsys, words, why):
    assert main(["rehearse", *words]) == 1 and why in (said := capsys.readouterr().err) and said.count("\n") == 1

def test_a_cap_above_the_card_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: type("Card", (), dict(total_memory=24e9)))
    with pytest.raises(ValueError, match="cap is 30 GB, and the card has 24.0; give at most that"): rehearse("3b", cap=30)

def test_a_row_over_the_card_does_not_fit():
    done = Rehearsal("a", [Row("x", 11.), Row("y", 13.)], [], 12.)
    assert not done.fits and not done.good and replace(done, limit=14.).good

@pytest.mark.parametrize("name", ["3b", "7b", "4b", "8b", "qwen3.5-4b"])
def test_a_model_without_weights_has_the_true_shapes(name):
    shape = shape_of(name)
    coder = shape.coder()
    model = hollow(shape.config(coder), nf4=True)
    four = [m for m in model.modules() if hasattr(getattr(m, "weight", None), "quant_state")]
    assert len(four) == 7 * shape.attending + 8 * shape.nets and sum(m.weight.numel() for m in four) * 2 == parameters(shape)["linears"]
    assert all(p.device.type == "meta" for p in model.parameters()) and model.lm_head.weight.shape == (shape.vocab, shape.hidden)
    state = four[0].weight.quant_state
    held = four[0].weight.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()
    assert held / (2 * four[0].weight.numel()) == pytest.approx(NF4, rel=1e-3)

def test_four_bits_on_this_machine_give_finite_answers():
    shape = replace(shape_of("4b").eighth(), layers=3, v_layers=5)
    policy = Policy(filled(hollow(shape.config(shape.coder()), True, torch.float32), "cpu"), shape.coder())
    ids = policy.sample([module.encode(policy.coder, "What moves?")], 2, 4, temperature=0).ids
    assert ids.shape[0] == 2 and torch.equal(ids[0], ids[1])

# ---- memory at true shapes

@pytest.mark.parametrize("model, preset, stage", [("3b", "12gb", "tokens are drawn"), ("3b", "12gb", "a step of SFT"), pytest.param("7b", "16gb", "the reference reads", marks=storm), pytest.param("qwen3.5-4b", "12gb", "the reference reads", marks=storm)])
def test_the_plan_is_within_a_fifth_of_what_is_counted(model, preset, stage):
    from true_shapes import counted
    row = counted(model, PRESETS[preset], ["a clip is seen", stage])[-1]
    assert row["plan's GB"] == pytest.approx(row["GB"], rel=.2)
    assert row["GB"] + row["stands, GB"] < .92 * gpu_of(preset).gb

def test_the_reference_does_not_take_all_prompts_at_once():
    "What the first person with a card would have met: 12.8 GB where the plan said 2.1."
    from true_shapes import counted
    less = replace(shape_of("3b"), layers=4, v_layers=4)
    one, all_ = (counted(less, replace(PRESETS["12gb"], rl=replace(PRESETS["12gb"].rl, slices=3, micro=micro, rows=8)), ["a clip is seen", "the reference reads"])[-1]["GB"] for micro in (1, 3))
    assert 2 * one < all_

def test_what_was_not_run_is_not_said_to_fit(capsys):
    assert main(["rehearse", "--model", BASE, "--minutes", "0"]) == 2
    said = capsys.readouterr().out
    assert "What was run fits; give more --minutes" in said and "It fits" not in said
