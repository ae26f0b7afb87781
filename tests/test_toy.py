"The toy's policy gradient against enumeration: each response by a loop, its reward, its score."
import math
from itertools import product
import pytest, torch
from videop2r.toy import answered, exact_update, expected, group_advantages, learn, tables

PA, GRPO, BOTH = [[1, 0], [0, 1]], [[0, 1], [0, 1]], [[1, 1], [1, 1]]

def start(clues=4, runs=1):
    "A policy with nothing special about it."
    noise = torch.randn(2, runs, clues, clues, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    return tables(.4, .45, clues, runs).double() + .3 * noise

def softmax(row):
    e = [math.exp(x) for x in row]
    return [x / sum(e) for x in e]

def enumerated(logits, matrix):
    "E[A ∇log π] by hand, with each segment's credited reward as A: plain Python over all responses."
    k = logits.shape[-1]
    see, answer = ([softmax(row) for row in table[0].tolist()] for table in logits)
    found = [[[0.] * k for _ in range(k)] for _ in range(2)]
    for z, o, a in product(range(k), repeat=3):
        p, rewards = see[z][o] * answer[o][a] / k, ((o == z), (a == z))
        for s, (row, column, table) in enumerate(((z, o, see), (o, a, answer))):
            credit = sum(c * r for c, r in zip(matrix[s], rewards))
            for j in range(k): found[s][row][j] += p * credit * ((j == column) - table[row][j])
    return torch.tensor(found, dtype=torch.double)

@pytest.mark.parametrize("matrix", [PA, GRPO, BOTH, [[1, .5], [0, 1]]])
def test_exact_update_is_reinforce_enumerated(matrix):
    logits = start()
    torch.testing.assert_close(exact_update(logits, matrix).detach()[:, 0], enumerated(logits, matrix))

def test_no_separation_climbs_the_sum_and_pagrpo_does_not():
    logits = start().requires_grad_()
    (slope,) = torch.autograd.grad(expected(logits).sum(), logits)
    torch.testing.assert_close(exact_update(logits, BOTH).detach(), slope)
    assert (exact_update(logits, PA).detach() - slope)[0].abs().max() > 1e-3
    torch.testing.assert_close(exact_update(logits, PA).detach()[1], slope[1])

@pytest.mark.parametrize("matrix", [PA, GRPO])
def test_sampled_groups_estimate_it(matrix):
    "Less the group's mean, G responses estimate (1 - 1/G) of the exact update."
    g, n, logits = 4, 4_000, start(3).float().repeat(1, 4_000, 1, 1).requires_grad_()
    clue = torch.arange(3).repeat(n, 1)
    seen, said, logprob = answered(logits, clue, g, torch.Generator().manual_seed(0))
    truth = clue[..., None].expand_as(seen)
    rewards = torch.stack([(seen == truth).float(), (said == truth).float()], -1) @ torch.tensor(matrix).float().T
    (each,) = torch.autograd.grad(((rewards - rewards.mean(2, keepdim=True)) * logprob).mean((1, 2)).sum(), logits)
    wanted = (1 - 1 / g) * enumerated(start(3), matrix).float()
    error = each.std(1) / n ** .5
    assert ((each.mean(1) - wanted).abs() < 4.5 * error + 1e-6).all()

def test_answers_see_the_observation_alone():
    "An answer's log-probability is that of the row that the observation names."
    logits, clue = start(5, 2).float(), torch.tensor([[0, 3], [4, 1]])
    seen, said, logprob = answered(logits, clue, 6, torch.Generator().manual_seed(0))
    for n, p, i in product(range(2), range(2), range(6)):
        o, a = int(seen[n, p, i]), int(said[n, p, i])
        wanted = [math.log(softmax(logits[0, n, clue[n, p]].tolist())[o]), math.log(softmax(logits[1, n, o].tolist())[a])]
        torch.testing.assert_close(logprob[n, p, i], torch.tensor(wanted), atol=1e-5, rtol=1e-4)

def test_equal_rewards_teach_nothing():
    assert not group_advantages(torch.ones(3, 8, 2), BOTH).any()

def test_learning_is_seeded_and_a_given_clue_is_never_seen_by_grpo():
    one, two, other = (learn(PA, steps=3, runs=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    how = dict(steps=40, clues=2, given=0, prompts=16, runs=2)
    gained = [(curve[-1] - curve[0])[:, 0].max().item() for curve in (learn(GRPO, **how), learn(PA, **how))]
    assert gained[0] <= .65 / 2 < .5 < gained[1] # of two clues GRPO is taught one
