import pytest

from brushjax.evaluation.command import main

CONFIG = "configs/eval/quickstart.py"


def test_dry_run_prints_the_overridden_config_and_the_work(capsys):
    main([CONFIG, "--dry-run", "--held_out.count", "5", "--sampling.steps", "3"])
    printed = capsys.readouterr().out
    assert "sampling.steps = 3" in printed
    assert "207 pictures: 15 of held-out samples, 192 for swapped prompts" in printed


def test_missing_weights_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        main([CONFIG, "--out", "somewhere"])
    assert "expected --out DIR and --weights DIR" in capsys.readouterr().err


def test_a_missing_config_names_its_neighbours():
    with pytest.raises(SystemExit, match=r"quickstart\.py"):
        main(["configs/eval/quikstart.py", "--dry-run"])
