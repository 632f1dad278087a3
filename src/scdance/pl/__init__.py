"""Figures of what a tool wrote: nothing is computed, shown or changed; each function returns its Axes."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
