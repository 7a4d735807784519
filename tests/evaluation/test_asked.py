"""What a sweep refuses before it makes anything, and how its methods get their names."""

from pathlib import Path

import pytest

from brushjax.evaluation.benchmarks.brushbench import BrushBench
from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.tables import EmuEdit
from brushjax.evaluation.branch import BranchEvaluation
from brushjax.evaluation.command import main
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.methods.inpainting import Branch, Grid
from brushjax.evaluation.models import named_paths
from brushjax.evaluation.network_files import NETWORK_FILES, weights_missing
from brushjax.evaluation.networks import EXPECTED, NETWORKS
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation import miniatures

CONFIG = """from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.sweep import Sweep


def get_config():
    return Sweep((Folder({folder!r}),), (Telea(), Copy()))
"""


def run(tmp_path, *benchmarks, **fields):
    sweep = Sweep(benchmarks or (Folder("nowhere"),), (Telea(), Copy()), **fields)
    return Run(sweep, tmp_path / "out", devices=[None], progress=False)


def test_metric_without_its_network_is_refused_with_the_files_and_the_command(tmp_path):
    with pytest.raises(
        BenchmarkError, match=r"lpips_keep on folder: .*lpips_alex.*244 MB"
    ) as found:
        run(tmp_path, metrics=("lpips_keep", "psnr_keep"))
    command = "python convert_weights.py to-jax lpips alexnet-owt-7be5be79.pth weights/lpips_alex"
    assert command in str(found.value)
    assert "--networks lpips_alex weights/lpips_alex" in str(found.value)
    assert not (tmp_path / "out").exists()


def test_metric_is_refused_on_the_one_benchmark_that_lacks_its_network(tmp_path):
    """LPIPS has another network in each paper."""
    networks = (("lpips_squeeze", "weights/lpips_squeeze"),)
    run(tmp_path, BrushBench("a"), metrics=("lpips",), networks=networks)
    with pytest.raises(BenchmarkError, match=r"lpips on emuedit-test: .*lpips_alex"):
        run(tmp_path, BrushBench("a"), EmuEdit("b"), metrics=("lpips",), networks=networks)


def test_metric_that_no_profile_here_has_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match=r"no metric lpips on folder .*--profiles .*paper:pie"):
        run(tmp_path, metrics=("lpips",))
    with pytest.raises(BenchmarkError, match="unknown profiles"):
        run(tmp_path, profiles=("claen",))


def test_benchmark_without_any_metric_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="clip_direction on magicbrush-single: "):
        run(tmp_path, MagicBrush("a"), profiles=("paper:ip2p",))
    run(tmp_path, MagicBrush("a"), profiles=("paper:magicbrush",))  # L1 and L2 need none


def test_command_refuses_a_metric_without_its_network_before_painting(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(folder=str(miniatures.folder_of_pictures(tmp_path / "data"))))
    for arguments in (["--out", str(tmp_path / "out")], ["--dry-run"]):
        with pytest.raises(SystemExit, match=r"^error: lpips_all on folder: .*lpips_alex"):
            main([str(config), *arguments, "--metrics", "lpips_all"])
        with pytest.raises(SystemExit, match=r"^error: .*baseline one of telea, copy, got 'tela'"):
            main([str(config), *arguments, "--baseline", "tela"])
    assert not (tmp_path / "out").exists()


def test_mistyped_baseline_is_refused_with_the_names(tmp_path):
    with pytest.raises(BenchmarkError, match="baseline one of telea, copy, got 'copi'"):
        run(tmp_path, baseline="copi")


def test_every_network_says_where_it_comes_from():
    assert set(NETWORK_FILES) == set(NETWORKS)
    assert set(EXPECTED) <= set(NETWORK_FILES)
    for name, one in NETWORK_FILES.items():
        text = weights_missing([name])
        assert one.command(name) in text
        assert one.address in text
    assert "clip_l14" in weights_missing(["aesthetic"])


def test_paths_get_the_shortest_names_that_tell_them_apart():
    for arguments, names in (
        (["runs/quickstart/export"], ["quickstart"]),
        (["runs/a/export", "runs/b/export"], ["a", "b"]),
        (["x/a/export", "y/a/export"], ["x/a", "y/a"]),
        (["m/export", "m/brushnet"], ["export", "brushnet"]),
        (["best=runs/a/export", "runs/b"], ["best", "b"]),
        (["/abs/mine.safetensors", "owner/name"], ["mine", "name"]),
        (["", "zero", "runs/a"], ["default", "zero", "a"]),
    ):
        assert list(named_paths(arguments)) == names
    assert named_paths(["best=runs/a"]) == {"best": "runs/a"}
    assert named_paths(["runs/lr=1"]) == {"lr=1": "runs/lr=1"}
    for doubles in (["a", "a"], ["x=a", "x=b"]):
        with pytest.raises(BenchmarkError, match="NAME=PATH"):
            named_paths(doubles)


def test_several_weights_take_the_place_of_the_open_method():
    sweep = BranchEvaluation().sweep().comparing({"before": "p", "after": "q"})
    labels = [method.label for method in sweep.methods]
    assert labels == ["before", "after", "zero", "autoencoder", "copy"]
    assert [one.checkpoint for one in sweep.methods[:3]] == ["p", "q", "zero"]
    own = sweep.benchmarks[-1]
    assert own.methods == ("before", "after", "autoencoder")
    assert own.wants("after", 0)


def test_several_weights_keep_what_else_a_grid_varies():
    grid = Grid(checkpoints=("", "zero"), guidance=(1.0, 2.0))
    sweep = Sweep((Folder("x"),), (grid, Branch("plain")), baseline="branch zero g 1.0")
    found = sweep.comparing({"a": "p", "b": "q"})
    assert [one.label for one in found.methods] == [
        *("branch a g 1.0", "branch b g 1.0", "branch a g 2.0", "branch b g 2.0"),
        *("branch zero g 1.0", "branch zero g 2.0", "plain a", "plain b"),
    ]
    found.check()


def test_checkpoints_of_a_grid_are_named_briefly():
    labels = [one.label for one in Grid(("/x/a/export", "new=/x/b/export", "zero")).methods()]
    assert labels == ["branch a", "branch new", "branch zero"]


def test_command_compares_all_weights(capsys):
    weights = ["--weights", "a=/nowhere/a", "--weights", "/nowhere/b/export"]
    main(["configs/eval/folder.py", "--dry-run", *weights, "--baseline", "branch a"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="branch a, branch b, branch zero, telea, copy"):
        main(["configs/eval/folder.py", "--dry-run", *weights, "--baseline", "branch default"])
    with pytest.raises(SystemExit, match="NAME=PATH"):
        main(["configs/eval/folder.py", "--dry-run", *weights, "--weights", "a=/else"])


def test_given_pictures_are_named_briefly():
    sweep = Sweep((Folder("x"),), ()).for_given(["results/theirs", "ours=results/x"])
    assert [one.label for one in sweep.methods] == ["theirs", "ours"]


def test_documents_name_every_published_file_with_its_size_and_licence():
    page = (Path(__file__).parents[2] / "docs/evaluating.md").read_text()
    for name, one in NETWORK_FILES.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        for part in (one.source, one.address, f"{one.megabytes:g} MB", one.licence, one.kind):
            assert part in row, (name, part)
