"""Which module may import which: no circles, downwards only, and `sae_torch` by the public names of `allocation`."""

import ast
from pathlib import Path

import grimp
import pytest

import allocation

ROOT = Path(__file__).parents[1]
# From the lowest layer to the highest; a module imports from its own layer and from those before it.
LAYERS = {
    "allocation": (
        ("errors", "arrays", "threads", "notebook"),
        ("arguments", "nesting", "exact_sums", "masked"),
        ("ranks",),
        ("scores",),
        ("cuda",),
        ("validation",),
        ("rough",),
        ("problem",),
        ("quotas", "agreement"),
        ("solution",),
        ("certificate",),
        ("soft",),
        ("solvers",),
        ("solve", "exceeding"),
        ("plot",),
    ),
    "sae_torch": (
        (
            "errors",
            "plain_numbers",
            "notebook",
            "files",
            "environment",
            "launched",
            "devices",
            "config_file",
            "retyped",
            "dense",
        ),
        ("codes", "matches", "product_dtype", "input_transform"),
        ("parallel",),
        ("ops",),
        ("exact_products",),
        ("rough_scores",),
        ("score_blocks",),
        ("choices",),
        ("adapter",),
        ("sparse_coder",),
        ("autoencoder", "transcoder"),
        ("losses", "calibration"),
        ("activations",),
        ("interop",),
        ("evaluation",),
        ("training",),
        ("commands", "refusal"),
        ("cli",),
    ),
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "allocation", "sae_torch", "benchmarks", exclude_type_checking_imports=False, cache_dir=None
    )


@pytest.mark.parametrize("package", ["allocation", "sae_torch", "benchmarks"])
def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph, package: str) -> None:
    modules = {name for name in graph.modules if name.split(".")[0] == package}
    circles = []
    for module in sorted(modules):
        for imported in graph.find_modules_directly_imported_by(module):
            chain = graph.find_shortest_chain(importer=imported, imported=module)
            if chain is not None:
                circles.append(" -> ".join((module, *chain)))
    assert not circles, circles


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_downwards(graph: grimp.ImportGraph, package: str) -> None:
    level = {name: number for number, names in enumerate(LAYERS[package]) for name in names}
    upwards = []
    for module in sorted(name for name in graph.modules if name.startswith(f"{package}.")):
        own = module.split(".")[1]
        if own == "__main__":
            continue
        inside = [name for name in graph.find_modules_directly_imported_by(module) if name.startswith(f"{package}.")]
        upwards += [f"{module} -> {name}" for name in inside if level[name.split(".")[1]] > level[own]]
    assert not upwards, upwards


def test_allocation_imports_nothing_above_it(graph: grimp.ImportGraph) -> None:
    found = [
        f"{module} -> {imported}"
        for module in graph.modules
        if module.startswith("allocation")
        for imported in graph.find_modules_directly_imported_by(module)
        if not imported.startswith("allocation")
    ]
    assert not found, found


def test_sae_torch_uses_public_names_of_allocation_only() -> None:
    found = []
    for file in sorted((ROOT / "sae_torch").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {"allocation"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.asname for alias in node.names if alias.name == "allocation" and alias.asname}
                found += [f"{file}: {a.name}" for a in node.names if a.name.startswith("allocation.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "allocation":
                found.append(f"{file}:{node.lineno}: from {node.module}")
        uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
        ours = [node for node in uses if node.value.id in names]
        public = (*allocation.__all__, "__version__")
        found += [f"{file}:{node.lineno}: {node.attr}" for node in ours if node.attr not in public]
    assert not found, found


def test_no_solver_asks_what_type_its_scores_are() -> None:
    """Scores are one interface: another form of them is one class, and no solver changes."""
    asking = []
    for file in sorted((ROOT / "allocation").rglob("*.py")):
        # Problem takes either scores or what they are made of; the certificate reads them by code of its own.
        if file == ROOT / "allocation" / "problem.py" or file.parent.name == "certificate":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            asks = isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
            if asks and "Scores" in ast.unparse(node.args[-1]):
                asking.append(f"{file}:{node.lineno}")
    assert not asking, asking


def test_the_certificate_uses_nothing_that_solvers_compute_with() -> None:
    """A fault in what both used would pass as proved."""
    files = sorted((ROOT / "allocation" / "certificate").glob("*.py"))
    assert len(files) > 4
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not called & {"blocks", "find", "raise_best", "values_at", "matches", "errors_at"}, file
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert not {module for module in modules if module.startswith("allocation.solvers")}, file
