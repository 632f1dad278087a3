"""The joint embeddings with slots beyond the common checks: slots, losses, batches, labels that are hidden."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import torch

import scdance as sd
from scdance import nn
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import JOINT_EMBED
from scdance._settings import unpulled
from scdance.graph import Propagation
from scdance.methods.joint_embed.jae import JAE, Residual

FAST = {"n_source": 20, "epochs": 15, "batch_size": 50}
SMALL = {"jae": {}, "scmogcn": {}, "scmogcn_v2": {"hidden": 16, "n_layers": 2}}


@pytest.fixture(scope="module")
def mdata():
    made = sd.datasets.toy_pairs(n_obs=300, n_genes=100, n_proteins=15, random_state=1)
    made.obs["known"] = made.obs["cell_type"].astype(object).where(np.arange(300) % 2 == 0)
    made.obs["batch"] = pd.Categorical(np.where(np.arange(300) % 3 == 0, "a", "b"))
    return made


def fitted(mdata, name, **given):
    model = make("joint_embed", name, {**FAST, **SMALL[name]})
    pair = read_roles(JOINT_EMBED, model, mdata, mdata, **given)["pair"]
    return model, solve(model, pair=pair, progress=False)[0]["embedding"], pair


@pytest.mark.parametrize("name", list(SMALL))
def test_labels_that_are_hidden_change_nothing(mdata, name):
    with unpulled():
        other = mdata.copy()
    hidden = np.random.default_rng(0).permutation(other.obs["cell_type"].astype(object).to_numpy())
    other.obs["cell_type"] = hidden  # the truth of all cells, which is in no column that is named
    first = fitted(mdata, name, labels_key="known")[1]
    np.testing.assert_array_equal(first, fitted(other, name, labels_key="known")[1])


@pytest.mark.parametrize("name", ["jae", "scmogcn"])
def test_slots_are_as_many_as_what_is_known(mdata, name):
    model, z, _ = fitted(mdata, name, labels_key="known", batch_key="batch")
    assert {slot: s.stop - s.start for slot, s in model.slots().items()} == {
        "types": 4,
        "batches": 2,
        "cycle": 0,
        "free": 5,
    }
    assert z.shape == (300, 11)
    model, z, _ = fitted(mdata, name)
    assert z.shape == (300, model.slots()["free"].stop) == (300, 25)


@pytest.mark.parametrize("name", ["jae", "scmogcn"])
def test_cells_without_a_label_find_the_slot_of_their_type(mdata, name):
    model, z, _ = fitted(mdata, name, labels_key="known")
    said = z[:, model.slots()["types"]].argmax(axis=1)
    truth = pd.Categorical(mdata.obs["cell_type"]).codes
    unlabelled = mdata.obs["known"].isna().to_numpy()
    assert (said == truth)[unlabelled].mean() > 0.9


def test_the_loss_of_types_leaves_cells_without_a_label_out():
    logits = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    expected = -torch.log_softmax(logits[[0, 2]], dim=1)[torch.arange(2), torch.tensor([0, 1])].mean()
    torch.testing.assert_close(nn.known_cross_entropy(logits, torch.tensor([0, -1, 1])), expected)
    assert nn.known_cross_entropy(logits, torch.tensor([-1, -1, -1])) == 0


def test_the_batch_slots_of_jae_cost_nothing_where_they_say_nothing():
    model = JAE()
    assert float(model.off_batch(torch.full((4, 3), 7.0))) == pytest.approx(0, abs=1e-6)
    assert float(model.off_batch(torch.tensor([[5.0, 0.0, 0.0]]))) > 1


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    block, x = Residual(4, 3, 0.1).eval(), torch.randn(5, 4)
    u = torch.relu(x @ block.a.weight.T + block.a.bias)
    norm, last = block.b[1], block.b[2]
    v = (u - norm.running_mean) / (norm.running_var + norm.eps).sqrt() @ last.weight.T + last.bias
    torch.testing.assert_close(block(x), torch.relu(u + v))


def test_training_cells_read_from_stored_features_have_the_states_of_training(mdata):
    model, _, pair = fitted(mdata, "scmogcn")
    seen = model.reader(pair.source, "source")(np.arange(20)).numpy()
    stored = Propagation(model.features_["source"], model.told_["source"])
    np.testing.assert_allclose(
        seen, stored.cells(model.scores(pair.source, "source"))[:, :20].transpose(1, 0, 2), atol=1e-5
    )


def test_the_batch_changes_what_is_restored_and_not_the_place(mdata):
    model, z, pair = fitted(mdata, "scmogcn_v2", batch_key="batch")
    x, y = (torch.from_numpy(model.scores(c, role)) for c, role in ((pair.source, "source"), (pair.target, "target")))
    with torch.no_grad():
        np.testing.assert_allclose(model.place(x, y).numpy(), z, atol=1e-5)
        a, b = (model.net_.decoder(torch.from_numpy(z), torch.full((300,), code)) for code in (0, 1))
    assert float((a - b).abs().max()) > 1e-4


@pytest.mark.parametrize("name", list(SMALL))
def test_a_cell_that_lacks_a_modality_lies_near_its_full_place(mdata, name):
    model, z, _ = fitted(mdata, name)
    whole = z - z.mean(axis=0)
    with unpulled():
        alone = mudata.MuData({"rna": mdata["rna"].copy(), "prot": mdata["prot"][:150].copy()})
    pair = read_roles(JOINT_EMBED, model, alone, alone)["pair"]
    placed = model.predict(pair=pair)["embedding"] - z.mean(axis=0)
    lacks = np.arange(300) >= 150
    off = np.linalg.norm(placed[lacks] - whole[lacks], axis=1)
    assert np.median(off) < 0.75 * np.median(np.linalg.norm(whole[lacks], axis=1))
