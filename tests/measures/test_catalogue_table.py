"""The table of the guide is that of the registry."""

from pathlib import Path

from jaxsharp import measures
from jaxsharp.measures.registry import guide_table


def test_the_table_in_the_guide_is_made_from_the_registry():
    """Where they differ, the failure prints the table as it should be."""
    table = guide_table()
    assert len(table.splitlines()) == len(measures.MEASURES) + 2
    guide = (Path(measures.__file__).parent / "README.md").read_text()
    assert table in guide.split("\n\n"), f"the guide's table should be\n{table}"
