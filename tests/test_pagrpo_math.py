"Rewards, advantages and loss against loops in float64, and the invariances that training relies on."
import math, re, statistics
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from videop2r.advantages import ADVANTAGES, CREDIT, broadcast, credit, informative, normalise, token_weights, zero_variance
from videop2r.cot import EXAMPLE, TAGS, parse
from videop2r.engine.findings import findings
from videop2r.losses import KL, policy_loss, token_terms
from videop2r.rewards import FORMATS, LENGTHS, Bounds, length_reward, rewards, settle, temporal_bonus, without_tags, worked_example

settings.register_profile("steady", deadline=None, database=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("steady")

torch.set_num_threads(1)
nan = float("nan")
HOWS = ("process", "response", "batch")

def batch(seed, b=6, t=17, both=(2,), empty=()):
    "Random log-probabilities, masks with padding, rewards; in float64."
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    masks = torch.zeros(b, 2, t, dtype=torch.bool)
    for i in range(b):
        end = int(torch.randint(5, t + 1, (1,), generator=g))
        cut = int(torch.randint(1, end - 1, (1,), generator=g))
        masks[i, 0, :cut], masks[i, 1, cut:end] = True, True
        if i in both: masks[i, :, :end] = True
        if i in empty: masks[i, 1] = False
    logp = r(b, t) * .4 - 2
    return dict(logp=logp, old=logp + r(b, t) * .25, ref=logp + r(b, t) * .4, masks=masks, R=r(b, 2).abs())

def prepared(d, matrix="pagrpo", how="process"):
    A, valid = normalise(credit(d["R"], matrix))
    w = token_weights(d["masks"], how, valid, dtype=torch.float64)
    return A, w, broadcast(A, w)

def loss_of(d, **kw):
    A, w, adv = prepared(d, kw.pop("matrix", "pagrpo"), kw.pop("how", "process"))
    return policy_loss(d["logp"], d["old"], d["ref"], adv, w, **kw)[0]

def weight_aloud(masks, i, how):
    "What one token of one segment of response i weighs, by counting."
    sizes = [[int(x.sum()) for x in m] for m in masks]
    present = sum(n > 0 for n in sizes[i])
    if how == "process": return [1 / n / present if n else 0 for n in sizes[i]]
    if how == "response": return [1 / sum(sizes[i])] * 2 if sum(sizes[i]) else [0, 0]
    return [len(sizes) / sum(map(sum, sizes))] * 2

KL_ALOUD = {"k1": lambda x: -x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(x) - x - 1}

def aloud(d, A, how="process", clip=.2, high=None, beta=.04, kl="k3"):
    "Eq. 7 as a loop over responses, processes and tokens in Python floats; a token of both is clipped with its mean advantage."
    total = 0.
    for i, own in enumerate(d["masks"]):
        w = weight_aloud(d["masks"], i, how)
        for t in range(own.shape[1]):
            here = [k for k in range(2) if own[k, t]]
            if not here: continue
            a = sum(w[k] * A[i][k] for k in here) / sum(w[k] for k in here)
            lp, o, r = (float(d[n][i, t]) for n in ("logp", "old", "ref"))
            rho, gap = math.exp(lp - o), r - lp
            capped = max(1 - clip, min(rho, 1 + (clip if high is None else high)))
            for k in here: total += w[k] * (min(rho * a, capped * a) - beta * KL_ALOUD[kl](gap))
    return -total / len(d["masks"])

def normal_aloud(column, eps=1e-4):
    m, s = statistics.mean(column), statistics.stdev(column)
    return [(x - m) / (s + eps) for x in column]

# The equations

@pytest.mark.parametrize("kl", KL)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_equation(seed, how, kl):
    d = batch(seed, both=(2,) if seed % 2 else (), empty=(4,) if seed > 1 else ())
    A = list(zip(*[normal_aloud(c) for c in d["R"].T.tolist()]))
    got, want = loss_of(d, how=how, clip=.1, clip_high=.3, beta=.07, kl=kl), aloud(d, A, how, .1, .3, .07, kl)
    assert float(got) == pytest.approx(want, abs=1e-12)

def test_clipping_happens_in_that_test():
    d = batch(0)
    assert token_terms(d["logp"], d["old"], None, prepared(d)[2], d["masks"].any(1), clip=.1)["clipped"].sum() > 5

@pytest.mark.parametrize("matrix", CREDIT)
def test_credit_is_a_matrix_product(matrix):
    R = batch(1)["R"]
    assert torch.allclose(credit(R, matrix), R @ torch.tensor(CREDIT[matrix], dtype=R.dtype).T)
    assert torch.equal(credit(R, matrix), credit(R, CREDIT[matrix]))

@pytest.mark.parametrize("how", HOWS)
def test_grpo_matrix_is_plain_grpo(how):
    "Plain GRPO written for itself: one reward, one advantage a response, no segments."
    d = batch(3, both=())
    a = torch.tensor(normal_aloud(d["R"][:, 1].tolist()), dtype=torch.float64)[:, None]
    on = d["masks"].any(1)
    rho, gap = (d["logp"] - d["old"]).exp(), d["ref"] - d["logp"]
    per_token = torch.minimum(rho * a, rho.clamp(.8, 1.2) * a) - .04 * (gap.exp() - gap - 1)
    if how == "response": want = -((per_token * on).sum(1) / on.sum(1)).mean()
    elif how == "batch": want = -(per_token * on).sum() / on.sum()
    else: want = -sum((per_token * m).sum(1) / m.sum(1) / 2 for m in d["masks"].unbind(1)).mean()
    assert float(loss_of(d, matrix="grpo", how=how)) == pytest.approx(float(want), abs=1e-12)

def test_grpo_gives_all_tokens_of_a_response_one_advantage_even_where_both_own_them():
    d = batch(5, both=(1, 3))
    A, w, adv = prepared(d, "grpo")
    for i, m in enumerate(d["masks"].any(1)): assert torch.allclose(adv[i][m], A[i, 1].expand(int(m.sum())))

@pytest.mark.parametrize("kl", KL)
def test_kl_gradient_is_finite_and_zero_at_the_reference(kl):
    x = torch.full((1, 3), -2., dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 3, dtype=torch.float64)
    loss, m = policy_loss(x, x.detach(), x.detach(), 0 * one, one / 3, kl=kl, beta=1.)
    assert m["kl"] == 0 and torch.isfinite(torch.autograd.grad(loss, x)[0]).all()

@pytest.mark.parametrize("kl", KL)
@pytest.mark.parametrize("how", HOWS)
def test_gradient_is_the_slope(how, kl):
    "Central differences; a token whose ratio lies within the step of the clip has no slope, and none does here."
    d, step = batch(23, empty=(4,)), 1e-5
    edges = (d["logp"] - d["old"]).exp()[d["masks"].any(1)]
    assert min((edges - .8).abs().min(), (edges - 1.2).abs().min()) > 10 * step
    x = d["logp"].clone().requires_grad_()
    loss_of({**d, "logp": x}, how=how, kl=kl, beta=.3).backward()
    for i, t in d["masks"].any(1).nonzero().tolist():
        moved = d["logp"].clone()
        moved[i, t] += step
        up = loss_of({**d, "logp": moved}, how=how, kl=kl, beta=.3)
        moved[i, t] -= 2 * step
        slope = (up - loss_of({**d, "logp": moved}, how=how, kl=kl, beta=.3)) / 2 / step
        assert float(x.grad[i, t]) == pytest.approx(float(slope), abs=1e-7)

# TRL's code on the same tensors

@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed; it is an extra")

def trl_loss(trl, d, advantages, kind="grpo", beta=.04, high=.2, longest=17):
    "The loss of TRL's trainer, of which everything but the loss is left out."
    logp, on = d["logp"].clone().requires_grad_(), d["masks"].any(1)
    same = SimpleNamespace(reduce=lambda x, **kw: x, gather=lambda x: x, num_processes=1)
    trainer = SimpleNamespace(_get_per_token_logps_and_entropies=lambda *a, **kw: (logp, torch.zeros_like(logp), None), top_entropy_quantile=1., off_policy_mask_threshold=None,
                              importance_sampling_level="token", beta=beta, args=SimpleNamespace(delta=None, use_bias_correction_kl=False), loss_type=kind, epsilon_low=.2,
                              epsilon_high=high, use_vllm=False, model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1, aux_loss_enabled=False,
                              _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)}, accelerator=same, max_completion_length=longest)
    ids = torch.zeros(on.shape, dtype=torch.long)
    inputs = dict(prompt_ids=ids[:, :1], prompt_mask=ids[:, :1] + 1, completion_ids=ids, completion_mask=on.long(), advantages=advantages,
                  old_per_token_logps=d["old"], ref_per_token_logps=d["ref"])
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.detach(), logp.grad

@pytest.mark.parametrize("kind, how, mean", [("grpo", "response", None), ("bnpo", "batch", None), ("dr_grpo", "batch", 17)])
@pytest.mark.parametrize("high", (.2, .28))
@pytest.mark.parametrize("seed", (30, 31, 32))
def test_loss_and_gradient_are_those_of_trl(trl, seed, high, kind, how, mean):
    "One reward, GRPO's matrix: equal for each of the means over tokens that TRL has."
    d = batch(seed, both=())
    A, _ = normalise(credit(d["R"], "grpo"))
    want, gradient = trl_loss(trl, d, A[:, 0], kind, high=high)
    x, w = d["logp"].clone().requires_grad_(), token_weights(d["masks"], how, mean_tokens=mean, dtype=torch.float64)
    loss, _ = policy_loss(x, d["old"], d["ref"], broadcast(A, w), w, clip_high=high)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(want), abs=1e-12)
    assert torch.allclose(x.grad, gradient, atol=1e-12, rtol=1e-9) and gradient.any()

def test_loss_is_that_of_trl_with_an_advantage_for_each_token(trl):
    "PA-GRPO through TRL's door for (b, t) advantages, responses without an observation included."
    d = batch(33, both=(1, 4))
    A, w, adv = prepared(d, how="response")
    x = d["logp"].clone().requires_grad_()
    loss, _ = policy_loss(x, d["old"], d["ref"], adv, w)
    loss.backward()
    want, gradient = trl_loss(trl, d, adv)
    assert float(loss.detach()) == pytest.approx(float(want), abs=1e-12) and torch.allclose(x.grad, gradient, atol=1e-12)

@pytest.mark.parametrize("scale", (True, False))
def test_advantages_are_those_of_trl(trl, scale):
    "Group by group, as its trainer writes it, by its own deviation; a reward that nobody gave is left out there too."
    R = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    R[1, 3] = R[4, :5] = nan
    want = R - R.nanmean(1, keepdim=True)
    if scale: want = want / (trl.nanstd(R, dim=1, keepdim=True) + 1e-4)
    assert torch.allclose(normalise(R[..., None], scale=scale)[0][..., 0], want.nan_to_num(0.), atol=1e-12)

# Each advantage reaches only its own tokens

def terms(d, matrix="pagrpo"):
    A, w, adv = prepared(d, matrix)
    logp = d["logp"].clone().requires_grad_()
    loss, _ = policy_loss(logp, d["old"], d["ref"], adv, w)
    loss.backward()
    gain = token_terms(d["logp"], d["old"], d["ref"], adv, w.sum(1) > 0)["gain"]
    return A, adv, w.sum(1) * gain, logp.grad

@pytest.mark.parametrize("k", (0, 1))
@pytest.mark.parametrize("change", (1.5, nan))
def test_one_process_does_not_touch_the_other(k, change):
    d = batch(7, both=())
    e = {**d, "R": d["R"].clone()}
    e["R"][2, k] = change if math.isnan(change) else e["R"][2, k] + change
    mine, others = d["masks"][:, k], d["masks"][:, 1 - k]
    (A, *before), (B, *after) = terms(d), terms(e)
    assert torch.equal(A[:, 1 - k], B[:, 1 - k]) and (A[:, k] != B[:, k]).all()
    for x, y in zip(before, after):
        assert torch.equal(x[others], y[others])
        assert (x[mine] != y[mine]).float().mean() > .5  # a token held by the clip keeps its gradient

def test_a_token_of_both_hears_both():
    d = batch(7, both=(2,))
    for k in (0, 1):
        e = {**d, "R": d["R"].clone()}
        e["R"][0, k] += 1
        assert (terms(d)[1] != terms(e)[1])[2][d["masks"][2, 0]].all()

# Invariances

@pytest.mark.parametrize("how", HOWS)
def test_padding(how):
    d = batch(11)
    pad = lambda x, v: torch.cat([torch.full((*x.shape[:-1], 2), v, dtype=x.dtype), x, torch.full((*x.shape[:-1], 5), v, dtype=x.dtype)], -1)
    e = dict(R=d["R"], masks=pad(d["masks"], False), logp=pad(d["logp"], 400.), old=pad(d["old"], nan), ref=pad(d["ref"], -math.inf))
    assert float(loss_of(e, how=how)) == pytest.approx(float(loss_of(d, how=how)), abs=1e-12)
    x = e["logp"].clone().requires_grad_()
    loss_of({**e, "logp": x}, how=how).backward()
    on = e["masks"].any(1)
    assert torch.isfinite(x.grad).all() and not x.grad[~on].any()

@pytest.mark.parametrize("how", HOWS)
def test_order_of_rollouts(how):
    d = batch(12, empty=(5,))
    p = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert float(loss_of({k: v[p] for k, v in d.items()}, how=how)) == pytest.approx(float(loss_of(d, how=how)), abs=1e-12)

@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("size", (1, 2, 4))
def test_micro_batches_add_up(how, size):
    d = batch(13)
    _, w, adv = prepared(d, how=how)
    xs = (d["logp"], d["old"], d["ref"], adv, w)
    whole, metrics = policy_loss(*xs)
    parts = [policy_loss(*(x[i:i + size] for x in xs), denominator=6) for i in range(0, 6, size)]
    assert float(sum(l for l, _ in parts)) == pytest.approx(float(whole), abs=1e-12)
    for k, v in metrics.items(): assert sum(m[k] for _, m in parts) == pytest.approx(v, abs=1e-12)

# The same on the parameters of a model, whatever the split

def model_gradient(d, parts, how, pad=0):
    "Gradient of a small policy's weights, accumulated over micro-batches that are lists of rows."
    g = torch.Generator().manual_seed(3)
    features = torch.randn(*d["logp"].shape, 5, generator=g, dtype=torch.float64)
    theta = torch.randn(5, 7, generator=g, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(7, d["logp"].shape, generator=g)
    A, w, adv = prepared(d, how=how)
    for rows in parts:
        logp = (features[rows] @ theta).log_softmax(-1).gather(-1, ids[rows, :, None])[..., 0]
        old = (logp + d["old"][rows] - d["logp"][rows]).detach()
        grown = lambda x, v: torch.nn.functional.pad(x, (0, pad), value=v)
        xs = (grown(logp, -3.), grown(old, nan), grown(old + .2, nan), grown(adv[rows], nan), grown(w[rows], 0.))
        policy_loss(*xs, denominator=len(adv))[0].backward()
    return theta.grad

@given(st.permutations(range(6)), st.sets(st.integers(1, 5)), st.sampled_from(HOWS), st.integers(0, 3))
@settings(max_examples=60)
def test_gradients_do_not_mind_the_split_the_order_and_the_padding(order, cuts, how, pad):
    d = batch(24, empty=(3,))
    d["masks"][5] = False  # a response of no tokens
    cuts = [0, *sorted(cuts), 6]
    parts = [list(order[a:b]) for a, b in zip(cuts, cuts[1:])]
    whole = model_gradient(d, [list(range(6))], how)
    assert whole.abs().max() > .01 and torch.allclose(model_gradient(d, parts, how, pad), whole, atol=1e-12, rtol=0)

def test_batch_weights_over_two_machines():
    d = batch(14)
    whole = token_weights(d["masks"], "batch", dtype=torch.float64)
    mean = d["masks"].sum() / 6
    halves = [token_weights(m, "batch", mean_tokens=mean, dtype=torch.float64) for m in d["masks"].split(3)]
    assert torch.allclose(torch.cat(halves), whole)

@pytest.mark.parametrize("how", HOWS)
def test_weights_sum_to_one_a_response_and_lie_on_the_masks(how):
    d = batch(15, empty=(1, 4))
    w = token_weights(d["masks"], how, dtype=torch.float64)
    assert not w[~d["masks"]].any() and (w[d["masks"]] > 0).all()
    assert float(w.sum()) == pytest.approx(6)
    if how != "batch": assert torch.allclose(w.sum((1, 2)), torch.ones(6, dtype=torch.float64))

# Options of others

def known(column): return [x for x in column if not math.isnan(x)]

@given(st.lists(st.floats(0, 2.2) | st.just(nan), min_size=2, max_size=8), st.booleans())
def test_leaving_one_out(column, scale):
    A, valid = normalise(torch.tensor(column, dtype=torch.float64)[:, None], baseline="others", scale=scale)
    others = known(column)
    assume(len(others) > 1 and max(others) - min(others) > 1e-6)
    for i, x in enumerate(column):
        if math.isnan(x): assert A[i] == 0 and not valid[i]
        else: assert float(A[i]) == pytest.approx((x - (sum(others) - x) / (len(others) - 1)) / (statistics.stdev(others) + 1e-4 if scale else 1), abs=1e-6)

@pytest.mark.parametrize("options", ADVANTAGES.values(), ids=ADVANTAGES)
def test_groups_at_once_or_one_by_one(options):
    S = torch.rand(5, 8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    S[1, :, 0], S[2, 3, 1], S[3, 1:, 0], S[4] = .7, nan, nan, .5
    A, valid = normalise(S, **options)
    for s, a, v in zip(S, A, valid):
        one, ok = normalise(s, **options)
        assert torch.equal(one, a) and torch.equal(ok, v)
    assert informative(S).tolist() == [True, True, True, True, False]

def test_dropping_flat_columns_leaves_them_no_gradient_at_all():
    d = batch(25, both=())
    d["R"][:, 0] = .7
    A, valid = normalise(d["R"], **ADVANTAGES["dapo"])
    w, x = token_weights(d["masks"], valid=valid, dtype=torch.float64), d["logp"].clone().requires_grad_()
    policy_loss(x, d["old"], d["ref"], broadcast(A, w), w)[0].backward()
    assert not x.grad[d["masks"][:, 0]].any() and (x.grad[d["masks"][:, 1]] != 0).float().mean() > .5
    assert torch.equal(A[:, 1], normalise(d["R"])[0][:, 1])

@pytest.mark.parametrize("high, gain", ((None, 1.2), (.28, 1.28)))
def test_clip_higher(high, gain):
    ratio, a = torch.tensor([[1.5, 1.5, .5, .5]]), torch.tensor([[1., -1., 1., -1.]])
    got = token_terms(ratio.log(), torch.zeros(1, 4), None, a, torch.ones(1, 4, dtype=torch.bool), clip_high=high)
    assert torch.allclose(got["gain"], torch.tensor([[gain, -1.5, .5, -.8]]))

# Edges

@pytest.mark.parametrize("how", HOWS)
def test_a_batch_without_a_token_has_no_loss_and_no_gradient(how):
    d = batch(26)
    d["masks"][:] = False
    x = d["logp"].clone().requires_grad_()
    loss = loss_of({**d, "logp": x}, how=how)
    loss.backward()
    assert loss == 0 and not x.grad.any()

def test_a_group_of_one_is_refused():
    for S in (torch.ones(1, 2), torch.ones(3, 1, 2)):
        with pytest.raises(ValueError, match="at least 2 responses to a prompt"): normalise(S)

@pytest.mark.parametrize("options, words", [(dict(baseline="batch"), "unknown baseline 'batch'.*others"), (dict(), "rollout 3 is infinite")])
def test_advantages_refuse(options, words):
    with pytest.raises(ValueError, match=words): normalise(torch.tensor([[0., 1.], [1., 0.], [math.inf if not options else 0., 2.]]), **options)

def test_findings_name_group_process_and_rollout():
    S = torch.tensor([[1., 2.], [2., 1.], [0., 0.], [0., 1.], [nan, 1.], [1., 0.], [nan, nan], [nan, 1.]])
    masks = torch.zeros(8, 2, 3, dtype=torch.bool)
    masks[:, 0, 0] = masks[:, 1, 1:] = True
    masks[2:4] = True
    masks[7] = False
    assert list(map(str, findings(S, masks, 2))) == [
        "group 1: none of the 2 rollouts closes an observation, so both processes own every token",
        "group 1, perception: all 2 known rewards are 0, so only KL trains it",
        "group 2, perception: 1 of 2 rewards known, so nothing of it is trained",
        "group 3: rollout 1 has no tokens, so only its reward counts, in the others' mean",
        "group 3, perception: 0 of 2 rewards known, so nothing of it is trained",
        "group 3, reasoning: 1 of 2 rewards known, so nothing of it is trained"]
    assert findings(torch.cat([S[:2]] * 2), masks[:2].repeat(2, 1, 1), 4) == []

def test_the_loss_names_what_does_not_fit():
    d = batch(27)
    _, w, adv = prepared(d)
    for i, (change, words) in enumerate(((w.masked_fill(d["masks"], nan), "weights must be finite"), (-w, "weights must be finite"), (w[:, :, :-1], "logp has shape"))):
        with pytest.raises(ValueError, match=words): policy_loss(d["logp"], d["old"], d["ref"], adv, change)
    with pytest.raises(ValueError, match="advantages has shape"): policy_loss(d["logp"], d["old"], d["ref"], adv[:, :1], w)
    with pytest.raises(ValueError, match="unknown estimate of KL 'k4'"): policy_loss(d["logp"], d["old"], d["ref"], adv, w, kl="k4")
    with pytest.raises(ValueError, match=r"advantages is not finite in responses \[0\]"): policy_loss(d["logp"], d["old"], d["ref"], adv.index_fill(0, torch.tensor([0]), nan), w)

def test_empty_segment_and_empty_response():
    d = batch(16, empty=(0,))
    d["masks"][3] = False
    assert torch.isfinite(loss_of(d))
    _, w, adv = prepared(d)
    assert not w[3].any() and not adv[3].any() and not w[0, 1].any()

@pytest.mark.parametrize("value", (.1, .7, 1 / 3, 2.2, 0., 1e-3))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("g", (2, 7, 8))
def test_equal_rewards_give_exactly_no_advantage(value, dtype, g):
    S = torch.full((g, 2), value, dtype=dtype)
    A, valid = normalise(S)
    assert not A.any() and valid.all() and zero_variance(S).all()

def test_equal_rewards_leave_only_kl():
    d = batch(17)
    d["R"][:, 0] = .7
    A, w, adv = prepared(d)
    assert zero_variance(d["R"]).tolist() == [True, False]
    assert not adv[d["masks"][:, 0] & ~d["masks"][:, 1]].any()
    x = d["logp"].clone().requires_grad_()
    policy_loss(x, d["old"], d["ref"], adv, w)[0].backward()
    assert (x.grad[d["masks"][:, 0]] != 0).all()

@given(st.lists(st.floats(0, 2.2) | st.just(nan), min_size=2, max_size=8))
def test_missing_verdicts(column):
    S = torch.tensor(column, dtype=torch.float64)[:, None]
    A, valid = normalise(S)
    known = [x for x in column if not math.isnan(x)]
    assert torch.isfinite(A).all() and not A[~valid].any()
    if len(known) < 2: assert not valid.any() and not zero_variance(S).any()
    elif max(known) - min(known) > 1e-6:
        assert A[valid].tolist() == pytest.approx(normal_aloud(known), abs=1e-6)
        assert int(valid.sum()) == len(known)

def test_a_missing_verdict_takes_only_its_own_segment_out():
    d = batch(18, both=())
    d["R"][1, 0] = nan
    _, w, adv = prepared(d)
    clean = token_weights(d["masks"], dtype=torch.float64)
    assert not w[1, 0].any() and torch.equal(w[:, 1], clean[:, 1]) and torch.equal(w[[0, 2, 3, 4, 5]], clean[[0, 2, 3, 4, 5]])
    x = d["logp"].clone().requires_grad_()
    policy_loss(x, d["old"], d["ref"], adv, w)[0].backward()
    assert not x.grad[1][d["masks"][1, 0]].any() and x.grad[1][d["masks"][1, 1]].any()

def test_grpo_does_not_mind_missing_verdicts():
    d = batch(19)
    e = {**d, "R": torch.stack([torch.full((6,), nan, dtype=torch.float64), d["R"][:, 1]], 1)}
    assert float(loss_of(d, matrix="grpo")) == float(loss_of(e, matrix="grpo"))
    assert normalise(credit(e["R"], "no_separation"))[1].sum() == 0

def test_zero_weight_times_missing_is_not_missing():
    R = torch.tensor([[nan, 1.], [2., nan]])
    assert credit(R, "grpo").isnan().tolist() == [[False, False], [True, True]]
    assert credit(R, "no_reasoning_idle").isnan().tolist() == [[True, False], [False, False]]

@pytest.mark.parametrize("name,i", [("logp", 0), ("old", 1), ("ref", 2)])
def test_a_log_probability_that_is_not_finite_is_named(name, i):
    d = batch(20)
    d[name][4, 0] = nan if i else -math.inf
    with pytest.raises(ValueError, match=rf"{name} is not finite in responses \[4\]"): loss_of(d)

def test_reference_is_not_needed_without_kl():
    d = batch(21)
    _, w, adv = prepared(d)
    assert torch.isfinite(policy_loss(d["logp"], d["old"], None, adv, w, beta=0.)[0])
    with pytest.raises(ValueError, match="reference"): policy_loss(d["logp"], d["old"], None, adv, w)

def test_float32_is_close_to_float64():
    d = batch(22)
    e = {k: v if v.dtype == torch.bool else v.float() for k, v in d.items()}
    assert float(loss_of(e)) == pytest.approx(float(loss_of(d)), abs=1e-5)

# Rewards

EDGES = [(127, 319), (128, 320), (320, 512), (321, 513)]

@pytest.mark.parametrize("p,r", EDGES)
def test_length_bounds_are_inclusive(p, r):
    t = rewards([parse(EXAMPLE[0])], [1], [.3], [[p, r]])
    assert t.length[0].tolist() == pytest.approx([.2 * (128 <= p <= 320), .2 * (320 <= r <= 512)])

@pytest.mark.parametrize("verdict", (0, 1, nan))
def test_malformed_perception_needs_no_judge(verdict):
    t = rewards([parse(EXAMPLE[3])], [verdict], [1], [[200, 400]])
    assert t.accuracy[0].tolist() == [0, 1] and t.total()[0, 0] == 0 and not t.missing.any()

def test_length_needs_accuracy_and_format_of_its_own_process():
    bounds = Bounds((1, 99), (1, 99))
    bad_reasoning = parse("<observation>o</observation> <think>t<answer>B</answer>")
    t = rewards([parse(EXAMPLE[0])] * 3 + [bad_reasoning], [0, 1, nan, 1], [1, 0, 1, 1], [[9, 9]] * 4, bounds)
    assert (t.length > 0).tolist() == [[False, True], [True, False], [False, True], [True, False]]

def test_bad_inputs_are_named():
    traces, ok = [parse(t) for t in EXAMPLE], [[9, 9]] * 4
    for args, words in (([[1, 1, 0], [1] * 4, ok], "accuracy_P"), ([[1, 1, 0, 2], [1] * 4, ok], "accuracy_P: rollout 4 has 2"),
                        ([[1] * 4, [1, 1, nan, 1], ok], "scores_R: rollout 3"), ([[1] * 4, [1] * 4, [9] * 4], "lengths"), ([[1] * 4, [-1, 0, 0, 0], ok], "scores_R: rollout 1")):
        with pytest.raises(ValueError, match=words): rewards(traces, *args)

def test_worked_example_by_hand():
    pieces, masks, table = worked_example()
    assert torch.allclose(table.total(), torch.tensor([[2.2, 2.2], [2, 1], [1, 2.2], [0, 2]]))
    A, _ = normalise(credit(table.total(), "pagrpo"), eps=0)
    assert torch.allclose(A, torch.tensor([[.8882, .6093], [.6908, -1.4796], [-.2961, .6093], [-1.2830, .2611]]), atol=2e-4)

# Rules of reward as values

def lengths_aloud(rows, bounds):
    "Video-R1's rule for one group: rows of (accuracy, tokens of the whole response)."
    deserving = [i for i, (a, _) in enumerate(rows) if a > .1]
    return [.2 * (len(deserving) > 1 and i in deserving and bounds[0] <= n <= bounds[1]) for i, (_, n) in enumerate(rows)]

groups = st.lists(st.tuples(st.sampled_from([0., .05, .1, .2, 1.]), st.integers(15, 40)), min_size=4, max_size=4)

@given(groups, groups)
def test_lengths_by_the_rule_of_video_r1(one, two):
    "Two groups at once, four rollouts each; the format is not looked at, the whole response is counted."
    traces = [parse(EXAMPLE[0]), parse("<observation>o</observation><think>t<answer>B</answer>")] * 4
    parts = [[n // 3, n - n // 3] for _, n in one + two]
    table = rewards(traces, [1] * 8, [a for a, _ in one + two], parts, replace(LENGTHS["video-r1"], reasoning=(20, 30)), g=4)
    assert table.length[:, 1].tolist() == pytest.approx(lengths_aloud(one, (20, 30)) + lengths_aloud(two, (20, 30)))
    assert not table.length[:, 0].any()

@given(st.lists(st.tuples(st.integers(0, 600), st.booleans()), min_size=2, max_size=8), st.sampled_from([0., .25, .5, .75, 1.]))
def test_dynamic_bounds_give_way_to_deserving_lengths_and_never_close(rows, stretch):
    lengths, earned = torch.tensor([[n, n] for n, _ in rows]), torch.tensor([[e, e] for _, e in rows])
    fixed, moved = (length_reward(lengths, earned, Bounds(stretch=s))[:, 0] > 0 for s in (None, stretch))
    deserving = [n for n, e in rows if e]
    assert (fixed <= moved).all() and not moved[~earned[:, 0]].any()
    if stretch == 1: assert moved.tolist() == [e for _, e in rows]
    if deserving and stretch == .5:
        middle = statistics.median(deserving)
        assert moved.tolist() == [e and min(128, middle) <= n <= max(320, middle) for n, e in rows]

def test_group_rules_keep_to_their_group():
    lengths, earned = torch.full((4, 2), 400), torch.tensor([[True] * 2, [False] * 2, [True] * 2, [True] * 2])
    assert (length_reward(lengths, earned, Bounds(peers=2), g=2) > 0).tolist() == [[False, False], [False, False], [False, True], [False, True]]

@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "x"]), max_size=9).map("".join))
def test_format_by_the_rule_of_video_r1(text):
    for t in (text, f"<think>{text}</answer>"):
        assume(not t[:1].isspace())  # white space before the first tag is forgiven after an observation, and so here
        assert FORMATS["video-r1"](parse(t))[1] == bool(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", t, re.S))
        assert FORMATS["video-r1"](parse("<observation>o</observation> " + t))[1] == FORMATS["video-r1"](parse(t))[1]

@given(st.lists(st.sampled_from([0, .1, .5, 1]), min_size=1, max_size=8), st.lists(st.sampled_from([0, .5, 1]), min_size=1, max_size=4))
def test_temporal_bonus(ordered, shuffled):
    sees = sum(ordered) / len(ordered) >= .8 * sum(shuffled) / len(shuffled) - 1e-7
    assume(abs(sum(ordered) / len(ordered) - .8 * sum(shuffled) / len(shuffled)) > 1e-6 or sum(shuffled) == 0)
    assert temporal_bonus(ordered, shuffled).tolist() == pytest.approx([.3 * (sees and a > .1) for a in ordered])

def test_temporal_bonus_is_a_reward_of_reasoning():
    args = ([parse(EXAMPLE[0])] * 2, [1, 1], [1, 0], [[9, 9]] * 2)
    plain, more = rewards(*args), rewards(*args, extra_R=temporal_bonus([1, 0], [0, 0]))
    assert torch.allclose(more.total() - plain.total(), torch.tensor([[0, .3], [0, 0]])) and torch.equal(more.total(extra=0), plain.total())
    for a, b, words in (([1], [], "shuffled: a group"), ([nan], [1], "accuracy: holds NaN"), ([1], [nan], "shuffled: holds NaN")):
        with pytest.raises(ValueError, match=words): temporal_bonus(a, b)

@pytest.mark.parametrize("missing, total", ((nan, nan), (0., 1.), (.5, 1.5)))
def test_what_a_missing_verdict_counts_as(missing, total):
    table = rewards([parse(EXAMPLE[0])] * 2, [nan, 1], [1, 1], [[9, 9]] * 2, missing=missing)
    assert float(table.total()[0, 0]) == pytest.approx(total, nan_ok=True) and table.missing.sum() == math.isnan(missing)

def test_rewards_name_what_does_not_fit():
    traces = [parse(t) for t in EXAMPLE]
    args = (traces, [1] * 4, [1] * 4, [[9, 9]] * 4)
    for kw, words in ((dict(form="loose"), "unknown format rule 'loose'"), (dict(g=3), "groups of 3"), (dict(extra_R=[1.]), "extra_R")):
        with pytest.raises(ValueError, match=words): rewards(*args, **kw)
    with pytest.raises(ValueError, match="traces: none given"): rewards([], [], [], torch.zeros(0, 2))

@given(st.lists(st.sampled_from(["<observation>", "</think>", "<answer", ">", "word", "é", "</", "<"]), max_size=12), st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_tags_are_taken_out_of_masks(parts, sizes):
    "However the bytes are cut into tokens, those that hold a byte of a tag are out and no others."
    text, pieces = "".join(parts).encode(), []
    while sum(map(len, pieces)) < len(text): pieces.append(text[sum(map(len, pieces)):][:sizes[len(pieces) % len(sizes)]])
    kept = without_tags(torch.ones(1, 2, len(pieces), dtype=torch.bool), [pieces])[0]
    inside = {i for m in TAGS.finditer("".join(parts)) for i in range(len("".join(parts)[:m.start()].encode()), len("".join(parts)[:m.end()].encode()))}
    at = 0
    for t, piece in enumerate(pieces):
        assert bool(kept[0, t]) == bool(kept[1, t]) == (not inside & set(range(at, at + len(piece))))
        at += len(piece)

def test_who_owns_what_both_own():
    _, masks, _ = worked_example()
    for how, last in (("both", [9, 9]), ("reasoning", [0, 9]), ("nobody", [0, 0])):
        got = settle(masks, how)
        assert torch.equal(got[:3], masks[:3]) and got[3].sum(-1).tolist() == last
    with pytest.raises(ValueError, match="unknown owner 'judge'"): settle(masks, "judge")
