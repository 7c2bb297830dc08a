"""Pytrees as vectors, means over data in chunks, memory, and the reading of programs.

trees         pytrees as vectors: norms, products, directions, parts
keys          random keys, a stream for each purpose
chunks        means over data sets, in memory or streamed, a chunk of examples at a time
entropies     cross-entropies that keep their digits however sure a network is
additivity    whether a loss is a mean over examples, so that data may be cut into chunks
streaming     arrays that stay on the host, of which programs read a part at a time
memory        what a call may take of the memory, and how many examples a chunk may have within it
convolutions  convolutions as matrix products, in functions that anybody wrote
programs      what a traced program contains
averages      means of random observations, with a standard error that decides when they stop
choices       names and numbers that a user or a file gives: checked, or refused in one line
fingerprints  digests of arrays and of traced programs
"""

from jaxsharp.core.chunks import Batches as Batches
from jaxsharp.core.chunks import mean_over_batches as mean_over_batches
from jaxsharp.core.chunks import mean_over_chunks as mean_over_chunks
from jaxsharp.core.chunks import num_examples as num_examples
from jaxsharp.core.memory import Budget as Budget
from jaxsharp.core.memory import budget as budget
from jaxsharp.core.trees import Vector as Vector
