"""Data sets as arrays of uint8, read from files that are there; nothing is downloaded.

datasets   the data sets by name, parts of them, label noise; the digits are embedded
readers    official binary files, .npz, and what tensorflow-datasets has prepared
"""

from jaxsharp.data.datasets import DATASETS as DATASETS
from jaxsharp.data.datasets import Dataset as Dataset
from jaxsharp.data.datasets import DatasetSpec as DatasetSpec
from jaxsharp.data.datasets import load as load
from jaxsharp.data.datasets import redraw_labels as redraw_labels
from jaxsharp.data.datasets import stratified as stratified
from jaxsharp.data.readers import DataError as DataError
from jaxsharp.data.readers import Split as Split
