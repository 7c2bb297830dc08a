"""What a network's program says about its parameters: linearity, and the rescalings it admits.

reading    reads a program equation by equation; runs it with its products tapped
tables     operations by what they do to linearity and scale; which run a program of their own
matrices   operands of a parameter's product as rows, for exact traces
rules      derivative rules of users, against the functions that they belong to
"""

from jaxsharp.curvature.structure.matrices import activation_rows as activation_rows
from jaxsharp.curvature.structure.matrices import like_leaf as like_leaf
from jaxsharp.curvature.structure.matrices import signal_rows as signal_rows
from jaxsharp.curvature.structure.reading import Product as Product
from jaxsharp.curvature.structure.reading import Structure as Structure
from jaxsharp.curvature.structure.reading import StructureError as StructureError
from jaxsharp.curvature.structure.reading import analyze as analyze
from jaxsharp.curvature.structure.reading import evaluate_tapped as evaluate_tapped
from jaxsharp.curvature.structure.reading import read as read
