"""Features that a Gaussian kernel of places averages, one linear layer, and centres it is trained to agree with."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError, package
from scdance._core.cells import Cells, Image
from scdance.graph import by_size, fuzzy, kmeans, knn, leiden, pitch, spatial, tied_mixture, with_n_clusters
from scdance.nn import dec_loss, log_soft_assignment, target_distribution
from scdance.pp import Recipe, blocks, window_colors
from scdance.train import TorchMethod, Train

from ._domains import Domains, principal_components

FEWEST = 3  # spots that have a gene, at least
NEAREST = 10  # in the latent space, the spot itself counted, of the graph that Leiden divides
LANDMARKS = 10_000  # spots, drawn at random, among which the first centres are sought when there are more
REFRESH = 3  # epochs for which a target holds
TRIALS = 5  # trainings until the number of domains is the one that is wanted
REACH = 5.26  # standard deviations beyond which a Gaussian is below 1e-6
ROWS = 1024  # spots whose distances to all others are held at once
EPSILON = 1e-6  # added to the assignment, below which its logarithm would pull without end
SCALE = 0.2  # α of the paper
# The authors' code has the exponent α + 1, not (α + 1)/2: a Student-t kernel of 2α + 1 degrees of freedom around
# points that are stretched by √((2α + 1)/α).
FREEDOM = 2 * SCALE + 1
STRETCH = math.sqrt(FREEDOM / SCALE)

_PUBLISHED = {"init": "leiden"}
_DANCE = _PUBLISHED | {"neighbor_weight": 0.05}


class SpaGCN(Domains, TorchMethod):
    """Find domains by a graph convolution over places, and over the colours of the tissue [Hu2021]_.

    ``"smoothed_pca"``, which trains nothing, agreed better with the annotation of all four labelled tissues.

    The principal components of each spot become a sum over all spots, weighted by a Gaussian of their distance in the
    tissue; with `histology` the mean colour around a spot is a further coordinate of its place. One linear layer maps
    the sums to the latent space, and is trained so that spots agree with the sharpened version of their own
    assignment to fixed centres, which cleans up the domains that these started from.

    When to use
    -----------
    With a picture of the tissue that shows its regions; to compare with published results. It takes seconds.

    When not
    --------
    For the best domains from expression and places alone: use ``"smoothed_pca"``, as the kernel reaches little further
    than the next spots. For a single decisive run: domains vary with the seed. Single cells of different types side by
    side.

    Differs from the paper
    ----------------------
    The layer is linear and the kernel constant, so their product with the features is formed once, and epochs cost the
    same whatever the kernel; weights below 1e-6 are left out. The first centres are those of a mixture of Gaussians,
    which gives better domains of cortex slices of Visium than the authors' Leiden communities (``init="leiden"``), and
    worse ones of STARmap and osmFISH. Leiden's resolution for the wanted number of domains is searched before
    training, and if training loses a domain, it is repeated with one centre more. Distances are those of the
    coordinates, not of rows and columns of the array, and depth is scaled before genes are dropped; the presets of
    DANCE differ from it in these, too. Beyond 10,000 spots, centres start from as many drawn at random.

    Parameters
    ----------
    n_init
        Starts of the mixture, or of k-means.
    init
        First centres where `n_clusters` is given: the means of a "mixture" of Gaussians with one covariance of the
        weighted sums, of "leiden" communities of the untrained latent space, or of "kmeans" in it. Without
        `n_clusters` they are Leiden's.
    neighbor_weight
        Mean total weight of the other spots in the sum of a spot, which itself weighs 1 (p of the paper); the width of
        the Gaussian is searched accordingly.
    cutoff
        Distance beyond which weights are 0, in standard deviations of the Gaussian; infinite: none are, which takes
        time in the square of the number of spots.
    histology
        Whether the picture of the tissue counts, which must be there then.
    color_weight
        Spread of the colours as a further coordinate, relative to that of the wider one of the tissue.
    window
        Width of the square whose mean colour a spot gets, in distances between neighbouring spots; 0.36 of them are
        the 49 pixels of the paper.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    drop_genes
        What names of genes begin with that are left out of the principal components.
    n_components
        Number of principal components, and of dimensions of the latent space.
    train_centers
        Whether the centres are trained, too. In the code of the authors and in DANCE they are not.
    tol
        Training ends when a smaller share of the spots changes its domain in the epoch after a new target.
    training
        the layer; every step takes all spots, whatever the batch size
    """

    init: Literal["mixture", "leiden", "kmeans"] = "mixture"
    neighbor_weight: float = 0.5
    cutoff: float = REACH
    histology: bool = False
    color_weight: float = 1.0
    window: float = 0.36
    n_top_genes: int | None = None
    drop_genes: tuple[str, ...] = ("ERCC", "MT-", "mt-")
    n_components: int = 50
    train_centers: bool = False
    tol: float = 5e-3
    training: Train = Train(epochs=200, lr=0.05)

    cite = "Hu2021"
    uses = ("slice", "image")
    presets = {
        "paper": _PUBLISHED,
        "dance": _DANCE,
        "dlpfc_151673": _DANCE | {"lr": 0.1},
        "dlpfc_151676": _DANCE | {"lr": 0.02},
        "dlpfc_151507": _DANCE | {"lr": 0.009},
    }

    def __post_init__(self) -> None:
        if not self.histology:  # a picture that is not wanted cannot be wrong
            self.uses = ("slice",)  # type: ignore[misc]

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        if self.init == "leiden":
            package("igraph", extra="leiden", why="Centres by Leiden communities (or pass `init='kmeans'`)")
        for name in ("neighbor_weight", "cutoff"):
            if not getattr(self, name) > 0:
                msg = f"{name}={getattr(self, name)!r}, but it must be above 0."
                raise InputError(msg)
        for name in ("color_weight", "window"):
            if not getattr(self, name) >= 0:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0."
                raise InputError(msg)

    def check_cells(self, cells: Cells) -> None:
        super().check_cells(cells)
        if self.histology and cells.images is None:
            msg = (
                "histology=True, but there is no picture of the tissue in `uns['spatial']`, nor in a SpatialData. "
                "Pass histology=False to look at expression and places only."
            )
            raise InputError(msg)

    def net(self) -> nn.Module:
        return _Net(self.n_inputs_, self.n_centers_, self.train_centers)

    def fit(self, *, cells: Cells) -> Self:
        x = principal_components(self._without_dropped(cells), self.n_components, random_state=self.random_state)
        places = cells.coords
        if self.histology:
            places = with_colors(places, cells.images, width=self.window, weight=self.color_weight, slices=cells.slice)
        length = kernel_length(places, self.neighbor_weight, slices=cells.slice)
        self.notes_ = {"kernel_length": length}
        s = smoothed(x, places, length, cutoff=self.cutoff, slices=cells.slice)
        self.n_inputs_ = s.shape[1]
        self._train(torch.from_numpy(s).to(self.target), cells)
        return self

    def _without_dropped(self, cells: Cells) -> Cells:
        """The cells without the genes that are dropped by their name, and those that too few spots have."""
        n_spots = sum(np.bincount(block.indices, minlength=cells.n_vars) for _, block in blocks(cells.x))
        named = np.array([name.startswith(tuple(self.drop_genes)) for name in cells.var_names])
        kept = np.flatnonzero((n_spots >= FEWEST) & ~named)
        if not len(kept):
            msg = f"No gene is seen in {FEWEST} spots, but for those that begin with {', '.join(self.drop_genes)}."
            raise InputError(msg)
        return cells if len(kept) == cells.n_vars else cells.part(columns=kept)

    # ------------------------------------------------------------------ training

    def _train(self, s: Tensor, cells: Cells) -> None:
        """Train until there are as many domains as wanted, and keep the training that came nearest."""
        n_wanted = n_starts = self.n_clusters
        best: tuple[int, Any, np.ndarray] | None = None
        for trial in range(TRIALS):
            self._one_training(s, n_starts, cells, stage="training" if trial == 0 else f"training_{trial + 1}")
            filled = torch.unique(self._assigned(s)[1].argmax(dim=1)).cpu().numpy()
            missing = 0 if n_wanted is None or n_starts is None else n_wanted - len(filled)
            if best is None or abs(missing) < best[0]:
                best = abs(missing), self.net_, filled
            if missing == 0 or n_starts is None or n_starts + missing >= len(s):
                break
            n_starts = max(n_starts + missing, 1)
        assert best is not None
        _, self.net_, filled = best
        self._keep_centers(filled)
        self._divide(s, cells)

    def _one_training(self, s: Tensor, k: int | None, cells: Cells, *, stage: str) -> None:
        """Train a new layer towards k centres; None: as many as Leiden finds."""
        linear = nn.Linear(self.n_inputs_, self.n_inputs_).to(s)  # uniform up to ±1/√n, weights and offsets
        with torch.no_grad():
            centers = self._first_centers(s.cpu().numpy(), linear(s).cpu().numpy(), k)
        self.n_centers_ = len(centers)
        net = self.net_ = self.net().to(self.target)
        net.linear.load_state_dict(linear.state_dict())
        net.centers.data = torch.from_numpy(centers).to(s)
        memory: dict[str, Tensor] = {"changed": torch.empty(0)}

        def refresh(epoch: int) -> str | None:
            since = epoch % REFRESH
            if since > 1:
                return None
            log_q = self._assigned(s)[1]
            labels = log_q.argmax(dim=1)
            if since == 0:
                memory["target"], memory["labels"] = target_distribution(log_q.exp()), labels
                return None
            changed = (labels != memory["labels"].to(labels)).float().mean()
            memory["changed"] = torch.cat([memory["changed"], changed.cpu().reshape(1)])
            return f"fewer than {self.tol:g} of the spots changed" if changed < self.tol else None

        def step(_: Any) -> Tensor:
            log_q = net(s)[1]
            return dec_loss(torch.log(log_q.exp() + EPSILON), memory["target"].to(s))

        def look() -> dict[str, Any]:
            self._divide(s, cells)
            return self.predict(cells=cells)

        self.learn(step, net, self.training, stage=stage, batches=[None], each_epoch=refresh, look=look, memory=memory)
        self.history_[f"{stage}_changed"] = memory["changed"].numpy()

    def _first_centers(self, s: np.ndarray, z: np.ndarray, k: int | None) -> np.ndarray:
        """Means in the latent space `z` of a first partition, (n_centers, n_latent); `s` are the smoothed features."""
        if len(s) > LANDMARKS:
            some = np.sort(self.rng("landmarks").choice(len(s), LANDMARKS, replace=False))
            s, z = s[some], z[some]
        seed = self.random_state
        if k is None or self.init == "leiden":
            near = fuzzy(knn(z, min(NEAREST, len(z)) - 1, random_state=seed))
            if k is None:
                labels = leiden(near, resolution=self.resolution, random_state=seed)
            else:
                labels, self.notes_["resolution"] = with_n_clusters(leiden, near, k, random_state=seed)
        elif self.init == "kmeans":
            labels, _ = kmeans(z, k, n_init=self.n_init, random_state=seed)
        else:
            labels, *_ = tied_mixture(s, k, n_init=self.n_init, random_state=seed)
        return np.stack([z[labels == j].mean(axis=0) for j in np.unique(labels)])

    def _assigned(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Latent space and log soft assignment of all spots, without gradients."""
        with torch.no_grad():
            z, log_q = self.net_(s)
        return z, log_q

    def _keep_centers(self, which: np.ndarray) -> None:
        """Leave the other centres out, which have no spot."""
        centers = self.net_.centers[torch.from_numpy(which).to(self.net_.centers.device)]
        self.n_centers_, linear = len(which), self.net_.linear
        self.net_ = self.net().to(self.target)
        self.net_.linear = linear
        self.net_.centers.data = centers.detach().clone()

    def _divide(self, s: Tensor, cells: Cells) -> None:
        """Keep latent space and domains, by size, and sort the centres with them."""
        z, log_q = self._assigned(s)
        labels, order = by_size(log_q.argmax(dim=1).cpu().numpy(), len(self.net_.centers))
        self.embedding_ = z.cpu().numpy()
        self.keep(labels, cells, log_q.exp().cpu().numpy()[:, order])


class _Net(nn.Module):
    """The linear layer and the centres around which its values are assigned."""

    def __init__(self, n: int, n_centers: int, train_centers: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n)
        self.centers = nn.Parameter(torch.zeros(n_centers, n), requires_grad=train_centers)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        z = self.linear(s)
        return z, log_soft_assignment(STRETCH * z, STRETCH * self.centers, alpha=FREEDOM)


def with_colors(
    coords: np.ndarray, images: tuple[Image, ...], *, width: float, weight: float, slices: np.ndarray | None = None
) -> np.ndarray:
    """Coordinates with the colour around each spot as a further one, (n, n_dims + 1), slice by slice.

    `width` is that of the window in distances between neighbouring spots, `weight` the spread of the colours relative
    to that of the wider coordinate. A colour is the mean of its channels, weighted by their variance over the spots.
    """
    spacing = pitch(coords[:, :2], slices)
    colors = np.zeros(len(coords))
    for image in images:
        pixels = image.pixels()
        channels = window_colors(pixels, image.inside(pixels.shape), width * spacing * image.scale)
        variance = channels.var(axis=0)
        color = channels @ (variance / (variance.sum() or 1))
        if not color.std() > 1e-9 * np.abs(channels).max(initial=0):
            msg = (
                "The image has one colour around all spots, which tells nothing of the tissue. Check that it is the "
                "picture of these spots, or pass histology=False."
            )
            raise InputError(msg)
        spread = coords[image.rows, :2].std(axis=0).max()
        colors[image.rows] = (color - color.mean()) / color.std() * spread * weight
    return np.column_stack([coords, colors])


def kernel_length(places: np.ndarray, weight: float, *, slices: np.ndarray | None = None) -> float:
    """Standard deviation at which the Gaussian weights of the others of a spot add up to `weight` on average."""
    from scipy.optimize import brentq

    n = len(places)
    sizes = np.array([n]) if slices is None else np.bincount(slices)
    most = float((sizes**2).sum() / n - 1)
    if weight >= most:
        msg = f"neighbor_weight={weight}, but {n} spots on {len(sizes)} slices give less than {most:g}; pass less."
        raise InputError(msg)
    spacing = pitch(places, slices)
    lowest, high = 1e-3 * spacing, spacing / 2
    while True:  # ends: with the length the mean weight approaches `most`
        squares = spatial(places, radius=REACH * high, slices=slices).data.astype(np.float64) ** 2
        if _mean_weight(squares, high, n) >= weight:
            break
        high *= 1.5
    if _mean_weight(squares, lowest, n) >= weight:
        msg = f"neighbor_weight={weight}, but so many spots lie on one place that it cannot be below; pass more."
        raise InputError(msg)
    return float(brentq(lambda length: _mean_weight(squares, length, n) - weight, lowest, high, rtol=1e-6))


def _mean_weight(squares: np.ndarray, length: float, n: int) -> float:
    """Sum of Gaussian weights of the pairs at these squared distances, for each of n spots."""
    return float(np.exp(-squares / (2 * length**2)).sum() / n)


def smoothed(
    x: np.ndarray, places: np.ndarray, length: float, *, cutoff: float = REACH, slices: np.ndarray | None = None
) -> np.ndarray:
    """Features of each spot summed over all spots of its slice with Gaussian weights, (n, d) float32.

    Pairs further apart than `cutoff` times the length are left out; infinite: none are.
    """
    if np.isinf(cutoff):
        return _smoothed_by_all(x, places, length, slices)
    near = spatial(places, radius=cutoff * length, slices=slices)
    near.data = np.exp(-(near.data.astype(np.float64) ** 2) / (2 * length**2)).astype(np.float32)
    return x + near @ x


def _smoothed_by_all(x: np.ndarray, places: np.ndarray, length: float, slices: np.ndarray | None) -> np.ndarray:
    """The same with every pair, in blocks of spots."""
    from scipy.spatial.distance import cdist

    out = np.empty_like(x)
    codes = np.zeros(len(x), dtype=int) if slices is None else slices
    for each in np.unique(codes):
        members = np.flatnonzero(codes == each)
        for start in range(0, len(members), ROWS):
            rows = members[start : start + ROWS]
            squares = cdist(places[rows], places[members], "sqeuclidean")
            out[rows] = np.exp(-squares / (2 * length**2)) @ x[members]
    return out
