from ._cluster import cluster as cluster
