from ._genes import genes as genes
from ._modality import modality as modality
