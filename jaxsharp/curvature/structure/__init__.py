"""What a network's program says about its parameters: linearity, and the rescalings it admits.

analysis   what a program says: linearity, rescalings, constants that hold some back
reading    reads a program equation by equation
tables     operations by what they do to linearity and scale; which run a program of their own
scales     the rescalings that its constraints leave
taps       runs it with its products tapped; their operands as matrices
units      the rescalings of single hidden units, from labels of all numbers of a program
arranging  operations that rearrange numbers, on labels
layouts    products of matrices and convolutions, on labels
meetings   entries of parameters, and the units that they lead from and to
ties       labels that are equal
rules      derivative rules of users, against the functions that they belong to
"""

from jaxsharp.curvature.structure.analysis import Structure as Structure
from jaxsharp.curvature.structure.analysis import analyze as analyze
from jaxsharp.curvature.structure.analysis import read as read
from jaxsharp.curvature.structure.analysis import read_linear as read_linear
from jaxsharp.curvature.structure.analysis import warn_of_missed as warn_of_missed
from jaxsharp.curvature.structure.reading import Product as Product
from jaxsharp.curvature.structure.reading import StructureError as StructureError
from jaxsharp.curvature.structure.taps import activation_rows as activation_rows
from jaxsharp.curvature.structure.taps import evaluate_tapped as evaluate_tapped
from jaxsharp.curvature.structure.taps import like_leaf as like_leaf
from jaxsharp.curvature.structure.taps import parameter_matrix as parameter_matrix
from jaxsharp.curvature.structure.taps import signal_rows as signal_rows
from jaxsharp.curvature.structure.units import Units as Units
from jaxsharp.curvature.structure.units import analyze_units as analyze_units
from jaxsharp.curvature.structure.units import read_units as read_units
