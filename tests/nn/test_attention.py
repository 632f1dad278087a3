"""Linear attention against that of the softmax."""

from __future__ import annotations

import pytest
import torch

from scdance.nn import GPSBlock, LinearAttention, _attention
from scdance.nn._attention import orthogonal


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def head(n_random, width=16):
    """One head whose queries, keys and values are three parts of the tokens; its answer comes first, then zeros."""
    made = LinearAttention(3 * width, heads=1, head_width=width, n_random=n_random)
    with torch.no_grad():
        parts = torch.eye(3 * width).split(width)
        for layer, part in zip((made.query, made.key, made.value), parts, strict=True):
            layer.weight.copy_(part)
        made.out.weight.copy_(parts[0].T)
        made.out.bias.zero_()
    return made


def exact(x):
    q, k, v = x.chunk(3, dim=1)
    return torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v


@torch.no_grad()
def test_the_error_against_softmax_falls_with_the_number_of_random_vectors():
    x = torch.randn(200, 48) / 2

    def error(n_random):
        found = torch.stack([head(n_random)(x)[:, :16] for _ in range(3)])
        return float((found - exact(x)).norm(dim=2).mean() / exact(x).norm(dim=1).mean())

    few, more, many = error(44), error(266), error(4096)
    assert many < 0.05
    assert few > 1.5 * more > 2.25 * many


@torch.no_grad()
def test_the_heads_are_those_of_torch_attention(monkeypatch):
    monkeypatch.setattr(_attention, "FLOOR", 0.0)
    made, x = LinearAttention(24, heads=3, head_width=8, n_random=20_000), torch.randn(50, 24) / 2
    q, k, v = (layer(x).view(50, 3, 8).transpose(0, 1) for layer in (made.query, made.key, made.value))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(50, 24)
    expected = made.out(expected)
    assert float((made(x) - expected).norm() / expected.norm()) < 0.03


@torch.no_grad()
def test_the_weights_of_an_answer_sum_to_1():
    made, x = head(40), 4 * torch.randn(30, 48)
    heard = made.heard(x)
    ones = type(heard)(heard.top, heard.keys, heard.keys.mT.repeat(1, 1, 16), heard.n.expand(1, 1, 16), heard.n)
    torch.testing.assert_close(made.ask(x, ones)[:, :16], torch.ones(30, 16))


@torch.no_grad()
def test_what_parts_say_adds_up_also_where_they_differ_in_size():
    made = LinearAttention(12, heads=2, head_width=6)
    x = torch.cat([torch.randn(40, 12), 9 * torch.randn(3, 12)])
    parts = made.heard(x[:10]) + made.heard(x[10:40]) + made.heard(x[40:])
    torch.testing.assert_close(made.ask(x, parts), made(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.ask(x[5:7], parts), made(x)[5:7], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_order_of_the_tokens_changes_nothing_but_the_order():
    made, x, order = LinearAttention(12, heads=2), torch.randn(30, 12), torch.randperm(30)
    torch.testing.assert_close(made(x[order]), made(x)[order], atol=1e-5, rtol=1e-4)


def test_long_tokens_give_finite_answers_and_gradients():
    made, x = LinearAttention(12, heads=2), (100 * torch.randn(20, 12)).requires_grad_()
    made(x).sum().backward()
    assert torch.isfinite(made(x)).all()
    assert torch.isfinite(x.grad).all()


def test_random_vectors_are_orthogonal_in_blocks_and_as_long_as_normal_ones():
    made = orthogonal(700, 16)
    block = made[:16] / made[:16].norm(dim=1, keepdim=True)
    torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
    assert float((made**2).sum(dim=1).mean()) == pytest.approx(16, rel=0.1)
    assert LinearAttention(8).omega.shape == (266, 64)


@torch.no_grad()
@pytest.mark.parametrize("has_links", [False, True])
def test_a_block_sums_attention_and_messages_each_added_and_normalised(has_links):
    made, h = GPSBlock(12, heads=2, head_width=6, has_links=has_links).eval(), torch.randn(20, 12)
    mean = torch.softmax(torch.randn(20, 20), dim=1)

    def norm(x):  # untrained: no scale and no shift
        return (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    new = norm(h + made.attention(h))
    if has_links:
        own, others = made.local.own, made.local.others.weight
        new = new + norm(h + h @ own.weight.T + own.bias + mean @ (h @ others.T))
    expected = norm(new + made.dense(new))
    torch.testing.assert_close(made(h, links=mean), expected, atol=1e-5, rtol=1e-4)
    if not has_links:
        torch.testing.assert_close(made(h[:3], made.attention.heard(h)), expected[:3], atol=1e-5, rtol=1e-4)


def test_a_block_drops_in_training_alone():
    made, h = GPSBlock(12, heads=2, dropout=0.5), torch.randn(20, 12)
    assert not torch.equal(made(h), made(h))
    assert torch.equal(made.eval()(h), made(h))
