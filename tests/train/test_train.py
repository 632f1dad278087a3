"""The numbers of a training stage: how long it lasts."""

import pytest

from scdance._checks import InputError
from scdance.train import Train


@pytest.mark.parametrize(("n_batches", "expected"), [(1, 90), (4, 23), (100, 1)])
def test_steps_become_whole_passes_rounded_up(n_batches, expected):
    assert Train(epochs=None, steps=90).n_epochs(n_batches) == expected


def test_epochs_win_over_steps():
    assert Train(epochs=3, steps=90).n_epochs(4) == 3


def test_training_without_an_end_is_refused():
    with pytest.raises(InputError, match="epochs and steps are both None"):
        Train(epochs=None)


@pytest.mark.parametrize("name", ["epochs", "lr", "batch_size", "steps"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=-1"):
        Train(**{name: -1})
