"""Minimum sharpness: the least trace of the Hessian over all rescalings of the parameters.

sharpness   `minimum_sharpness` of a network, from exact traces
sampling    the same from a sample of the examples, with its standard error
units       the same over a scale for each hidden unit
entries     MEASURES
scales      the problem over rescalings that it solves
balancing   the sparse problem of units
rescaling   the parameters at the minimum
published   the published solver of that problem, for comparison
"""

from jaxsharp.measures.minimum.balancing import minimize_over_units as minimize_over_units
from jaxsharp.measures.minimum.entries import MEASURES as MEASURES
from jaxsharp.measures.minimum.published import ibayashi_minimum as ibayashi_minimum
from jaxsharp.measures.minimum.rescaling import Rescaled as Rescaled
from jaxsharp.measures.minimum.rescaling import rescaled as rescaled
from jaxsharp.measures.minimum.rescaling import rescaled_units as rescaled_units
from jaxsharp.measures.minimum.sampling import SampledMinimum as SampledMinimum
from jaxsharp.measures.minimum.sampling import (
    sampled_minimum_sharpness as sampled_minimum_sharpness,
)
from jaxsharp.measures.minimum.scales import ScaleMinimum as ScaleMinimum
from jaxsharp.measures.minimum.scales import chain_exponents as chain_exponents
from jaxsharp.measures.minimum.scales import minimize_over_scales as minimize_over_scales
from jaxsharp.measures.minimum.sharpness import minimum_sharpness as minimum_sharpness
from jaxsharp.measures.minimum.units import minimum_sharpness_units as minimum_sharpness_units
