from ._cluster import cluster as cluster
from ._consensus import consensus as consensus
from ._deconvolve import deconvolve as deconvolve
from ._joint_embed import joint_embed as joint_embed
