"Rewards, advantages and loss against loops in float64, and the invariances that training relies on."
import math, statistics
import pytest, torch
from hypothesis import given, strategies as st
from videop2r.advantages import CREDIT, broadcast, credit, normalise, zero_variance
from videop2r.cot import EXAMPLE, parse
from videop2r.losses import KL, policy_loss, token_terms, token_weights
from videop2r.rewards import Bounds, rewards, worked_example

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

def aloud(d, A, how="process", clip=.2, high=None, beta=.04):
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
            for k in here: total += w[k] * (min(rho * a, capped * a) - beta * (math.exp(gap) - gap - 1))
    return -total / len(d["masks"])

def normal_aloud(column, eps=1e-4):
    m, s = statistics.mean(column), statistics.stdev(column)
    return [(x - m) / (s + eps) for x in column]

# The equations

@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_equation(seed, how):
    d = batch(seed, both=(2,) if seed % 2 else (), empty=(4,) if seed > 1 else ())
    A = list(zip(*[normal_aloud(c) for c in d["R"].T.tolist()]))
    got, want = loss_of(d, how=how, clip=.1, clip_high=.3, beta=.07), aloud(d, A, how, .1, .3, .07)
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

# Edges

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

@given(st.lists(st.floats(0, 2.2) | st.just(nan), min_size=1, max_size=8))
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

LENGTHS = [(127, 319), (128, 320), (320, 512), (321, 513)]

@pytest.mark.parametrize("p,r", LENGTHS)
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
