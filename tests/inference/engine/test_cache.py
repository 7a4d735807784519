"""Programs kept as files are found again by all that changes their numbers."""

import jax
import jax.numpy as jnp
import pytest

from brushjax.inference.engine.cache import SavedPrograms


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


@pytest.fixture(autouse=True)
def cache_folder():
    """SavedPrograms moves XLA's cache into its folder."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)
