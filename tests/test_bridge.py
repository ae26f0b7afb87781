"The bridge against the TRL that is installed: its gradients with one reward, ours with two, and a run."
import json, math, os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch
pytest.importorskip("trl", reason="TRL is not installed; it is an extra: pip install 'videop2r[trl]'")
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from videop2r.advantages import CREDIT, broadcast, credit, normalise, token_weights
from videop2r.tools.trl import PAGRPOTrainer, process_rewards, to_trl, vocabulary
from videop2r.cot import EXAMPLE, SHORT, parse
from videop2r.data import RecordError, read_jsonl
from videop2r.judge import Judge, Verdict
from videop2r.losses import policy_loss
from videop2r.rewards import LENGTHS, Bounds, rewards
from videop2r.scoring import score_record
from videop2r.tokens import segment_masks
from videop2r.world import samples
from storm import storm
from team import check_both, on_two

torch.set_num_threads(1)
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func, which puts fixed responses in place of sampled ones
ROOT = Path(__file__).resolve().parent.parent
BOUNDS = Bounds(perception=(4, 40), reasoning=(4, 40))
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
RECORDS = read_jsonl(samples() / "train.jsonl")[:2]
TEXTS = [*EXAMPLE, "<observation>A triangle.</observation> <think>It is so.</think><answer>A</answer>", EXAMPLE[0].replace("B", "D"), EXAMPLE[1].replace("A<", "D<"), EXAMPLE[0]]
TOLD = [t if "<observation>" in t else EXAMPLE[2] for t in TEXTS]
SAID = {"The square starts left and ends right.": True, "The square goes over from left to right.": True, "There is a red square.": False, "A triangle.": False}
JUDGE = Judge(lambda r, o: Verdict(SAID.get(o)), "as said")
SILENT = Judge(lambda r, o: Verdict(None if "goes over" in o or "triangle" in o else SAID.get(o)), "often silent")
NOISE = torch.Generator().manual_seed(0)

def tokenizer_of():
    t = AutoTokenizer.from_pretrained(samples() / "base")
    t.chat_template = TEMPLATE
    return t

@pytest.fixture(scope="module")
def tokenizer(): return tokenizer_of()

@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    "A tiny language model with random weights."
    out = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(vocab_size=640, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                 bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).save_pretrained(out)
    return out

def given(prompts, trainer):
    "The eight responses above in place of sampled ones."
    ids = [trainer._tokenizer(t, add_special_tokens=False)["input_ids"] + [trainer._tokenizer.eos_token_id] for t in trainer.texts[:len(prompts)]]
    asked = trainer._tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    return dict(prompt_ids=asked, completion_ids=ids, logprobs=None)

def make(kind, funcs, folder, tokenizer, out, rollout=given, dtype=torch.float64, **kw):
    own = {k: kw.pop(k) for k in ("credit", "weights") if k in kw}
    args = dict(max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=64, loss_type="dr_grpo", beta=.04, learning_rate=.1,
                logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False, optim="sgd",
                use_bias_correction_kl=False)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)
    trainer = kind(model, funcs, GRPOConfig(str(out), **{**args, **kw}), to_trl(RECORDS, prompt=SHORT), processing_class=tokenizer, rollout_func=rollout, **own)
    trainer.ref_model.to(dtype)
    trainer.texts = TEXTS
    return trainer

def batch(trainer):
    "TRL's scored batch for two prompts of four responses, with old and reference log-probabilities moved off the policy's."
    rows = [trainer.train_dataset[i] for i in range(2) for _ in range(4)]
    out = trainer._generate_and_score_completions(rows)
    with torch.no_grad(): now = logprobs(trainer.model, out, trainer.temperature)
    noise = [torch.randn(now.shape, generator=NOISE.manual_seed(s), dtype=now.dtype) for s in (1, 2)]
    return out | dict(old_per_token_logps=now + .25 * noise[0], ref_per_token_logps=now + .3 * noise[1])

def logprobs(model, out, temperature):
    "The plain way, without TRL's head."
    ids, mask = (torch.cat([out[f"prompt_{k}"], out[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    z = model(input_ids=ids, attention_mask=mask).logits[:, out["prompt_ids"].shape[1] - 1:-1] / temperature
    return z.log_softmax(-1).gather(-1, out["completion_ids"][..., None])[..., 0]

def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()

def close(a, b, tol=1e-6): return float((a - b).norm() / b.norm()) < tol and bool(b.any())

# With one reward: TRL's own gradients

@pytest.fixture(scope="module")
def pair(folder, tokenizer, tmp_path_factory):
    funcs = process_rewards(tokenizer, JUDGE, BOUNDS)
    out = tmp_path_factory.mktemp("pair")
    return make(GRPOTrainer, funcs[1:], folder, tokenizer, out), make(PAGRPOTrainer, funcs, folder, tokenizer, out, credit="grpo", weights=None)

def both(pair, theirs, ours, weights):
    for t, kind in zip(pair, (theirs, ours)): t.loss_type, t.texts = kind, TEXTS if weights is None else TOLD
    pair[1].token_weights = weights
    a, b = (gradient(t.model, t.compute_loss(t.model, batch(t))) for t in pair)
    return a, b

@pytest.mark.parametrize("kind", ("grpo", "bnpo", "dr_grpo", "dapo"))
def test_grpo_gives_trls_gradient(pair, kind):
    "TRL's own average over tokens, whichever it is."
    assert close(*both(pair, kind, kind, None)[::-1])

@pytest.mark.parametrize("kind, weights", [("grpo", "response"), ("bnpo", "batch"), ("dapo", "batch")])
def test_our_token_weights_give_trls_averages(pair, kind, weights):
    "`batch` counts a token of both processes twice, so here each response has an observation."
    assert close(*both(pair, kind, "dr_grpo", weights)[::-1])

# With two: ours

def expected(trainer, out, judge, matrix, how):
    "The loss of our own modules on the same rollouts, from text to scalar."
    pieces, on = vocabulary(trainer._tokenizer), out["completion_mask"]
    masks = torch.zeros(8, 2, on.shape[1], dtype=torch.bool)
    for m, row, n in zip(masks, out["completion_ids"].tolist(), on.sum(1).tolist()): m[:, :n] = torch.from_numpy(segment_masks(row[:n], pieces))
    traces, owners = [parse(t) for t in TEXTS], [r for r in RECORDS for _ in range(4)]
    verdicts = [judge(r, t.observation).value if t.perception_ok else 0. for r, t in zip(owners, traces)]
    table = rewards(traces, verdicts, [score_record(r, t.answer) for r, t in zip(owners, traces)], masks.sum(-1), BOUNDS)
    A, valid = (x.reshape(8, 2) for x in normalise(credit(table.total(), matrix).reshape(2, 4, 2)))
    w = token_weights(masks, how, valid, dtype=torch.float64)
    return policy_loss(logprobs(trainer.model, out, trainer.temperature), out["old_per_token_logps"], out["ref_per_token_logps"], broadcast(A, w), w)[0]

@pytest.fixture(scope="module", params=(JUDGE, SILENT), ids=lambda j: j.name)
def ours(request, folder, tokenizer, tmp_path_factory):
    t = make(PAGRPOTrainer, process_rewards(tokenizer, request.param, BOUNDS), folder, tokenizer, tmp_path_factory.mktemp("ours"))
    t.judge = request.param
    return t

@pytest.mark.parametrize("matrix", CREDIT)
@pytest.mark.parametrize("how", ("process", "response", "batch"))
def test_gradient_is_that_of_our_loss(ours, matrix, how):
    "KL and clipping included; a missing verdict weighs nothing in either."
    ours.credit, ours.token_weights = matrix, how
    out = batch(ours)
    loss = ours.compute_loss(ours.model, out)
    want = expected(ours, out, ours.judge, matrix, how)
    assert float(loss.detach()) == pytest.approx(float(want.detach()), abs=1e-6)
    assert close(gradient(ours.model, loss), gradient(ours.model, want))

# What is written over

def test_a_missing_verdict_is_masked(folder, tokenizer, tmp_path):
    "Nothing of that observation is trained, its thought is; the other rollouts are compared among themselves."
    t = make(PAGRPOTrainer, process_rewards(tokenizer, SILENT, BOUNDS), folder, tokenizer, tmp_path)
    out, lost = batch(t), [1, 4, 6]
    assert t.rewards_per_func[:, 0].isnan().nonzero()[:, 0].tolist() == lost
    for i in range(8):
        n = int(out["completion_mask"][i].sum())
        seen = segment_masks(out["completion_ids"][i, :n].tolist(), t.pieces)[0]
        on = out["tool_mask"][i, :n] > 0
        assert bool(on[torch.from_numpy(seen)].any()) == (i not in lost) and on[~torch.from_numpy(seen)].all() and not out["tool_mask"][i, n:].any()
    known = torch.tensor([2.2, 1., 0.])
    assert float(out["advantages"][0, 0]) == pytest.approx(float(1.1333333 / (known.std() + 1e-4)), abs=1e-5)
    assert t._metrics["eval"]["frac_reward_missing/perception"] == [pytest.approx(3 / 8)]

def test_trls_own_mask_of_tools_is_kept(ours):
    "A token that TRL masks out stays out."
    out = batch(ours)
    out["tool_mask"] = out["completion_mask"].clone()
    out["tool_mask"][:, 3:6] = 0
    found = ours._per_token(out, torch.ones(8, 2), torch.ones(8, 2, dtype=torch.bool))
    assert not found["tool_mask"][:, 3:6].any() and found["tool_mask"][:, :3].all()

# Runs

def weights_after(t):
    t.train()
    return torch.cat([p.detach().flatten() for p in t.model.parameters()])

def test_two_steps_log_both_rewards(folder, tokenizer, tmp_path):
    "Sampled by TRL itself."
    t = make(PAGRPOTrainer, process_rewards(tokenizer, JUDGE, BOUNDS), folder, tokenizer, tmp_path, rollout=None, dtype=torch.float32, max_completion_length=12, log_completions=True)
    t.train()
    logged = t.state.log_history[:2]
    for row in logged: assert {"loss", "kl", "perception/format", "reasoning/accuracy", *(f"rewards/{p}_reward/mean" for p in ("perception", "reasoning"))} <= set(row)
    assert all(math.isfinite(row["loss"]) for row in logged) and t.state.global_step == 2
    assert len(t._logs["extra"]["perception advantage"]) == len(t._logs["completion"]) == 8

def test_two_steps_with_grpos_credit_end_in_trls_weights(folder, tokenizer, tmp_path):
    funcs = process_rewards(tokenizer, JUDGE, BOUNDS)
    theirs = make(GRPOTrainer, funcs[1:], folder, tokenizer, tmp_path, loss_type="grpo")
    start = torch.cat([p.detach().flatten() for p in theirs.model.parameters()])
    a, b = weights_after(theirs), weights_after(make(PAGRPOTrainer, funcs, folder, tokenizer, tmp_path, credit="grpo", weights="response"))
    assert close(b - start, a - start)

def test_two_steps_on_frames(tmp_path):
    "The family's processor wants torchvision, which `make .venv` puts beside the environment."
    folder = Path(sys.prefix) / "torchvision"
    if not folder.exists(): pytest.skip(f"torchvision is not in {folder.name}/ of the environment: pip install --no-deps --target .venv/torchvision torchvision")
    subprocess.run([sys.executable, str(ROOT / "tests/bridge_images.py"), str(folder), str(tmp_path / "out.json")], check=True, capture_output=True, cwd=ROOT)
    got = json.loads((tmp_path / "out.json").read_text())
    assert got["images"] == [4] * 4 and got["advantages"] == got["ids"] and len(got["log"]) == 2
    assert all("rewards/perception_reward/mean" in row and "rewards/reasoning_reward/mean" in row for row in got["log"])

@pytest.mark.parametrize("how", ("process", "batch"))
def test_the_split_into_micro_batches_changes_nothing(folder, tokenizer, tmp_path, how):
    "Weights after two steps of eight responses at once, or of four times two."
    funcs = process_rewards(tokenizer, SILENT, BOUNDS)
    whole, split = (make(PAGRPOTrainer, funcs, folder, tokenizer, tmp_path, weights=how, per_device_train_batch_size=b, gradient_accumulation_steps=8 // b) for b in (8, 2))
    start = torch.cat([p.detach().flatten() for p in whole.model.parameters()])
    a, b = weights_after(whole), weights_after(split)
    assert close(b - start, a - start, 1e-5)

@storm # test_rl has the gradients of two processes, test_ranks the commands in two
def test_two_processes_end_in_one_process_s_weights(folder, tokenizer, tmp_path):
    "A group on each, over gloo; `batch` needs both processes' tokens."
    call = [sys.executable, ROOT / "tests/bridge_child.py", folder, "batch", tmp_path]
    check_both(on_two(call, {**os.environ, "PYTHONPATH": str(ROOT)}))
    a, b = (torch.load(tmp_path / f"weights.{k}") for k in "01")
    alone = make(PAGRPOTrainer, process_rewards(tokenizer, SILENT, BOUNDS), folder, tokenizer, tmp_path, dtype=torch.float32, weights="batch")
    start = torch.cat([p.detach().flatten() for p in alone.model.parameters()])
    one = weights_after(alone)
    assert a.equal(b) and close(a - start, one - start, 1e-4)

@pytest.mark.parametrize("wrong, said", [(dict(loss_type="dapo"), "need GRPOConfig\\(loss_type='dr_grpo'\\)"), (dict(credit="ppo"), "unknown credit matrix 'ppo'"),
                                         (dict(credit=[[1], [1]]), "for 1 reward functions, 2 are given"), (dict(scale_rewards="batch"), "mix the groups"), (dict(weights="token"), "unknown token weights")])
def test_what_cannot_be_exact_is_refused(folder, tokenizer, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said): make(PAGRPOTrainer, process_rewards(tokenizer, JUDGE, BOUNDS), folder, tokenizer, tmp_path, **wrong)

# Rewards and the dataset

def test_rewards_are_those_of_our_table(tokenizer):
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
    data = to_trl([r for r in RECORDS for _ in range(4)])
    columns = {k: data[k][:] for k in data.column_names if k != "prompt"}
    P, R = process_rewards(tokenizer, SILENT, LENGTHS["video-r1"], g=4)
    logged = {}
    got = [f(prompts=[""] * 8, completions=["<think>lost on the way"] * 8, completion_ids=ids, log_metric=logged.__setitem__, **columns) for f in (P, R)]
    traces, owners = [parse(t) for t in TEXTS], [r for r in RECORDS for _ in range(4)]
    lengths = torch.tensor([segment_masks(i, vocabulary(tokenizer)).sum(-1).tolist() for i in ids])
    table = rewards(traces, [SILENT(r, t.observation).value if t.perception_ok else 0. for r, t in zip(owners, traces)], [score_record(r, t.answer) for r, t in zip(owners, traces)], lengths, LENGTHS["video-r1"], g=4)
    want = [[None if math.isnan(x) else x for x in column] for column in table.total().T.tolist()]
    assert got == want and None in got[0] and None not in got[1]
    assert logged["perception/accuracy"] == pytest.approx(float(table.accuracy[:, 0].nanmean()))

def test_bounds_that_look_at_the_group_must_know_it(tokenizer):
    for name in ("video-r1", "dynamic"):
        with pytest.raises(ValueError, match="g=num_generations"): process_rewards(tokenizer, JUDGE, LENGTHS[name])

def test_an_id_that_no_token_has_adds_no_text(tokenizer):
    assert vocabulary(tokenizer)[10**6] == b""

def test_a_truth_that_no_answer_can_match_is_named_before_anything_is_sampled():
    odd = replace(RECORDS[0], problem_id="odd", problem_type="numerical", solution="<answer>many</answer>", answer="many")
    with pytest.raises(RecordError, match="record 'odd': field `solution`"): to_trl([RECORDS[0], odd])


def test_a_row_holds_its_record(tmp_path):
    from videop2r.tools.trl import _record
    data = to_trl(RECORDS, samples(), n_frames=3)
    rows = data[[0, 0, 1]]
    assert [len(x) for x in rows["images"]] == [3, 3, 3 if RECORDS[1].data_type == "video" else 1] and rows["images"][0][0].size == (84, 84)
    assert rows["images"][0] is rows["images"][1]
    for i, r in enumerate(RECORDS): assert _record({k: data[k][:] for k in data.column_names if k != "images"}, i) == r

def test_a_missing_column_is_named(tokenizer):
    _, R = process_rewards(tokenizer, JUDGE)
    with pytest.raises(RecordError, match="column `solution` is missing; make the dataset with to_trl"): R([""], [""], [[1]], problem=["?"], problem_type=["numerical"])

def test_without_trl_the_module_loads_and_says_what_to_install():
    code = """import sys
sys.modules["trl"] = sys.modules["datasets"] = None
from videop2r.tools.trl import PAGRPOTrainer, to_trl
for use in (PAGRPOTrainer, lambda: to_trl([])):
    try: use()
    except ImportError as e: print(e)"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert out.count("pip install 'videop2r[trl]'") == 2
