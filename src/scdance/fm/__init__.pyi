from ._convert_cellplm import convert_cellplm as convert_cellplm
from ._convert_celltypist import convert_celltypist as convert_celltypist
from ._pretrain import pretrain as pretrain
