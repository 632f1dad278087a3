"""The numbers of a training stage: how long it lasts and how fast it learns."""

import pytest
import torch
from torch import nn

from scdance._checks import InputError
from scdance.train import Train, loop


@pytest.mark.parametrize(("n_batches", "expected"), [(1, 90), (4, 23), (100, 1)])
def test_steps_become_whole_passes_rounded_up(n_batches, expected):
    assert Train(epochs=None, steps=90).n_epochs(n_batches) == expected


def test_epochs_win_over_steps():
    assert Train(epochs=3, steps=90).n_epochs(4) == 3


def test_training_without_an_end_is_refused():
    with pytest.raises(InputError, match="epochs and steps are both None"):
        Train(epochs=None)


@pytest.mark.parametrize("name", ["epochs", "lr", "batch_size", "steps", "anneal"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=-1"):
        Train(**{name: -1})


def test_the_learning_rate_falls_in_a_straight_line_over_the_last_part():
    how = Train(epochs=10, lr=1.0, anneal=0.5)
    assert [how.lr_at(epoch, 10) for epoch in range(10)] == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2])


def test_the_loop_moves_weights_by_the_falling_rate():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    steps = []

    def step(batch):
        steps.append(float(net.weight.detach()))
        return -net.weight.sum()  # slope −1: plain descent moves by the learning rate

    loop(step, net, Train(epochs=4, lr=1.0, anneal=1.0, optimizer="sgd"), batches=[None])
    moved = torch.tensor([*steps, float(net.weight.detach())]).diff()
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.75, 0.5, 0.25]))
