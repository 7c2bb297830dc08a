"""Where training becomes unstable, and what is followed beside that; `measures.edges` to users.

An edge is the value of a curvature at which the step of an optimizer, on a quadratic with that
curvature, stops to shrink the distance from the minimum. All are pure functions that a training
loop calls between steps, compiled or not.

formulas          the edges of optimizers
preconditioners   D of the steps lr D^(-1) m, from the state of an optimizer
quantities        eigenvalues from a warm start, curvature along gradients and along updates
"""

from jaxsharp.measures.edges.formulas import BatchEdges as BatchEdges
from jaxsharp.measures.edges.formulas import adam_edge as adam_edge
from jaxsharp.measures.edges.formulas import adashift_edge as adashift_edge
from jaxsharp.measures.edges.formulas import batch_edges as batch_edges
from jaxsharp.measures.edges.formulas import heavy_ball_edge as heavy_ball_edge
from jaxsharp.measures.edges.formulas import sam_edge as sam_edge
from jaxsharp.measures.edges.preconditioners import (
    adabound_preconditioner as adabound_preconditioner,
)
from jaxsharp.measures.edges.preconditioners import adagrad_preconditioner as adagrad_preconditioner
from jaxsharp.measures.edges.preconditioners import adam_preconditioner as adam_preconditioner
from jaxsharp.measures.edges.preconditioners import (
    adashift_preconditioner as adashift_preconditioner,
)
from jaxsharp.measures.edges.quantities import BatchSharpness as BatchSharpness
from jaxsharp.measures.edges.quantities import CriticalSharpness as CriticalSharpness
from jaxsharp.measures.edges.quantities import FollowedEigenvalue as FollowedEigenvalue
from jaxsharp.measures.edges.quantities import batch_sharpness as batch_sharpness
from jaxsharp.measures.edges.quantities import critical_sharpness as critical_sharpness
from jaxsharp.measures.edges.quantities import directional_sharpness as directional_sharpness
from jaxsharp.measures.edges.quantities import followed_eigenvalue as followed_eigenvalue
