"""Programs kept as files are found again by all that changes their numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from brushjax.inference.engine.cache import SavedPrograms, kept_programs
from brushjax.inference.engine.fireedit import FireOutputs


def square(x):
    return (x @ x,)


def test_saved_programs_are_kept_apart_by_what_changes_numbers(tmp_path, monkeypatch):
    programs, x = SavedPrograms(tmp_path), jnp.ones((2, 2))

    def count():
        programs("square", square, [x])
        return len(list(tmp_path.glob("*.program")))

    assert (count(), count()) == (1, 1)
    with jax.default_matmul_precision("highest"):
        assert (count(), count()) == (2, 2)
    with jax.numpy_dtype_promotion("strict"):
        assert count() == 3
    monkeypatch.setattr("brushjax.identity.code", lambda: "of another version")
    assert count() == 4


def test_a_damaged_program_is_named(tmp_path):
    SavedPrograms(tmp_path)("square", square, [jnp.ones((2, 2))])
    (file,) = tmp_path.glob("*.program")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{file} is damaged \(.*\); delete it"):
        SavedPrograms(tmp_path)("square", square, [jnp.ones((2, 2))])


def test_commands_keep_programs_in_the_cache_of_a_cpu_and_leave_it_there(tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    SavedPrograms(kept_programs())("square", square, [jnp.ones((2, 2))])
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    assert len(list((tmp_path / "programs").glob("*.program"))) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kept_programs() is None


@pytest.fixture(autouse=True)
def cache_folder():
    """SavedPrograms moves XLA's cache into its folder."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_what_an_edit_gives_comes_out_of_a_saved_program(tmp_path):
    names = [field.name for field in dataclasses.fields(FireOutputs)]
    give = lambda x: FireOutputs(**{name: i * x for i, name in enumerate(names)})  # noqa: E731
    SavedPrograms(tmp_path)("give", give, [jnp.ones(2)])
    given = SavedPrograms(tmp_path)("give", give, [jnp.ones(2)])  # read from the file
    assert isinstance(given, FireOutputs)
    assert [float(getattr(given, name)[0]) for name in names] == [*range(len(names))]
