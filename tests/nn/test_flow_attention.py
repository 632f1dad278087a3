"""Flow attention against the explicit sums over all pairs, and blocks of attention."""

from __future__ import annotations

import pytest
import torch

from scdance.nn import FlowAttention, LinearAttention, TransformerBlock, _attention


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def heads(layer, x, n_heads):
    return layer(x).view(len(x), n_heads, -1).transpose(0, 1)


def pairwise(made, x, eps):
    """Flows between all pairs, (heads, n, n), and the answers that follow from them."""
    q, k = (heads(layer, x, made.heads).sigmoid() for layer in (made.query, made.key))
    v, n = heads(made.value, x, made.heads), len(x)
    into = torch.stack([((q[:, i, None] + eps) * (k.sum(1, keepdim=True) + eps)).sum(2)[:, 0] for i in range(n)], 1)
    out_of = torch.stack([((k[:, j, None] + eps) * (q.sum(1, keepdim=True) + eps)).sum(2)[:, 0] for j in range(n)], 1)
    kept_in = ((q + eps) * ((k / out_of[..., None]).sum(1, keepdim=True) + eps)).sum(2)
    kept_out = ((k + eps) * ((q / into[..., None]).sum(1, keepdim=True) + eps)).sum(2)
    flows = torch.einsum("hid,hjd->hij", q, k)
    weights = kept_in.sigmoid()[..., None] * flows / into[..., None] * kept_out.clamp(-1, 1).softmax(1)[:, None] * n
    return flows, into, out_of, kept_in, kept_out, weights, made.out((weights @ v).transpose(0, 1).flatten(1))


@torch.no_grad()
def test_flow_attention_is_that_of_all_pairs():
    made, x = FlowAttention(24, heads=3).double(), torch.randn(40, 24, dtype=torch.float64)
    torch.testing.assert_close(made(x), pairwise(made, x, _attention.FLOW_FLOOR)[-1], atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_flows_are_conserved():
    made, x = FlowAttention(24, heads=3).double(), torch.randn(40, 24, dtype=torch.float64)
    flows, into, out_of, kept_in, kept_out, *_ = pairwise(made, x, 0.0)
    ones = torch.ones(3, 40, dtype=torch.float64)
    torch.testing.assert_close((flows / into[..., None]).sum(2), ones)
    torch.testing.assert_close((flows / out_of[:, None]).sum(1), ones)
    torch.testing.assert_close(kept_in.sum(1), 40 * ones[:, 0])
    torch.testing.assert_close(kept_out.sum(1), 40 * ones[:, 0])


@torch.no_grad()
def test_weights_of_pairs_are_those_of_all_pairs():
    made, x = FlowAttention(24, heads=3).double(), torch.randn(40, 24, dtype=torch.float64)
    expected, (i, j) = pairwise(made, x, _attention.FLOW_FLOOR)[-2], torch.randint(0, 40, (2, 200))
    flow = made.flow(x)
    torch.testing.assert_close(flow.weights(i, j), expected[:, i, j], atol=1e-10, rtol=1e-10)
    for found, dim in zip(flow.totals(), (2, 1), strict=True):
        torch.testing.assert_close(found, expected.sum(dim=dim), atol=1e-10, rtol=1e-10)
    everyone = torch.cartesian_prod(torch.arange(40), torch.arange(40)).T
    heard = flow.weights(*everyone).view(3, 40, 40) / flow.gate / (flow.share * 40).mT
    torch.testing.assert_close(heard.sum(dim=2), torch.ones(3, 40, dtype=torch.float64), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("made", [lambda: FlowAttention(12, heads=2), lambda: LinearAttention(12, heads=2)])
def test_padding_and_order_change_nothing(made):
    made, x, order = made(), torch.randn(30, 12), torch.randperm(30)
    torch.testing.assert_close(made(x[order]), made(x)[order], atol=1e-5, rtol=1e-4)
    padded = torch.cat([x, 50 * torch.randn(9, 12)])
    mask = torch.arange(39) < 30
    torch.testing.assert_close(made(padded, mask)[:30], made(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(made(padded)[:30], made(x), atol=1e-3)


def test_padding_gives_finite_gradients():
    made, x = FlowAttention(12, heads=2), torch.randn(30, 12, requires_grad=True)
    made(x, torch.arange(30) < 20)[:20].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[20:] == 0).all()


def norm(x):  # untrained: no scale and no shift
    return (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()


@torch.no_grad()
def test_a_block_normalises_before_or_after_its_sums():
    h = 3 * torch.randn(20, 12)
    after = TransformerBlock(FlowAttention(12, heads=2), 12, hidden=24, dropout=0.5).eval()
    new = norm(h + after.attention(h))
    torch.testing.assert_close(after(h), norm(new + after.dense(new)), atol=1e-5, rtol=1e-4)
    before = TransformerBlock(FlowAttention(12, heads=2), 12, hidden=24, norm="before").eval()
    new = h + before.attention(norm(h))
    torch.testing.assert_close(before(h), new + before.dense(norm(new)), atol=1e-5, rtol=1e-4)


def test_a_block_drops_in_training_alone():
    made, h = TransformerBlock(FlowAttention(12, heads=2), 12, hidden=24, dropout=0.5), torch.randn(20, 12)
    assert not torch.equal(made(h), made(h))
    assert torch.equal(made.eval()(h), made(h))
