"""Data sets with known labels: small ones in the package, larger ones by name, toys by seed."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
