"""Data sets as arrays, the user's own or read from files that are there; nothing is downloaded.

arrays       the user's own arrays, checked
tables       the user's own files: .npz, .csv, .parquet, .txt
text         windows of a text, and the next character at each place
images       a folder of images
huggingface  data sets of Hugging Face's package datasets
prepared     what tensorflow-datasets has prepared
columns      which columns of such data sets are inputs and targets
own          all of these by name
augment      random changes of training images
datasets     the data sets by name; the digits are embedded
parts        what a data set is, parts of it, label noise
readers      official binary files, and .npz
"""

from jaxsharp.data.arrays import from_arrays as from_arrays
from jaxsharp.data.augment import AUGMENTATIONS as AUGMENTATIONS
from jaxsharp.data.datasets import DATASETS as DATASETS
from jaxsharp.data.datasets import DatasetSpec as DatasetSpec
from jaxsharp.data.datasets import load as load
from jaxsharp.data.huggingface import from_huggingface as from_huggingface
from jaxsharp.data.images import from_images as from_images
from jaxsharp.data.parts import Dataset as Dataset
from jaxsharp.data.parts import redraw_labels as redraw_labels
from jaxsharp.data.parts import stratified as stratified
from jaxsharp.data.readers import DataError as DataError
from jaxsharp.data.readers import Split as Split
from jaxsharp.data.text import from_text as from_text
