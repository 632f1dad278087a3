"""All methods: a folder per task, a file per method. Calling the package lists them, as ``scdance.methods()``.

Importing any method makes this package an attribute of ``scdance`` and so hides the function of the same name;
the package therefore answers the call itself.
"""

import sys
from types import ModuleType
from typing import Any


class _Methods(ModuleType):
    def __call__(self, task: str | None = None) -> Any:
        from scdance._core.registry import methods

        return methods(task)


sys.modules[__name__].__class__ = _Methods
