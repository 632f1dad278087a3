from ._benchmark import benchmark as benchmark
from ._cluster_stability import cluster_stability as cluster_stability
from ._clusters_compare import clusters_compare as clusters_compare
from ._confusion import confusion as confusion
from ._embedding import embedding as embedding
from ._history import history as history
from ._proportions import proportions as proportions
