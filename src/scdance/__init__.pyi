__version__: str

from . import bench as bench
from . import datasets as datasets
from . import fm as fm
from . import get as get
from . import metrics as metrics
from . import pl as pl
from . import pp as pp
from . import testing as testing
from . import tl as tl
from ._core.registry import methods as methods
from ._fit import fit as fit
from ._fit import load as load
from ._report import report as report
from ._settings import settings as settings
