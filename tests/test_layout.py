"""The house: which room stands on which, what each lists, how large a room or a file may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxsharp"
# From the ground up: a room imports from those before it alone.
FLOORS = [
    *("core", "data", "curvature", "networks", "optimizers", "analysis"),
    *("measures", "training", "runs", "studies", "cli"),
]
FOLDERS = sorted(p.parent for p in PACKAGE.rglob("__init__.py") if p.parent != PACKAGE)
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
MAX_LINES = 300
MAX_MODULES = 12


def name_of(path):
    return str(path.relative_to(PACKAGE))


def imported(source):
    """Every module of the package that a source imports or takes a name from, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "jaxsharp")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "jaxsharp":
                yield from (f"jaxsharp.{a.name}" for a in node.names)
            elif node.module.startswith("jaxsharp."):
                yield node.module


def upwards(room, source):
    """What a source of a room imports from rooms above it."""
    rooms = {name.split(".")[1] for name in imported(source) if "." in name}
    return sorted(rooms - set(FLOORS[: FLOORS.index(room) + 1]))


def listed(source):
    """The names that a folder's `__init__` lists, in order."""
    return [
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
    ]


def mapped(source):
    """The modules that the docstring of a folder's `__init__` explains: words before two spaces."""
    lines = ast.get_docstring(ast.parse(source)).splitlines()
    heads = [re.match(r" {0,4}([a-z_]+(?:, [a-z_]+)*) {2,}\S", line) for line in lines]
    return [name for head in heads if head for name in head[1].split(", ")]


def test_every_room_has_a_floor():
    assert sorted({f.relative_to(PACKAGE).parts[0] for f in FOLDERS}) == sorted(FLOORS)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", [*MODULES, *(f / "__init__.py" for f in FOLDERS)], ids=name_of)
def test_imports_point_downwards(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room in FLOORS:
        assert upwards(room, path.read_text()) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_lists_each_public_name_once_and_maps_each_module(folder):
    source = (folder / "__init__.py").read_text()
    names = listed(source)
    assert len(names) == len(set(names))
    stems = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    rooms = {p.parent.name for p in folder.glob("*/__init__.py")}
    assert sorted(mapped(source)) == sorted(stems | rooms)
    assert len(stems) <= MAX_MODULES


def test_the_map_of_the_house_names_every_room():
    assert sorted(mapped((PACKAGE / "__init__.py").read_text())) == sorted(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_one_room(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_test_and_an_experiment_are_no_longer_than_a_module():
    top = PACKAGE.parent
    files = [file for folder in ("tests", "experiments") for file in (top / folder).rglob("*.py")]
    lines = {str(p.relative_to(top)): len(p.read_text().splitlines()) for p in files}
    assert len(files) > 150
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


def test_a_test_file_has_a_name_of_its_own():
    """pytest imports test files by their names alone."""
    names = sorted(p.name for p in (PACKAGE.parent / "tests").rglob("test_*.py"))
    assert len(names) > 50 and names == sorted(set(names))


def test_the_readers_of_the_house_see_what_they_are_made_for():
    """An upward import of each form is found; so is a name that is listed twice."""
    for source in (
        "import jaxsharp.cli",
        "def f():\n    from jaxsharp.studies.grid import StudyConfig",
        "from jaxsharp import core, studies",
    ):
        assert len(upwards("measures", source)) == 1
    assert upwards("cli", "from jaxsharp.studies import run") == []
    assert listed("from a import b as b\nfrom c import d as b") == ["b", "b"]
    assert mapped('"""A room.\n\n    one, two   what is here\n    no module at all\n"""') == [
        "one",
        "two",
    ]


def python(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_numerical_rooms_stand_alone():
    """Without network libraries, tables, figures or data sets on the machine."""
    blocked = ["flax", "pandas", "matplotlib", "scipy.stats", "tensorflow_datasets", "tyro", "rich"]
    python(
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from jaxsharp import core, curvature, optimizers"
    )


@pytest.mark.slow
def test_help_and_a_wrong_command_compute_nothing():
    """Help is printed without JAX, NumPy or any room of the house but the command line."""
    heavy = "{'jax', 'numpy', 'flax', 'pandas', 'matplotlib', 'scipy', 'tyro'}"
    printed = python(
        "import sys\nfrom jaxsharp.cli import main\nmain(['--help'])\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert printed.splitlines()[-1] == "[]"
    rooms = {"study", "merge", "status", "report", "train", "sharpness", "plot", "list"}
    assert rooms <= set(re.findall(r"^(\w+) ", printed, re.M))
