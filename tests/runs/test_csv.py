"""Tables as they are read: what cells are, and lines that are not as their header."""

import io

import numpy as np
import pandas as pd
import pytest

from jaxsharp.cli.evaluate.tables import joined, read_table, rows_where
from jaxsharp.runs.tables import parse_csv
from tests.test_layout import PACKAGE


def column(*cells: str) -> list:
    """The values of a column with these cells, beside another."""
    text = "".join(f'{number},"{cell}"\n' for number, cell in enumerate(cells))
    return list(parse_csv(f"number,name\n{text}".encode())["name"])


def test_texts_that_stand_for_nothing_stay_apart():
    """pandas takes each of these words for one missing value: three augmentations were one."""
    assert column("None", "NA", "flip", "null", "nan") == ["None", "NA", "flip", "null", "nan"]
    assert column("None", "none", "NaN") == ["None", "none", "NaN"]
    assert column("NULL", "n/a") == ["NULL", "n/a"]
    *there, empty = column("None", "")
    assert there == ["None"] and pd.isna(empty)


@pytest.mark.parametrize("word", ["nan", "NA", "None", "null", "", "NaN"])
def test_among_numbers_and_truth_values_such_words_are_missing(word):
    np.testing.assert_array_equal(column("1.5", word, "2"), [1.5, np.nan, 2.0])
    np.testing.assert_array_equal(column("1", word, "-inf"), [1, np.nan, -np.inf])
    truths = column("True", word, "false")
    assert truths[::2] == [True, False] and pd.isna(truths[1])
    assert all(np.isnan(column(word, word)))


def test_whole_numbers_of_any_size_stay_apart():
    """As floats, which pandas makes of them beside an empty cell, these are one."""
    large = [2**53, 2**53 + 1, 2**64, 2**64 + 1]
    assert column(*map(str, large)) == large
    *there, empty = column(*map(str, large), "")
    assert there == large and np.isnan(empty)
    assert column(str(2**53), "")[0] == 2.0**53


@pytest.mark.parametrize("cell", ["95%", "0,5", "1_000", "0x10", "yes", "1 2"])
def test_what_is_no_number_is_a_text(cell):
    assert column("1", cell) == ["1", cell]


def test_blanks_before_cells_and_around_names_are_no_part_of_them():
    found = parse_csv(b"\n\xef\xbb\xbf"[1:] + b"\n lr , kind\n\n0.1, sgd\n0.2, adam\n")
    assert list(found) == ["lr", "kind"] and list(found["kind"]) == ["sgd", "adam"]
    assert list(parse_csv(b",a\n0,1\n")) == ["Unnamed: 0", "a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No columns to parse from file"),
        ("a,b\n1,2,\n3,4,\n", "line 2 has 3 cells, and the header 2; they must be as many"),
        ("a,b\n1,2,9\n3,4\n", "line 2 has 3 cells, and the header 2"),
        ("a,b\n\n1,2\n3\n", "line 4 has 1 cell, and the header 2"),
        ("\na,b, a\n1,2,3\n", "it has the column 'a' twice; name one otherwise"),
        (f"a\n{'1' * 200_000}\n", "line 2: field larger than field limit"),
    ],
)
def test_lines_that_are_not_as_their_header_are_refused(text, said):
    """pandas takes the first of too many cells for names of rows, and all are of other columns."""
    with pytest.raises(ValueError, match=said):
        parse_csv(text.encode())


def test_tables_of_results_are_as_pandas_reads_them():
    for file in sorted((PACKAGE.parent / "results" / "digits").glob("*.csv")):
        content = file.read_bytes()
        pd.testing.assert_frame_equal(
            parse_csv(content), pd.read_csv(io.BytesIO(content)), check_exact=True
        )


def test_so_is_a_table_that_is_evaluated(tmp_path):
    """Before, these were two configurations, and columns that each stood one too far left."""
    path = tmp_path / "runs.csv"
    path.write_text("gap,augment\n1,None\n2,NA\n3,flip\n")
    assert read_table(path)["augment"].nunique(dropna=False) == 3
    path.write_text("rate,seed,gap\n0.1,0,3,\n0.2,1,4,\n")
    with pytest.raises(ValueError, match="is no CSV table: line 2 has 4 cells, and the header 3"):
        read_table(path)


def test_numbers_of_one_table_are_those_that_are_texts_in_another(tmp_path):
    """Before, the rate 0.1 of a table with auto was another than the rate 0.1 of one without."""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("rate,name,gap\n0.1,a,1\n2,b,2\n,c,2\n")
    two.write_text("rate,name,gap\n1e-1,a,3\nauto,b,4\n2.0,d,5\n")
    rate = joined({path: read_table(path) for path in (one, two)})["rate"]
    assert [each for each in rate if each == each] == [0.1, 2, 0.1, "auto", 2]
    assert rate.nunique() == 3 and rate.isna().sum() == 1
    assert list(joined({one: read_table(one)})["rate"].dropna()) == [0.1, 2.0]


def test_rows_are_chosen_by_whole_numbers_of_any_size():
    runs = pd.DataFrame({"seed": [2**53, 2**53 + 1, 2**60, 3], "gap": range(4)})
    for seed in runs["seed"]:
        assert list(rows_where(runs, [f"seed={seed}"])["seed"]) == [seed]
    assert len(rows_where(runs, ["seed=3.0"])) == 1
