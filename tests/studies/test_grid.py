"""The grid of a study: which members it has, what one program trains, its parts, its axes."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsharp.core.choices import at_least_one, known_list, width_of
from jaxsharp.measures import MEASURES, Options
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.runs import SAM, Settings
from jaxsharp.studies import StudyConfig
from jaxsharp.studies.grid import group_key, parse_shard, parse_vary

VARY = {"learning_rate": (0.1, 0.01), "rho": (0.05, 0.5)}
GRID = StudyConfig(optimizers=("sgd", "adam"), sam=("none", "sam"), seeds=2, vary=VARY)

vary_axes = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.just((0.1, 1e-5)),
        "rho": st.just((0.05, 0.5, 1.0)),
        "momentum": st.just((0.0, 0.9)),
        "weight_decay": st.just((1e-4, 10.0)),
        "batch_size": st.just((16, 128)),
        "label_noise": st.just((0.0, 0.1)),
    },
)
optimizers = st.lists(st.sampled_from(("sgd", "adam", "adagrad")), min_size=1, unique=True)
variants = st.lists(st.sampled_from(SAM), min_size=1, max_size=3, unique=True)
grids = st.tuples(optimizers.map(tuple), variants.map(tuple), st.integers(1, 3), vary_axes).filter(
    lambda grid: "rho" not in grid[3] or set(grid[1]) != {"none"}
)


def study(grid):
    names, sam, seeds, vary = grid
    return StudyConfig(optimizers=names, sam=sam, seeds=seeds, vary=vary)


def test_members_follow_the_axes_and_seeds_come_last():
    found = [
        (m.optimizer, m.sam, m.settings.learning_rate, m.settings.rho, m.seed)
        for m in GRID.members()
    ]
    want = [
        (optimizer, sam, rate, rho, seed)
        for optimizer in ("sgd", "adam")
        for sam, rhos in (("none", (None,)), ("sam", (0.05, 0.5)))
        for rate in (0.01, 0.1)
        for rho in rhos
        for seed in (0, 1)
    ]
    assert found == want


def test_a_study_is_the_same_in_whatever_order_it_is_given():
    """Names, numbers and axes: one folder, and the rows of one table."""
    names = {"optimizers": ("adam", "sgd", "adagrad"), "sam": ("asam", "none", "sam")}
    measures = ("top_eigenvalue", "minimum_sharpness")
    vary = {"batch_size": (64, 8), "learning_rate": (1.0, 0.25, 0.5), "rho": (0.5, 0.1)}
    given = StudyConfig(**names, measures=measures, vary=vary, shard="2/3")
    turned = StudyConfig(
        **{name: values[::-1] for name, values in names.items()},
        measures=measures[::-1],
        vary={name: vary[name][::-1] for name in reversed(vary)},
        shard="2/3",
    )
    assert json.dumps(given.as_dict()) == json.dumps(turned.as_dict())
    assert given.name == turned.name and given.axes() == turned.axes()
    assert [m.name for m in given.shard_members()] == [m.name for m in turned.shard_members()]
    assert given.axes() == ["optimizer", "sam", "learning_rate", "rho", "batch_size"]
    assert given.optimizers == ("sgd", "adagrad", "adam") and given.sam == ("none", "sam", "asam")
    assert given.measures == measures[::-1] and given.vary["learning_rate"] == (0.25, 0.5, 1.0)
    unknown = replace(given, optimizers=("sgd", "nadam", "adam"))
    with pytest.raises(ValueError, match="unknown optimizer 'nadam'"):
        unknown.check_known(OPTIMIZERS, MEASURES)


def test_a_radius_makes_no_second_run_where_no_variant_takes_it():
    plain = replace(GRID, sam=("none",), settings=Settings(rho=0.3))
    members = plain.members()
    assert len(members) == len(set(members)) == 2 * 2 * 2
    assert {m.settings.rho for m in members} == {None}
    own = replace(GRID, sam=("sam",), vary={}, settings=Settings(rho=0.05)).members()
    assert own == replace(GRID, sam=("sam",), vary={}).members()


@pytest.mark.slow
@given(grids)
@settings(max_examples=20, deadline=None)
def test_runs_of_a_grid_differ_in_name(grid):
    members = study(grid).members()
    assert len({m.name for m in members}) == len(set(members)) == len(members)


@pytest.mark.slow
@given(grids, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_shards_are_a_partition_in_order_as_equal_as_can_be(grid, parts):
    config = study(grid)
    shards = [replace(config, shard=f"{i}/{parts}").shard_members() for i in range(1, parts + 1)]
    assert [m for shard in shards for m in shard] == config.members()
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
@given(grids)
@settings(max_examples=20, deadline=None)
def test_groups_hold_every_member_once(grid):
    config = study(grid)
    groups = config.groups()
    assert sorted(m.name for g in groups for m in g) == sorted(m.name for m in config.members())
    for group in groups:
        first = group[0]
        for member in group:
            assert (member.optimizer, member.sam) == (first.optimizer, first.sam)
            assert member.settings.batch_size == first.settings.batch_size


@pytest.mark.parametrize(
    ("name", "values", "groups"),
    [
        ("learning_rate", (0.1, 0.01), 1),
        ("momentum", (0.0, 0.9), 1),
        ("rho", (0.1, 0.2), 1),
        ("label_noise", (0.0, 0.5), 1),
        ("batch_size", (16, 32), 2),
    ],
)
def test_groups_split_by_code_and_shape_and_not_by_numbers(name, values, groups):
    config = replace(GRID, optimizers=("sgd",), sam=("sam",), vary={name: values})
    assert [len(group) for group in config.groups()] == [4 // groups] * groups
    assert len(replace(config, optimizers=("sgd", "adam")).groups()) == 2 * groups


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay"])
def test_a_hyper_parameter_that_is_absent_is_other_code(name):
    member = GRID.members()[0]
    settings = [replace(Settings(), **{name: value}) for value in (None, 0.1, 0.2)]
    absent, one, two = (group_key(replace(member, settings=each)) for each in settings)
    assert absent != one == two


@pytest.mark.slow
@given(grids, st.sampled_from([None, "1/1"]))
@settings(max_examples=20, deadline=None)
def test_a_configuration_returns_from_json(grid, shard):
    config = replace(
        study(grid),
        shard=shard,
        measures=("top_eigenvalue",),
        settings=Settings(epochs=7, train_size=100),
        options=Options(radius=0.5),
    )
    read = StudyConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    assert read == config
    assert read.members() == config.members()
    assert read.name == config.name
    assert replace(read, seeds=9).name != config.name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "digits-small_mlp-6optimizers-none+sam-3seeds"),
        ({"optimizers": ("sgd", "adam"), "seeds": 1}, "digits-small_mlp-sgd+adam-none+sam-1seed"),
        (
            {"vary": {"learning_rate": (0.1, 0.01), "batch_size": (8, 16)}, "shard": "2/4"},
            "digits-small_mlp-6optimizers-none+sam-lr0.01+0.1-bs8+16-3seeds-part2of4",
        ),
        ({"vary": {"rho": (0.01, 0.02, 0.05, 0.1)}, "sam": ("gsam", "friendly_sam")}, None),
    ],
)
def test_a_folder_is_named_by_what_the_study_holds(changes, name):
    config = replace(StudyConfig(), **changes)
    found, _, digest = config.name.rpartition("-")
    assert len(digest) == 6 and name in (found, None)
    assert name or found == "digits-small_mlp-6optimizers-2variants-rho4values-3seeds"


def test_another_configuration_is_no_study():
    with pytest.raises(ValueError, match="'colour' is no field; valid are dataset, model"):
        StudyConfig.from_dict({**GRID.as_dict(), "colour": "red"})


def test_axes_are_columns_and_steps_count_epochs_and_measures():
    assert GRID.axes() == ["optimizer", "sam", "learning_rate", "rho"]
    assert GRID.steps_per_run == 200 + 3


def test_values_of_an_axis_are_numbers_each_once():
    found = parse_vary(("learning-rate=0.1,1e-2,.1", "batch_size=8,16"), Settings())
    assert found == {"learning_rate": (0.1, 0.01), "batch_size": (8, 16)}
    assert all(type(value) is int for value in found["batch_size"])
    assert list(found) == ["learning_rate", "batch_size"]


def one_line(call, *arguments):
    with pytest.raises(ValueError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["lr=0.1"], "cannot vary 'lr'; valid are learning_rate, rho,"),
        ([""], "cannot vary ''; valid are learning_rate"),
        (["rho=0.1", "rho=0.2"], "vary names rho twice"),
        (["rho"], "vary is 'rho'; it must be rho=VALUE,VALUE with numbers (float)"),
        (["rho=0.1,"], "vary is 'rho=0.1,'; it must be rho=VALUE,VALUE"),
        (["batch_size=1e2"], "it must be batch_size=VALUE,VALUE with numbers (int)"),
        (["batch_size=8,0"], "batch_size is 0; it must be at least 1"),
        (["momentum=0.9,1"], "momentum is 1.0; it must be from 0 up to below 1"),
        (["learning_rate=nan"], "learning_rate is nan; it must be a finite number above 0"),
    ],
)
def test_an_axis_that_is_none_is_refused(texts, said):
    assert said in one_line(parse_vary, tuple(texts), Settings())


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "1/2/3", "-1/2", "a/b", "1.0/2"])
def test_a_part_that_is_none_is_refused(text):
    assert f"shard is {text!r}; it must be i/n" in one_line(parse_shard, text)


def test_parts_are_numbered_from_one():
    assert [parse_shard(text) for text in ("1/1", "2/4")] == [(1, 1), (2, 4)]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "wide", "²"])
def test_a_width_that_is_none_is_refused(text):
    assert f"width is {text!a}; it must be auto or a number from 1" in one_line(width_of, text)
    assert (width_of("auto"), width_of("12")) == (None, 12)


def test_names_are_each_taken_once_and_at_least_one():
    assert known_list("letter", "b, a,b,", "abc") == ("b", "a")
    assert one_line(known_list, "letter", " ,", "abc") == "no letter is named; valid are a, b, c"
    assert one_line(at_least_one, "seeds", 0) == "seeds is 0; it must be at least 1"
