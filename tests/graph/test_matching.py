"""Partners in a common space, and messages without weights, against dense matrices and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from scdance._checks import InputError
from scdance.graph import Propagation, match


def two_sides(n: int = 400, noise: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 16))
    return z + noise * rng.normal(size=z.shape), z + noise * rng.normal(size=z.shape)


def of_all(a: np.ndarray, b: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Of all pairs: log P(b | a), and that plus log P(a | b)."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    logits = scale * a @ b.T
    given = logits - logsumexp(logits, axis=1, keepdims=True)
    return given, given + logits - logsumexp(logits, axis=0, keepdims=True)


@pytest.mark.parametrize("n_b", [400, 250, 500])
def test_the_sum_over_partners_is_that_of_the_hungarian_method(n_b: int):
    a, b = two_sides(500)
    a, b = a[:400], b[:n_b]
    _, likely = of_all(a, b, 12.0)
    rows, columns = linear_sum_assignment(-likely)
    found = match(a, b, scale=12.0, n_kept=100).partner
    has = np.flatnonzero(found >= 0)
    assert len(has) == min(400, n_b) == len(np.unique(found[has]))
    assert likely[has, found[has]].sum() == pytest.approx(likely[rows, columns].sum(), rel=1e-4)


def test_all_partners_kept_have_the_probabilities_of_the_softmax():
    a, b = two_sides(60)
    given, _ = of_all(a, b, 7.0)
    np.testing.assert_allclose(match(a, b, scale=7.0, n_kept=60).proba.toarray(), np.exp(given), atol=1e-5)


def test_the_likeliest_are_kept_and_sum_to_one():
    a, b = two_sides(300)
    given, _ = of_all(a, b, 9.0)
    found = match(a, b, scale=9.0, n_kept=5)
    np.testing.assert_allclose(found.proba.sum(axis=1), 1, rtol=1e-5)
    kept = found.proba.toarray() > 0
    best = np.argsort(-given, axis=1)[:, :5]
    assert np.take_along_axis(kept, best, axis=1).all()
    back = of_all(b, a, 9.0)[0]
    nearest, of_column = given.argmax(axis=1), back.argmax(axis=1)
    np.testing.assert_array_equal(found.mutual, of_column[nearest] == np.arange(300))


def test_equal_places_match_themselves_and_are_mutual():
    a, _ = two_sides(200)
    found = match(a, 3 * a, scale=30.0)
    assert (found.partner == np.arange(200)).all() and found.mutual.all()


def test_an_order_of_the_columns_is_followed():
    a, b = two_sides()
    order = np.random.default_rng(1).permutation(len(b))
    one, other = match(a, b), match(a, b[order])
    np.testing.assert_array_equal(order[other.partner], one.partner)
    np.testing.assert_array_equal(other.proba.toarray(), one.proba.toarray()[:, order])


def test_places_that_are_all_the_same_end():
    one = np.ones((30, 4))
    partner = match(one, one, n_kept=2).partner
    assert len(np.unique(partner[partner >= 0])) == (partner >= 0).sum()
    assert match(one, one[:0]).partner.tolist() == [-1] * 30


@pytest.mark.parametrize(("wrong", "said"), [({"scale": 0.0}, "scale=0.0"), ({"n_kept": 0}, "n_kept")])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], said: str):
    a, b = two_sides(20)
    with pytest.raises(InputError, match=said):
        match(a, b, **wrong)  # type: ignore[arg-type]


def test_messages_are_those_of_a_plain_loop():
    x = np.random.default_rng(0).normal(size=(30, 5)) + 0.5

    def standard(m: np.ndarray) -> np.ndarray:
        return (m - m.mean()) / m.std()

    cell, feature, expected = np.zeros((30, 5)), np.eye(5), []
    for layer in range(4):
        of_cells, of_features = np.zeros((30, 5)), np.zeros((5, 5))
        for i in range(30):
            for j in range(5):
                of_cells[i] += x[i, j] * feature[j]
                of_features[j] += x[i, j] * cell[i]
        heard = standard(of_features) if layer else of_features
        cell, feature = standard(0.5 * cell + 0.5 * standard(of_cells)), standard(0.5 * feature + 0.5 * heard)
        expected.append(cell)
    learnt = Propagation.of(x)
    np.testing.assert_allclose(learnt.cells(x), np.stack(expected[1:]), atol=1e-4)
    np.testing.assert_allclose(expected[0], standard(x), atol=1e-9)  # which is why the first is left out


def test_new_cells_get_the_states_that_they_had_among_those_that_taught():
    x = np.random.default_rng(0).normal(size=(40, 6))
    learnt = Propagation.of(x, n_layers=3)
    np.testing.assert_allclose(learnt.cells(x[7:9]), learnt.cells(x)[:, 7:9], atol=1e-5)


def test_a_single_layer_passes_no_message():
    x = np.random.default_rng(0).normal(size=(40, 6)) + 1
    np.testing.assert_allclose(Propagation.of(x, n_layers=1).cells(x)[0], (x - x.mean()) / x.std(), atol=1e-4)
