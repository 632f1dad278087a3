"""Reliable cells that join the reference: the parts by hand, and what the whole sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scdance as sd
from scdance._checks import InputError
from scdance.methods.transfer_labels import scbridge
from scdance.methods.transfer_labels.scbridge import Means, SCBridge, lower_part

SMALL = {"hidden": 64, "n_latent": 32, "batch_size": 64, "lr": 3e-3, "epochs": 6, "rounds": 2}
TYPES = ["0", "1", "2"]


@pytest.fixture(scope="module")
def whole():
    """Cells of two batches and three types."""
    data = sd.datasets.toy_clusters(n_obs=320, n_vars=80, k=3, batches=2)
    data.obs["cell_type"] = data.obs["cell_type"].cat.rename_categories(TYPES)
    return data


@pytest.fixture
def given(whole):
    """Cells that are asked, and a reference of which a quarter has labels in "known", all in "cell_type"."""
    first = (whole.obs["batch"] == whole.obs["batch"].iloc[0]).to_numpy()
    cells, ref = whole[~first].copy(), whole[first].copy()
    ref.obs["known"] = ref.obs["cell_type"].where(np.arange(ref.n_obs) % 4 == 0)
    return cells, ref


def transfer(cells, ref, **knobs):
    cells = cells.copy()
    sd.tl.transfer_labels(
        cells, ref, method="scbridge", labels_key="known", progress=False, device="cpu", **{**SMALL, **knobs}
    )
    return cells


def outputs(cells):
    return cells.obs["scbridge"].astype(str).to_numpy(), cells.obsm["scbridge_proba"], cells.obsm["X_scbridge"]


def notes(cells):
    return cells.uns["scdance"]["transfer_labels"]["scbridge"]["notes"]


# The parts by hand


def test_the_lower_of_two_parts_is_found():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(5, 1, 100), rng.normal(50, 2, 300)])
    proba = lower_part(values, 0)
    assert proba[:100].min() > 0.95 and proba[100:].max() < 0.05


def test_values_that_are_all_the_same_are_in_the_lower_part():
    assert (lower_part(np.full(20, 0.3), 0) == 1).all()


def test_means_move_on_with_their_momentum_and_start_at_the_first_batch():
    means = Means(3, 2, 0.9, torch.device("cpu"))
    z, codes = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0, 2])
    means.apart(z, codes, z, codes)
    torch.testing.assert_close(means.memory["ref"], torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    means.apart(torch.tensor([[12.0, 0.0]]), torch.tensor([0]), z, codes)
    torch.testing.assert_close(means.memory["ref"], torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))


def test_means_are_compared_for_types_that_both_sides_have_shown():
    means = Means(3, 2, 0.9, torch.device("cpu"))
    one, other = torch.tensor([[1.0, 2.0], [9.0, 9.0]]), torch.tensor([[3.0, 2.0], [5.0, 5.0]])
    found = means.apart(one, torch.tensor([0, 1]), other, torch.tensor([0, 2]))
    assert found.item() == pytest.approx((2.0**2 + 0) / 2)
    nothing = Means(3, 2, 0.9, torch.device("cpu")).apart(one[:1], torch.tensor([0]), other[1:], torch.tensor([2]))
    assert nothing.item() == 0


def test_the_gradient_reaches_the_batch_and_not_what_was_before():
    means = Means(1, 2, 0.9, torch.device("cpu"))
    codes = torch.tensor([0])
    means.apart(torch.zeros(1, 2) + 1, codes, torch.zeros(1, 2) + 3, codes)
    z = torch.full((1, 2), 3.0, requires_grad=True)
    means.apart(torch.zeros(1, 2) + 1, codes, z, codes).backward()
    torch.testing.assert_close(z.grad, torch.full((1, 2), 2 * 2.0 * 0.1 / 2))


# The whole


def test_types_are_found(given):
    found = transfer(*given, epochs=60)
    assert (outputs(found)[0] == given[0].obs["cell_type"].astype(str)).mean() > 0.95


def test_reliable_cells_join_with_their_type_and_a_new_net_is_trained(given, monkeypatch):
    taught, nets = [], []
    train = SCBridge._train

    def spied(self, ref, cells, known, types, stage):
        taught.append(types.copy())
        nets.append(self.net_)
        return train(self, ref, cells, known, types, stage)

    def judged(self, ref, cells, known, rest):
        return np.full(len(rest), 1), np.arange(len(rest)) < 10

    monkeypatch.setattr(SCBridge, "_train", spied)
    monkeypatch.setattr(SCBridge, "_judge", judged)
    found = transfer(*given, rounds=3)
    assert [(types >= 0).sum() for types in taught] == [0, 10, 20] == list(notes(found)["n_joined"])
    assert set(taught[2]) == {-1, 1}
    assert notes(found)["n_rounds"] == 3 and len({id(net) for net in nets}) == 3


def test_rounds_end_where_no_cell_is_reliable(given, monkeypatch):
    monkeypatch.setattr(scbridge, "lower_part", lambda values, _: np.zeros(len(values)))
    assert notes(transfer(*given, rounds=5))["n_rounds"] == 1


def test_rounds_end_where_few_cells_are_left(given, monkeypatch):
    monkeypatch.setattr(scbridge, "lower_part", lambda values, _: np.ones(len(values)))
    found = notes(transfer(*given, rounds=5))
    assert found["n_rounds"] == 2 and found["n_joined"][-1] == given[0].n_obs


def test_a_cell_joins_only_if_both_its_distance_and_its_loss_are_low(given, monkeypatch):
    calls = []

    def low(values, _):
        calls.append(values)
        return np.where(np.arange(len(values)) % (2 + len(calls) % 2) == 0, 0.99, 0.5)

    monkeypatch.setattr(scbridge, "lower_part", low)
    found = transfer(*given)
    assert len(calls) == 2 and calls[0].min() >= 0 and calls[1].min() >= 0
    assert notes(found)["n_joined"][-1] == len(range(0, given[0].n_obs, 6))


def test_another_order_of_the_types_permutes_the_result(given):
    cells, ref = given
    _, proba, _ = outputs(transfer(cells, ref, rounds=1))
    ref.obs["known"] = ref.obs["known"].cat.reorder_categories(["2", "0", "1"])
    _, again, _ = outputs(transfer(cells, ref, rounds=1))
    np.testing.assert_allclose(again[TYPES], proba, atol=1e-3)


def test_without_alignment_the_means_are_not_compared(given, monkeypatch):
    def refuse(*args):
        raise AssertionError("compared")

    monkeypatch.setattr(Means, "apart", refuse)
    transfer(*given, align=0.0, rounds=1, epochs=2)
    with pytest.raises(AssertionError, match="compared"):
        transfer(*given, rounds=1, epochs=2)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"reliable": 1.0}, {"momentum": 1.0}, {"align": -1.0}])
def test_knobs_out_of_range_are_refused(given, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        transfer(*given, **wrong)
