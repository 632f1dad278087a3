"""Training: the one loop, its numbers, its batches, and the base of methods with a net."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
