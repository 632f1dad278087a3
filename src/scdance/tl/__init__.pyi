from ._cluster import cluster as cluster
from ._deconvolve import deconvolve as deconvolve
from ._joint_embed import joint_embed as joint_embed
