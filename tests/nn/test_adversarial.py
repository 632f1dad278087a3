import math

import pytest
import torch

from scdance.nn import Dense, adversarial_ramp, reverse_gradient


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_the_gradient_comes_back_with_the_other_sign_and_the_scale(scale):
    x = torch.randn(4, 3, requires_grad=True)
    weights = torch.randn(4, 3)
    y = reverse_gradient(x, scale)
    (y * weights).sum().backward()
    assert torch.equal(y, x)
    torch.testing.assert_close(x.grad, -scale * weights)


def test_a_step_makes_the_adversary_better_and_what_it_reads_from_worse():
    torch.manual_seed(0)
    x, is_one = torch.randn(64, 5), (torch.arange(64) % 2).float()
    x[:, 0] += is_one
    encoder, adversary = Dense([5, 2], last="none"), Dense([2, 1], last="none")

    def loss(scale: float = 1.0) -> torch.Tensor:
        found = adversary(reverse_gradient(encoder(x), scale))[:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(found, is_one)

    before = loss()
    before.backward()
    for net, sign in ((adversary, -1), (encoder, 1)):
        parameters = list(net.parameters())
        with torch.no_grad():
            for each in parameters:
                each -= 0.1 * each.grad
        assert (loss() - before).sign() == sign
        with torch.no_grad():
            for each in parameters:
                each += 0.1 * each.grad


def test_the_ramp_is_the_formula():
    for done in (0.0, 0.03, 0.2, 0.7, 1.0):
        assert adversarial_ramp(done) == pytest.approx(2 / (1 + math.exp(-10 * done)) - 1, abs=1e-12)
