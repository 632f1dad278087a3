from ._batches import Batch as Batch
from ._batches import Batches as Batches
from ._batches import split as split
from ._loop import Log as Log
from ._loop import loop as loop
from ._torch_method import TorchMethod as TorchMethod
from ._train import Train as Train
