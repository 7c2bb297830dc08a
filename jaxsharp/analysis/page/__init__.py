"""One HTML page of studies that needs nothing but itself: tables, figures to choose, settings.

study      what a page is made of
html       the page: styles, script, and what it may load
content    what the script of the page reads
runs       what its figures are drawn from: columns of runs, curves
tables     its other tables
headline   what the correlations of a study say, in a sentence
cells      values as JSON can hold them
"""

from jaxsharp.analysis.page.html import page_of as page_of
from jaxsharp.analysis.page.study import Study as Study
