"""The measures of the room, from one file a family."""

from jaxsharp.measures.contract import Measure
from jaxsharp.measures.neighbourhood import average, box, distances, pacbayes, worst

MEASURES: dict[str, Measure] = {
    **average.MEASURES,
    **worst.MEASURES,
    **box.MEASURES,
    **distances.MEASURES,
    **pacbayes.MEASURES,
}
