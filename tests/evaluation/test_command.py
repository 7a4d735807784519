import pytest

from brushjax.evaluation.command import main
from brushjax.lock import locked
from tests.evaluation import miniatures

CONFIG = "configs/eval/quickstart.py"


def test_dry_run_prints_the_overridden_config_and_the_work(capsys):
    main([CONFIG, "--dry-run", "--held_out.count", "5", "--sampling.steps", "3"])
    printed = capsys.readouterr().out
    assert "sampling.steps = 3" in printed
    # Three methods with noise and two seeds, three without; own captions also for the autoencoder.
    assert "fill: 5 records, 45 pictures" in printed
    assert "237 pictures" in printed


def test_missing_arguments_are_asked_for(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main([CONFIG])
    assert "expected --out DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="expected --share I/N with 0 <= I < N, got '2/2'"):
        main([CONFIG, "--out", str(tmp_path), "--share", "2/2"])


def test_weights_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*nowhere"):
        main([CONFIG, "--out", str(tmp_path), "--weights", str(tmp_path / "nowhere")])


def test_a_missing_config_names_its_neighbours():
    with pytest.raises(SystemExit, match=r"quickstart\.py"):
        main(["configs/eval/quikstart.py", "--dry-run"])


def test_pictures_of_anyone_are_scored(tmp_path, capsys):
    miniatures.magicbrush(tmp_path / "data", turns=(2, 1))
    for name in ("100/100_1", "100/100_inde_2", "101/101_1"):
        miniatures.save(tmp_path / f"theirs/{name}.png", miniatures.picture(4, 96, 80))
    config = tmp_path / "config.py"
    config.write_text(
        "from brushjax.evaluation.benchmarks.magicbrush import MagicBrush\n"
        "from brushjax.evaluation.sweep import Sweep\n\n\n"
        "def get_config():\n"
        f"    return Sweep((MagicBrush({str(tmp_path / 'data')!r}),), ())\n"
    )
    out = tmp_path / "out"
    main([str(config), "--out", str(out), "--score-only", str(tmp_path / "theirs")])
    printed = capsys.readouterr().out
    assert "ours: theirs, less FireEdit" in printed
    assert "3 records where 1053 were published" in printed
    assert (out / "report.html").is_file()
    assert not (out / "pictures").exists()  # they stay where they are


def test_black_results_fail_the_command_after_the_report(tmp_path):
    miniatures.folder_of_pictures(tmp_path / "data", sizes=((64, 64),))
    miniatures.save(tmp_path / "theirs/p0.png", 0 * miniatures.picture(0, 64, 64))
    config = tmp_path / "config.py"
    config.write_text(
        "from brushjax.evaluation.benchmarks.folder import Folder\n"
        "from brushjax.evaluation.sweep import Sweep\n\n\n"
        f"def get_config():\n    return Sweep((Folder({str(tmp_path / 'data')!r}),), ())\n"
    )
    arguments = ["--out", str(tmp_path / "out"), "--score-only", str(tmp_path / "theirs")]
    with pytest.raises(SystemExit, match="1 of 1 pictures are black"):
        main([str(config), *arguments])
    assert (tmp_path / "out/table.md").is_file()


def test_sweep_is_locked_while_another_process_makes_the_same_share(tmp_path):
    miniatures.folder_of_pictures(tmp_path / "data", sizes=((64, 64),))
    miniatures.save(tmp_path / "theirs/p0.png", miniatures.picture(0, 64, 64))
    config = tmp_path / "config.py"
    config.write_text(
        "from brushjax.evaluation.benchmarks.folder import Folder\n"
        "from brushjax.evaluation.sweep import Sweep\n\n\n"
        f"def get_config():\n    return Sweep((Folder({str(tmp_path / 'data')!r}),), ())\n"
    )
    out = tmp_path / "out"
    command = [str(config), "--out", str(out), "--score-only", str(tmp_path / "theirs")]
    with locked(out, ".lock-0-of-2", main=True):
        with pytest.raises(SystemExit, match=r"^error: .* is in use: process"):
            main([*command, "--share", "0/2", "--stages", "plan"])
        assert not (out / "plan.parquet").exists()
        main([*command, "--share", "1/2", "--stages", "plan"])  # the other share is another's work
    main([*command, "--share", "0/2", "--stages", "plan"])
    assert (out / "plan.parquet").exists()
    assert not list(out.glob(".lock*"))
