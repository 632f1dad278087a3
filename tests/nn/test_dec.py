import numpy as np
import pytest
import torch

from scdance.nn import DEC, Dense, dec_loss, log_soft_assignment, target_distribution


def cells_and_centers(n_obs=30, n_clusters=4, n_latent=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n_obs, n_latent, generator=rng, dtype=torch.float64)
    return z, torch.randn(n_clusters, n_latent, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_assignment_is_the_student_kernel_of_the_paper(alpha):
    z, centers = cells_and_centers()
    expected = np.empty((len(z), len(centers)))
    for i, cell in enumerate(z.numpy()):
        for j, center in enumerate(centers.numpy()):
            expected[i, j] = (1 + ((cell - center) ** 2).sum() / alpha) ** (-(alpha + 1) / 2)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(log_soft_assignment(z, centers, alpha).exp(), expected, rtol=1e-12)


def test_expanded_distances_are_the_direct_ones(monkeypatch):
    import sys

    z, centers = cells_and_centers()
    direct = log_soft_assignment(z, centers)
    monkeypatch.setattr(sys.modules["scdance.nn._dec"], "_DIRECT", 0)
    torch.testing.assert_close(log_soft_assignment(z, centers), direct)


def test_rows_sum_to_one():
    q = log_soft_assignment(*cells_and_centers()).exp()
    for rows in (q, target_distribution(q)):
        np.testing.assert_allclose(rows.sum(dim=1), 1, atol=1e-6)


def test_target_is_the_formula_by_hand():
    q = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    weight = q**2 / q.sum(axis=0)
    expected = weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(target_distribution(torch.tensor(q)), expected)


def test_target_is_sharper_when_clusters_are_equally_large():
    q = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    assert (target_distribution(q).max(dim=1).values >= q.max(dim=1).values).all()


def test_target_carries_no_gradient():
    z, centers = cells_and_centers()
    assert not target_distribution(log_soft_assignment(z.requires_grad_(), centers).exp()).requires_grad


def test_target_of_an_empty_cluster_is_finite():
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert target_distribution(q).tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_gradients_are_the_papers(alpha):
    z, centers = (v.requires_grad_() for v in cells_and_centers())
    log_q = log_soft_assignment(z, centers, alpha)
    p = target_distribution(log_q.exp())
    by_z, by_centers = torch.autograd.grad(dec_loss(log_q, p) * len(z), [z, centers])

    difference = z[:, None] - centers
    weight = (p - log_q.exp()) / (1 + difference.square().sum(2) / alpha) * (alpha + 1) / alpha
    torch.testing.assert_close(by_z, (weight[:, :, None] * difference).sum(1).detach())
    torch.testing.assert_close(by_centers, -(weight[:, :, None] * difference).sum(0).detach())


def test_permuting_clusters_permutes_columns_and_permuting_cells_rows():
    z, centers = cells_and_centers()
    q = log_soft_assignment(z, centers).exp()
    p = target_distribution(q)
    rows, columns = torch.randperm(len(z), generator=torch.Generator().manual_seed(1)), [2, 0, 3, 1]
    moved = log_soft_assignment(z[rows], centers[columns]).exp()
    torch.testing.assert_close(moved, q[rows][:, columns])
    torch.testing.assert_close(target_distribution(moved), p[rows][:, columns])


def test_one_cluster_takes_all_cells_at_no_loss():
    z, centers = cells_and_centers(n_clusters=1)
    log_q = log_soft_assignment(z, centers)
    assert (log_q == 0).all()
    assert dec_loss(log_q, target_distribution(log_q.exp())).item() == 0


def test_a_far_cell_gives_a_finite_loss_and_gradient():
    z, centers = (v.float() for v in cells_and_centers())
    z[0] = 1e4  # squared distance 3e8
    z.requires_grad_()
    log_q = log_soft_assignment(z, centers)
    loss = dec_loss(log_q, target_distribution(log_q.exp()))
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_loss_is_zero_only_where_assignment_and_target_agree():
    log_q = log_soft_assignment(*cells_and_centers())
    assert dec_loss(log_q, log_q.exp()).item() == pytest.approx(0, abs=1e-12)
    assert dec_loss(log_q, target_distribution(log_q.exp())).item() > 0


def test_a_target_of_zero_costs_nothing():
    log_q = torch.log(torch.tensor([[0.5, 0.5]]))
    assert dec_loss(log_q, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(np.log(2))


def test_module_trains_its_own_copy_of_the_centers():
    z, centers = cells_and_centers()
    module = DEC(centers)
    torch.testing.assert_close(module(z), log_soft_assignment(z, centers))
    module.centers.data += 1
    assert not torch.equal(module.centers, centers)


def test_dense_with_a_plain_last_layer_is_two_matrix_products():
    net = Dense([5, 4, 3], last="none")
    x = torch.ones(2, 5)
    first, second = net.layers[0], net.layers[2]
    torch.testing.assert_close(net(x), second(torch.relu(first(x))))


def test_dense_reads_a_batch_one_hot_and_an_unseen_one_as_the_average():
    net = Dense([5, 3], last="none", n_covariates=2)
    x = torch.ones(3, 5)
    first, second, unseen = net(x, torch.tensor([0, 1, -1]))
    torch.testing.assert_close(unseen, (first + second) / 2)
    torch.testing.assert_close(net(x)[0], unseen)
    assert not torch.allclose(first, second)
