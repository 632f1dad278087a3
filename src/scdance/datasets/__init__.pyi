from ._load import DatasetError as DatasetError
from ._load import info as info
from ._load import load as load
from ._load import names as names
from ._load import table as table
from ._toy import toy_clusters as toy_clusters
