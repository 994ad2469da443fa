"""Divergence against the plain definition in float64, and the figures made from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from higgsx.errors import ModelError, TextError
from higgsx.fidelity import divergence
from higgsx.fidelity.divergence import Divergence, diverge, together
from higgsx.fidelity.figures import Tokens, estimate, figures


def pair(rows, outputs, noise, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    p = scale * torch.randn(rows, outputs, generator=generator)
    q = p + noise * torch.randn(rows, outputs, generator=generator)
    return p, q, torch.randint(0, outputs, (rows,), generator=generator)


def plainly(p, q, labels):
    p_log, q_log = p.double().log_softmax(1), q.double().log_softmax(1)
    prob = p_log.exp()
    index = labels[:, None]
    return {
        "kl": (prob * (p_log - q_log)).sum(1),
        "confidence": prob.amax(1),
        "loss_original": -p_log.gather(1, index)[:, 0],
        "loss_compressed": -q_log.gather(1, index)[:, 0],
    }


def collect(p, q, labels, windows=1):
    result = Divergence()
    for part in zip(p.chunk(windows), q.chunk(windows), labels.chunk(windows), strict=True):
        result.begin_window()
        result.add(*part)
    return result


@pytest.mark.parametrize("outputs", [2, 1000, 20011])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 3.0])
def test_agrees_with_the_definition_in_float64(outputs, noise):
    p, q, labels = pair(40, outputs, noise)
    rows, expected = diverge(p, q, labels), plainly(p, q, labels)
    torch.testing.assert_close(rows.kl.double(), expected["kl"], rtol=2e-4, atol=1e-10)
    for name in ("confidence", "loss_original", "loss_compressed"):
        torch.testing.assert_close(getattr(rows, name).double(), expected[name], rtol=1e-6, atol=3e-7)
    assert torch.equal(rows.agrees, p.argmax(1) == q.argmax(1))


def test_tiny_divergences_are_right_where_float32_log_softmax_is_not():
    p, _, labels = pair(200, 5000, 0.0, scale=5.0)
    q = p * (1 + 2**-12)
    rows, expected = diverge(p, q, labels), plainly(p, q, labels)
    assert expected["kl"].max() < 2e-6
    torch.testing.assert_close(rows.kl.double(), expected["kl"], rtol=1e-2, atol=0.0)


def test_a_common_offset_of_all_logits_changes_nothing():
    p, q, labels = pair(20, 300, 0.1)
    torch.testing.assert_close(diverge(p, q + 8, labels).kl, diverge(p, q, labels).kl, rtol=1e-3, atol=1e-8)
    assert diverge(p, p + 64, labels).kl.max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_logits_give_exactly_zero(dtype):
    p, _, labels = pair(64, 3001, 0.0)
    part = collect(p.to(dtype), p.to(dtype).clone(), labels, windows=4).figures()
    assert part.kl.mean.value == 0.0 and part.kl.largest == 0.0 and part.kl.mean.error == 0.0
    assert part.top1.value == 1.0
    assert part.log_ratio.value == 0.0 and part.original == part.compressed


def test_known_distributions():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]).log()
    q = torch.tensor([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]]).log() + 5
    rows = diverge(p, q, torch.tensor([1, 0]))
    assert rows.kl.tolist() == pytest.approx([0.25 * math.log(2), 0.0], abs=1e-7)
    assert rows.agrees.tolist() == [False, True]
    assert rows.confidence.tolist() == pytest.approx([0.5, 0.8])
    assert rows.loss_original.tolist() == pytest.approx([math.log(4), -math.log(0.8)])
    assert rows.loss_compressed.tolist() == pytest.approx([math.log(2), -math.log(0.8)])


def test_it_is_the_original_that_weighs():
    p, q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    label = torch.tensor([0])
    forward = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert diverge(p, q, label).kl.item() == pytest.approx(forward, rel=1e-5)
    assert diverge(q, p, label).kl.item() != pytest.approx(forward, rel=1e-2)


def test_extreme_logits_lose_no_probability():
    p, q = torch.zeros(2, 4), torch.zeros(2, 4)
    p[:, 0], q[0, 1], q[1, 0] = 200.0, 200.0, 200.0
    rows = diverge(p, q, torch.tensor([0, 0]))
    assert rows.kl.tolist() == pytest.approx([200.0, 0.0], rel=1e-6)
    assert rows.loss_compressed.tolist() == pytest.approx([200.0, 0.0])


def test_outputs_masked_in_both_models_count_nothing():
    p, q, labels = pair(10, 100, 0.2)
    expected = diverge(p, q, labels).kl
    mask = torch.full((10, 7), -torch.inf)
    rows = diverge(torch.cat([p, mask], 1), torch.cat([q, mask], 1), labels)
    torch.testing.assert_close(rows.kl, expected)


def test_equal_highest_logits_go_to_the_lowest_index():
    p = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0]])
    q = torch.tensor([[1.0, 2.0, 1.5], [1.0, 1.5, 2.0]])
    assert diverge(p, q, torch.tensor([0, 0])).agrees.tolist() == [True, False]


def test_inputs_are_not_changed():
    p, q, labels = pair(5, 50, 0.3)
    before = p.clone(), q.clone()
    diverge(p, q, labels)
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])


@pytest.mark.parametrize("at_once", [1, 700, 2**20])
@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_slicing_does_not_matter(monkeypatch, at_once, pieces):
    p, q, labels = pair(50, 333, 0.3)
    labels[::7] = -1
    monkeypatch.setitem(divergence._LOGITS_AT_ONCE, "cpu", at_once)
    result = Divergence()
    result.begin_window()
    for part in zip(p.chunk(pieces), q.chunk(pieces), labels.chunk(pieces), strict=True):
        result.add(*part)
    keep = labels >= 0
    expected = plainly(p[keep], q[keep], labels[keep])
    assert len(result.tokens()) == 42
    np.testing.assert_allclose(result.tokens().kl, expected["kl"], rtol=1e-4)
    np.testing.assert_allclose(result.tokens().loss_compressed, expected["loss_compressed"], rtol=1e-6)


def test_figures_are_those_of_the_definition():
    p, q, labels = pair(600, 200, 0.4, scale=4.0)
    part, expected = collect(p, q, labels).figures(), plainly(p, q, labels)
    kl, agrees = expected["kl"].numpy(), (p.argmax(1) == q.argmax(1)).numpy()
    confidence = expected["confidence"].numpy()
    assert part.tokens == 600 and part.windows == 1
    assert part.kl.mean.value == pytest.approx(kl.mean(), rel=1e-4)
    assert part.kl.mean.error == pytest.approx(kl.std(ddof=1) / math.sqrt(600), rel=1e-4)
    quantiles = [part.kl.median, part.kl.p90, part.kl.p99, part.kl.p999, part.kl.largest]
    assert quantiles == pytest.approx(np.quantile(kl, [0.5, 0.9, 0.99, 0.999, 1]).tolist(), rel=1e-4)
    assert part.top1.value == pytest.approx(agrees.mean())
    loss = expected["loss_compressed"].mean().item()
    assert part.compressed.value == pytest.approx(math.exp(loss), rel=1e-5)
    ratio = (expected["loss_compressed"] - expected["loss_original"]).mean().item()
    assert part.log_ratio.value == pytest.approx(ratio, abs=1e-6)
    assert sum(bucket.tokens for bucket in part.buckets) == 600
    for bucket in part.buckets:
        inside = (confidence >= bucket.low) & (confidence < bucket.high)
        assert bucket.tokens == inside.sum() > 0
        assert bucket.kl.value == pytest.approx(kl[inside].mean(), rel=1e-4)
        assert bucket.top1.value == pytest.approx(agrees[inside].mean())


def test_full_confidence_is_in_the_last_bucket():
    p = torch.tensor([[500.0, 0.0]])
    assert collect(p, p, torch.tensor([0])).figures().buckets[-1].tokens == 1


def simulated(generator, windows, length, share, size):
    """Values of which a part is common to a window: mean, standard error, over `size` repetitions."""
    common = generator.normal(size=(size, windows, 1)) * math.sqrt(share)
    own = generator.normal(size=(size, windows, length)) * math.sqrt(1 - share)
    values = (3 + common + own).reshape(size, -1)
    window = np.repeat(np.arange(windows), length)
    found = [estimate(row, window) for row in values]
    return np.array([one.value for one in found]), np.array([one.error for one in found])


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_standard_errors_are_the_spread_over_repetitions(share):
    means, errors = simulated(np.random.default_rng(3), windows=40, length=25, share=share, size=400)
    # where tokens are independent the larger of two estimates is a few per cent too large
    assert errors.mean() == pytest.approx(means.std(), rel=0.15)


def test_standard_errors_of_perplexity_are_the_spread_over_repetitions():
    generator = np.random.default_rng(4)
    found = []
    for _ in range(300):
        loss = generator.exponential(2.0, size=500)
        shift = generator.normal(0.1, 0.05, size=500)
        ones = np.ones(500, np.float32)
        tokens = Tokens(np.arange(500) // 20, ones, ones > 0, ones, loss, loss + shift)
        found.append(figures(tokens, 25))
    original = np.array([(part.original.value, part.original.error) for part in found])
    assert original[:, 1].mean() == pytest.approx(original[:, 0].std(), rel=0.15)
    ratio = np.array([(part.log_ratio.value, part.log_ratio.error) for part in found])
    assert ratio[:, 1].mean() == pytest.approx(ratio[:, 0].std(), rel=0.15)
    # paired: far tighter than two independent perplexities would allow
    assert ratio[:, 1].mean() < 0.1 * (original[:, 1] / original[:, 0]).mean()


def test_together_is_the_same_as_one_and_keeps_windows_apart():
    p, q, labels = pair(80, 64, 0.5)
    one = collect(p, q, labels, windows=4).figures()
    halves = [collect(p[part], q[part], labels[part], windows=2) for part in (slice(0, 40), slice(40, 80))]
    assert together(halves) == one


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_positions_are_counted_and_left_out(bad):
    p, q, labels = pair(30, 40, 0.5)
    expected = collect(p[3:], q[3:], labels[3:]).figures()
    p[0, 5] = q[1, 6] = q[2, 7] = bad
    part = collect(p, q, labels).figures()
    assert (part.broken_original, part.broken_compressed, part.tokens) == (1, 2, 27)
    assert part.kl == expected.kl and part.compressed == expected.compressed


def test_probability_zero_for_what_the_original_may_say_is_broken():
    p, q, labels = pair(2, 40, 0.5)
    q[0, int(p[0].argmax())] = -math.inf
    part = collect(p, q, labels).figures()
    assert (part.broken_compressed, part.tokens) == (1, 1)


def test_figures_of_nothing_and_of_one_token():
    nothing = Divergence().figures()
    assert nothing.tokens == 0 and nothing.kl.mean.value is None and nothing.original.value is None
    p, q, labels = pair(1, 40, 0.5)
    single = collect(p, q, labels).figures()
    assert single.kl.mean.value is not None and single.kl.mean.error is None


def test_shapes_and_labels_that_do_not_match_are_refused():
    p, q, labels = pair(4, 40, 0.5)
    with pytest.raises(ModelError, match="same shape"):
        collect(p, q[:, :39], labels)
    with pytest.raises(ModelError, match="3 labels"):
        Divergence().add(p, q, labels[:3])
    labels[2] = 40
    with pytest.raises(TextError, match="got 40, expected below 40"):
        collect(p, q, labels)
