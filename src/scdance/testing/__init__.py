"""Common checks of a method, also for methods of other packages: :func:`check_method`.

Each check is a function that is given a :class:`Trial` and yields one sentence per problem. The fits that the
checks look at are made once, on first use, and shared.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
