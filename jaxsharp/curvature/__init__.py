"""Second derivatives of a loss: products, eigenpairs, traces, densities, each with its error.

Everything takes callables and pytrees, whatever library made them.

    products        Hessian, Gauss-Newton and Fisher products
    operators       what a product is to the methods
    likelihoods     distributions of targets given an output; factors of output losses
    checks          what a loss must be, checked before anything compiles
    linearization   derivatives as linear maps, kept or computed again
    lanczos         eigenpairs at either end, with residuals
    krylov          the restarted Lanczos process, in memory that does not grow
    density         the spectral density, by quadrature
    traces          Hutchinson's traces, diagonals and Frobenius norms with standard errors
    sketches        traces by Hutch++ and XTrace
    exact           exact traces, diagonals and relative flatness of piecewise-linear networks
    reductions      sums of squares over examples, for these
    structure       the rescalings that a network admits, read off its program
"""

from jaxsharp.curvature.density import DensityEstimate as DensityEstimate
from jaxsharp.curvature.density import SpectralDensity as SpectralDensity
from jaxsharp.curvature.exact import exact_diagonal as exact_diagonal
from jaxsharp.curvature.exact import exact_ggn_diagonal as exact_ggn_diagonal
from jaxsharp.curvature.exact import exact_ggn_traces as exact_ggn_traces
from jaxsharp.curvature.exact import exact_relative_flatness as exact_relative_flatness
from jaxsharp.curvature.exact import exact_traces as exact_traces
from jaxsharp.curvature.lanczos import BothEnds as BothEnds
from jaxsharp.curvature.lanczos import EigenPairs as EigenPairs
from jaxsharp.curvature.lanczos import bottom_eigenpairs as bottom_eigenpairs
from jaxsharp.curvature.lanczos import extreme_eigenpairs as extreme_eigenpairs
from jaxsharp.curvature.lanczos import spectral_density as spectral_density
from jaxsharp.curvature.lanczos import top_eigenpairs as top_eigenpairs
from jaxsharp.curvature.likelihoods import Likelihood as Likelihood
from jaxsharp.curvature.likelihoods import bernoulli as bernoulli
from jaxsharp.curvature.likelihoods import categorical as categorical
from jaxsharp.curvature.likelihoods import gaussian as gaussian
from jaxsharp.curvature.likelihoods import poisson as poisson
from jaxsharp.curvature.likelihoods import sigmoid_factors as sigmoid_factors
from jaxsharp.curvature.likelihoods import softmax_factors as softmax_factors
from jaxsharp.curvature.likelihoods import squared_factors as squared_factors
from jaxsharp.curvature.operators import Matvec as Matvec
from jaxsharp.curvature.operators import Operator as Operator
from jaxsharp.curvature.operators import preconditioned as preconditioned
from jaxsharp.curvature.products import empirical_fisher as empirical_fisher
from jaxsharp.curvature.products import fisher as fisher
from jaxsharp.curvature.products import ggn as ggn
from jaxsharp.curvature.products import hessian as hessian
from jaxsharp.curvature.products import monte_carlo_fisher as monte_carlo_fisher
from jaxsharp.curvature.sketches import hutchpp as hutchpp
from jaxsharp.curvature.sketches import xtrace as xtrace
from jaxsharp.curvature.structure import Structure as Structure
from jaxsharp.curvature.structure import StructureError as StructureError
from jaxsharp.curvature.structure import Units as Units
from jaxsharp.curvature.structure import analyze as analyze
from jaxsharp.curvature.structure import analyze_units as analyze_units
from jaxsharp.curvature.traces import Estimate as Estimate
from jaxsharp.curvature.traces import Trace as Trace
from jaxsharp.curvature.traces import diagonal as diagonal
from jaxsharp.curvature.traces import frobenius_norm as frobenius_norm
from jaxsharp.curvature.traces import hutchinson as hutchinson
