from ._modality import modality as modality
