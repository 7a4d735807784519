"""A file imports only lower floors or its own folder, never a sibling folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = {
    **dict.fromkeys(
        ("typing", "sharding", "config", "distributed", "files", "identity", "lock", "progress"), 0
    ),
    **dict.fromkeys(("nn", "diffusion", "data", "metrics"), 1),
    "models": 2,
    "weights": 3,
    "pipelines": 4,
    **dict.fromkeys(("training", "inference"), 5),
    "agents": 6,
    "evaluation": 7,
    "app": 8,
    **dict.fromkeys(("cli", "__init__"), 9),  # __init__: the public names, lazily
    "__main__": 10,  # starts cli
}


def imported_modules(path: Path, source: str) -> Iterator[str]:
    """Dotted names that the file imports anywhere in it, with relative imports resolved."""
    package = list(path.with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(path: Path, source: str) -> list[str]:
    """Imports of one file (its path relative to the repository) that break the rule."""
    own = path.with_suffix("").parts[1]
    if own not in FLOORS:
        return [f"{path}: {own!r} has no floor; give it one in {Path(__file__).name}"]
    found = []
    for module in imported_modules(path, source):
        top, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if top in ("configs", "tests", "train", "evaluate", "convert_weights"):
            found.append(f"{path} imports {module}, which stands above the package")
        elif top == "brushjax" and target not in ("", "__version__", own):
            floor = FLOORS.get(target, FLOORS["__init__"])  # brushjax.load is a name of __init__
            together = floor == FLOORS[own] == 0  # the files of floor 0 share one folder
            if floor >= FLOORS[own] and not together and own != "__init__":
                found.append(f"{path} (floor {FLOORS[own]}) imports {module} (floor {floor})")
    return found


def test_floors_are_kept_by_every_file():
    files = sorted((ROOT / "brushjax").rglob("*.py"))
    broken = [v for f in files for v in violations(f.relative_to(ROOT), f.read_text())]
    assert files
    assert not broken, "\n".join(broken)


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Chains of modules that import each other, each as "a -> b -> a"."""
    found, done = [], set()

    def visit(name: str, chain: list[str]) -> None:
        if name in chain:
            found.append(" -> ".join([*chain[chain.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*chain, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def test_floors_have_no_circle_of_imports():
    files = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts): f
        for f in (ROOT / "brushjax").rglob("*.py")
        if f.name != "__init__.py"
    }
    graph = {}
    for name, file in files.items():
        modules = imported_modules(file.relative_to(ROOT), file.read_text())
        # `from a import b` names a module b, or b inside the module a.
        parents = ((m, m.rpartition(".")[0]) for m in modules)
        graph[name] = {m for pair in parents for m in pair if m in files and m != name}
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b -> c -> b"]
    assert not cycles(graph)


def test_floors_have_no_crowded_folder():
    folders = {f.parent for f in (ROOT / "brushjax").rglob("*.py")}
    files = {f: [p for p in f.glob("*.py") if p.name != "__init__.py"] for f in folders}
    crowded = {str(f.relative_to(ROOT)): len(p) for f, p in files.items() if len(p) > 15}
    assert not crowded, f"more than 15 files side by side: {crowded}"


def test_floors_allow_lower_floors_and_the_own_folder():
    source = "import jax\nfrom brushjax.nn import a\nfrom . import unet\nfrom .vae import b\n"
    assert not violations(Path("brushjax/models/brushnet.py"), source)
    assert not violations(Path("brushjax/sharding.py"), "from brushjax.typing import Residuals")


def test_floors_refuse_upward_sibling_and_hidden_imports():
    for path, source in {
        "brushjax/models/unet.py": "import brushjax.weights.store",
        "brushjax/metrics/clip.py": "def f():\n    from brushjax.models.unet import UNet",
        "brushjax/training/loop.py": "from brushjax import inference",
        "brushjax/inference/inpaint.py": "from ..training import loop",
        "brushjax/diffusion/losses.py": "from brushjax.nn import attention",
        "brushjax/weights/store.py": "from brushjax import load",
        "brushjax/typing.py": "from brushjax import nn",
        "brushjax/training/step.py": "from configs.quickstart import get_config",
        "brushjax/utils.py": "",
    }.items():
        assert len(violations(Path(path), source)) == 1, path
