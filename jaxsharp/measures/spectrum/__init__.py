"""The spectrum of the Hessian of the training loss.

eigenvalues   at both ends, by Lanczos
samples       the top eigenpair by products over a sample, and few over all examples
traces        trace, exact or by random probes, and Frobenius norm
densities     functionals of the density of eigenvalues
"""

from jaxsharp.measures.spectrum.eigenvalues import TopEigenvalue as TopEigenvalue
from jaxsharp.measures.spectrum.eigenvalues import top_eigenvalue as top_eigenvalue
from jaxsharp.measures.spectrum.traces import layer_traces as layer_traces
