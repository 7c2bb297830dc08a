"""Configurations: names that differ when anything differs, values that no run can have."""

import functools
import inspect
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE, own_arguments
from jaxsharp.runs import SAM, RunConfig, Settings

CONFIG = RunConfig("digits", "small_mlp", "adam", "sam", 3)
AXES = {
    "learning_rate": st.floats(1e-9, 1e3, exclude_min=True),
    "momentum": st.floats(0, 1, exclude_max=True),
    "weight_decay": st.floats(0, 1e9),
    "rho": st.floats(0, 1e9),
    "batch_size": st.integers(1, 1 << 30),
    "label_noise": st.floats(0, 1),
}


def named(**settings):
    return replace(CONFIG, settings=Settings(**settings)).name


def test_a_run_with_defaults_is_named_by_optimizer_variant_and_seed():
    assert CONFIG.name == CONFIG.resolved().name == "adam-sam-seed3"
    assert replace(CONFIG, sam="asam").resolved().name == "adam-asam-seed3"
    assert replace(CONFIG, sam="none").name == "adam-seed3"


def test_what_a_grid_varies_is_in_the_name_where_it_is_not_the_default():
    assert named(learning_rate=0.1) == "adam-sam-lr0.1-seed3"
    assert named(learning_rate=1.0, batch_size=64) == "adam-sam-lr1-bs64-seed3"
    assert named(rho=0.2, momentum=0.0) == "adam-sam-rho0.2-m0-seed3"
    assert named(weight_decay=0.0, label_noise=0.25) == "adam-sam-wd0-noise0.25-seed3"
    assert named(rho=0.05) == named(batch_size=128) == named(label_noise=0.0) == "adam-sam-seed3"
    assert named(epochs=7) == "adam-sam-seed3"  # one number for all runs of a study
    unused = replace(CONFIG, sam="none", settings=Settings(rho=0.2))
    assert unused.name == "adam-seed3"
    asam = replace(CONFIG, sam="asam", settings=Settings(rho=0.05))
    assert asam.name == asam.resolved().name == "adam-asam-rho0.05-seed3"


def used(optimizer, sam="none", **settings):
    return RunConfig("digits", "small_mlp", optimizer, sam, 0, Settings(**settings)).used()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_a_run_uses_is_given_or_the_default_of_the_factory(optimizer):
    parameters = inspect.signature(OPTIMIZERS[optimizer]).parameters
    own = {n: parameters[n].default for n in ("learning_rate", "momentum") if n in parameters}
    decay = {"weight_decay": 0.0, "decoupled_weight_decay": 0.0}
    assert used(optimizer) == {**own, **decay}
    rho = inspect.signature(SHARPNESS_AWARE["asam"]).parameters["rho"].default
    given = {"learning_rate": 0.5, "weight_decay": 0.25}
    assert used(optimizer, "asam", **given) == {**own, **decay, **given, "rho": rho}
    assert used(optimizer, "asam", rho=0.0)["rho"] == 0.0


def test_own_arguments_are_the_numeric_ones_of_any_callable():
    def factory(learning_rate=1, *, momentum=0.5, nesterov=False, mask=None, name="mine", decay):
        pass

    bound = functools.partial(factory, momentum=0.25)
    assert own_arguments(factory) == {"learning_rate": 1.0, "momentum": 0.5}
    assert own_arguments(bound) == {"learning_rate": 1.0, "momentum": 0.25}


@given(
    st.tuples(*[st.dictionaries(st.sampled_from(list(AXES)), st.none(), max_size=3)] * 2),
    st.data(),
)
def test_two_settings_have_two_names(chosen, data):
    one, two = (
        replace(CONFIG, settings=Settings(**{k: data.draw(AXES[k]) for k in keys})).resolved()
        for keys in chosen
    )
    assert (one.name == two.name) == (one == two)


def test_neighbouring_numbers_have_two_names():
    assert named(learning_rate=0.1) != named(learning_rate=0.1 + 1e-16)
    assert named(learning_rate=1234567.0) != named(learning_rate=1234568.0)


def test_the_radius_on_record_is_the_one_that_is_taken():
    given = replace(CONFIG, settings=Settings(rho=0.2))
    for sam, own, other in (("sam", 0.05, 0.2), ("asam", 0.5, 0.2), ("none", None, None)):
        assert replace(CONFIG, sam=sam).resolved().settings.rho == own
        assert replace(given, sam=sam).resolved().settings.rho == other
    assert replace(given, settings=Settings(rho=0.0)).resolved().settings.rho == 0
    assert replace(CONFIG, settings=Settings(epochs=7)).resolved().settings.epochs == 7


def test_a_variant_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="sam is 'sma'; it must be one of none, sam, asam, "):
        replace(CONFIG, sam="sma")
    assert SAM[0] == "none"


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("momentum", float("nan")),
        ("weight_decay", -0.1),
        ("weight_decay", float("inf")),
        ("rho", -0.1),
        ("loss_below", -1.0),
        ("change_below", 0.0),
        ("patience", 0),
        ("label_noise", 1.5),
        ("measure_size", 0),
    ],
)
def test_settings_that_no_run_can_have(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be"):
        replace(Settings(), **{field: value}).check()
    Settings().check()
    Settings(momentum=0.0, weight_decay=0.0, rho=0.0, label_noise=1.0).check()
