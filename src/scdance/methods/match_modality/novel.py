"""Two nets that place both measurements of a cell in the same direction, as images and their captions."""

from __future__ import annotations

from torch import nn

from ._contrastive import Contrastive, Nets

PAPER = {  # for proteins and RNA
    "hidden_source": (1024, 512),
    "dropout_source": (0.01, 0.25),
    "hidden_target": (512, 2048),
    "dropout_target": (0.02, 0.3),
    "log_scale": 3.46,
    "lr": 8e-5,
    "weight_decay": 0.0,
    "batch_size": 2048,
    "epochs": 7000,
    "patience": 150,
}


class Novel(Contrastive):
    """Learn two nets whose directions agree for the true pair and for no other [Lance2022]_.

    Each modality is reduced by a truncated singular value decomposition. A net of a few layers turns the scores of a
    cell into a direction; trained on batches of pairs, the direction of a cell is to be nearer to that of its own
    other measurement than to those of all others, from either side.

    When to use
    -----------
    Thousands of pairs that teach; the more cells in a batch, the better.

    When not
    --------
    A few hundred pairs: ``"cca"`` has less to learn.

    Differs from the paper
    ----------------------
    One net instead of an ensemble of nine, dropout of a half in every layer, smaller batches, a faster rate and fewer
    epochs.
    Cells are matched within their batch where batches are given. ``preset="paper"`` is for RNA and proteins,
    "gex2atac" for RNA and open chromatin.
    """

    cite = "Lance2022"
    presets = {
        "paper": PAPER,
        "gex2adt": PAPER,
        "gex2atac": PAPER
        | {
            "n_source": 64,
            "n_target": 512,
            "n_latent": 256,
            "hidden_source": (1024, 1024),
            "dropout_source": (0.54, 0.4),
            "hidden_target": (2048,),
            "dropout_target": (0.66,),
            "log_scale": 3.06,
            "lr": 6e-4,
            "batch_size": 16_384,
        },
    }

    def pair_net(self, widths: dict[str, int]) -> nn.Module:
        return Nets(self, widths, activation="elu")
