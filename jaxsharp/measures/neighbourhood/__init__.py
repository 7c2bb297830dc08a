"""The loss around the parameters; `jaxsharp.measures` lists the public names.

losses       the loss over all examples, and its gradient, as functions of the parameters
directions   random directions, plain and scaled to the parameters, and those between networks
ascents      the largest value in a ball: one step, PGD, Auto-PGD
crossings    where a function of a distance has risen to a value
sampling     means to a stated error, of draws and of rises by random directions and examples
average      the mean rise of the loss at random points
worst        the largest rise of the loss in a ball, over groups of examples
box          the largest relative rise in a box that grows with the parameters (Keskar et al.)
distances    how far until the loss has risen by a given amount
pacbayes     the noise under which it has, and the term of the PAC-Bayes bound
lines        the loss along lines and over planes
families     MEASURES of all families
"""

from jaxsharp.measures.neighbourhood import directions as directions
from jaxsharp.measures.neighbourhood.average import RandomSharpness as RandomSharpness
from jaxsharp.measures.neighbourhood.average import perturbed as perturbed
from jaxsharp.measures.neighbourhood.average import random_perturbation as random_perturbation
from jaxsharp.measures.neighbourhood.families import MEASURES as MEASURES
from jaxsharp.measures.neighbourhood.lines import loss_along as loss_along
from jaxsharp.measures.neighbourhood.lines import loss_plane as loss_plane
from jaxsharp.measures.neighbourhood.worst import WorstCase as WorstCase
from jaxsharp.measures.neighbourhood.worst import worst_case as worst_case
