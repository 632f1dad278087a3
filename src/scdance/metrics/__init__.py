"""Scores: one function each, arrays in, one number out; `score` applies those that a task names."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
