"""The benchmark: every method, data set and seed in a process of its own; one tidy table."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
