"""Data sets as arrays, the user's own or read from files that are there; nothing is downloaded.

arrays    the user's own arrays, checked
augment   random changes of training images
datasets  the data sets by name; the digits are embedded
parts     what a data set is, parts of it, label noise
readers   official binary files, and .npz
sources   the user's own files and folders, other packages' data sets, batches
own       all of these by name
"""

from jaxsharp.data.arrays import from_arrays as from_arrays
from jaxsharp.data.augment import AUGMENTATIONS as AUGMENTATIONS
from jaxsharp.data.datasets import DATASETS as DATASETS
from jaxsharp.data.datasets import DatasetSpec as DatasetSpec
from jaxsharp.data.datasets import load as load
from jaxsharp.data.parts import Dataset as Dataset
from jaxsharp.data.parts import redraw_labels as redraw_labels
from jaxsharp.data.parts import stratified as stratified
from jaxsharp.data.readers import DataError as DataError
from jaxsharp.data.readers import Split as Split
from jaxsharp.data.sources.batches import from_batches as from_batches
from jaxsharp.data.sources.huggingface import from_huggingface as from_huggingface
from jaxsharp.data.sources.images import from_images as from_images
from jaxsharp.data.sources.text import from_text as from_text
