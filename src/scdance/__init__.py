"""Deep-learning methods of single-cell and spatial omics for the scverse.

AnnData in, results in ``obs``, ``obsm``, ``layers`` and ``uns`` of the same object.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

# The names are listed once, in __init__.pyi; each module is imported on first use.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
