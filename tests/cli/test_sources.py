"""Data sets and networks as commands name them."""

import pytest

from jaxsharp.cli.sources import dataset_name, network_of


@pytest.mark.parametrize(
    ("dataset", "name", "model"),
    [
        ("digits", "digits", "small_mlp"),
        ("cifar10", "cifar10", "simple_batch"),
        ("a folder/my table.csv", "my-table", "small_mlp"),
        ("a folder/my book.TXT", "my-book", "gpt"),
    ],
)
def test_a_data_set_has_a_name_and_a_usual_network(dataset, name, model):
    assert dataset_name(dataset) == name
    assert network_of(None, dataset) == (model, model)
    assert network_of("resnet_20", dataset) == ("resnet_20", "resnet_20")


def test_unknown_names_are_told_what_is_valid():
    with pytest.raises(ValueError, match=r"unknown dataset 'book.pdf'.*\.txt"):
        dataset_name("book.pdf")
    with pytest.raises(ValueError, match=r"unknown model 'resnet'.*resnet_20.*FILE.py:FUNCTION"):
        network_of("resnet", "digits")
