"""Sharpness measures of a trained network, each value with its error.

minimum         a room of its own: the trace, minimized over all rescalings of the network
spectrum        a room of its own: eigenvalues, traces and what the density of eigenvalues says
neighbourhood   a room of its own: the loss around the parameters, on average, at worst, how far
edges           a room of its own: where training becomes unstable, what is followed beside that
relatives       Fisher-Rao norm, theta^T H theta, relative flatness
baselines       norms, distance from initialization, margin, number of parameters
output_losses   the losses that outputs may have been trained with
batches         measures of a loss over whole batches
contract        what a measure is to tables, studies and commands; options, records, symmetries
catalogue       measures by name of one network
registry        MEASURES, which studies and commands choose from
"""

from jaxsharp.measures import edges as edges
from jaxsharp.measures.catalogue import measure as measure
from jaxsharp.measures.contract import SYMMETRIES as SYMMETRIES
from jaxsharp.measures.contract import Measure as Measure
from jaxsharp.measures.contract import Options as Options
from jaxsharp.measures.contract import Record as Record
from jaxsharp.measures.contract import Trained as Trained
from jaxsharp.measures.minimum import Rescaled as Rescaled
from jaxsharp.measures.minimum import SampledMinimum as SampledMinimum
from jaxsharp.measures.minimum import ScaleMinimum as ScaleMinimum
from jaxsharp.measures.minimum import chain_exponents as chain_exponents
from jaxsharp.measures.minimum import ibayashi_minimum as ibayashi_minimum
from jaxsharp.measures.minimum import minimize_over_scales as minimize_over_scales
from jaxsharp.measures.minimum import minimize_over_units as minimize_over_units
from jaxsharp.measures.minimum import minimum_sharpness as minimum_sharpness
from jaxsharp.measures.minimum import minimum_sharpness_units as minimum_sharpness_units
from jaxsharp.measures.minimum import rescaled as rescaled
from jaxsharp.measures.minimum import rescaled_units as rescaled_units
from jaxsharp.measures.minimum import sampled_minimum_sharpness as sampled_minimum_sharpness
from jaxsharp.measures.neighbourhood import RandomSharpness as RandomSharpness
from jaxsharp.measures.neighbourhood import WorstCase as WorstCase
from jaxsharp.measures.neighbourhood import directions as directions
from jaxsharp.measures.neighbourhood import loss_along as loss_along
from jaxsharp.measures.neighbourhood import loss_plane as loss_plane
from jaxsharp.measures.neighbourhood import random_perturbation as random_perturbation
from jaxsharp.measures.neighbourhood import worst_case as worst_case
from jaxsharp.measures.output_losses import OUTPUT_LOSSES as OUTPUT_LOSSES
from jaxsharp.measures.registry import DEFAULT_MEASURES as DEFAULT_MEASURES
from jaxsharp.measures.registry import MEASURES as MEASURES
from jaxsharp.measures.relatives import relative_flatness as relative_flatness
from jaxsharp.measures.spectrum import TopEigenvalue as TopEigenvalue
from jaxsharp.measures.spectrum import layer_traces as layer_traces
from jaxsharp.measures.spectrum import top_eigenvalue as top_eigenvalue
