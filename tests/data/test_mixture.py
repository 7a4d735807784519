"""Two training sets as one: shares, order, and going on in the middle."""

import dataclasses

import numpy as np
import pytest

from brushjax.data.faults import FAULTS, to_row
from brushjax.data.mixture import BLOCK, Mixture, Part, counts
from brushjax.data.schema import Record


@dataclasses.dataclass(frozen=True)
class Value(Record):
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class Multiples:
    """Sample n is n times a factor."""

    factor: int

    def source(self, encode):
        return Samples(self.factor, encode)


class Samples:
    def __init__(self, factor, encode):
        self.factor, self.encode = factor, encode

    def __len__(self):
        return 1 << 30

    def __getitem__(self, n):
        return self.encode(Value(n, np.float32([n * self.factor])))


class Faulty(Samples):
    """Gives whole batches, and a fault with every sample."""

    seen = 0

    def batch(self, numbers):
        values = np.float32([[n * self.factor] for n in numbers])
        row = np.stack([to_row(["missing member"]) for _ in numbers])
        return {"value": values, "id": np.array(numbers), FAULTS: row}

    def received(self, batch):
        self.seen += int(batch.pop(FAULTS).sum())
        return batch


def encode(record):
    return record.arrays()


def mixture(*shares, **settings):
    return Mixture(tuple(Part(Multiples(n + 1), s) for n, s in enumerate(shares)), **settings)


def take(data, count, hosts=1, state=None, batch=6):
    """The ids and values of so many batches, whatever the hosts that make them."""
    feeds = [iter(data.batches(batch // hosts, encode, shard=(h, hosts))) for h in range(hosts)]
    for feed in feeds:
        if state is not None:
            feed.set_state(state)
    rows = []
    for _ in range(count):
        parts = [next(feed) for feed in feeds]
        rows.append({k: np.concatenate([p[k] for p in parts]) for k in ("id", "value")})
    return rows, feeds[0].get_state()


def test_shares_hold_in_every_block_and_each_set_keeps_its_order():
    samples = mixture(3, 1).source(encode)
    places = [samples.place(p) for p in range(2 * BLOCK)]
    for start in (0, BLOCK):
        assert sum(which for which, _ in places[start : start + BLOCK]) == BLOCK // 4
    for which in (0, 1):
        numbers = [number for one, number in places if one == which]
        assert numbers == list(range(len(numbers)))
    assert len({which for which, _ in places[:20]}) == 2  # mixed, not one set after the other
    other = mixture(3, 1, seed=1).source(encode)
    assert [other.place(p) for p in range(50)] != places[:50]


def test_sample_tells_its_set_by_its_id():
    samples = mixture(1, 1).source(encode)
    for position in range(40):
        which, number = samples.place(position)
        sample = samples[position]
        assert sample["id"] == 2 * number + which
        assert sample["value"] == number * (which + 1)


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_mixture_goes_on_in_the_middle_as_if_it_had_never_stopped(hosts):
    data = mixture(2, 1, threads=1)
    whole, _ = take(data, 8)
    first, state = take(data, 3, hosts)
    rest, _ = take(data, 5, 1, state)
    for ours, theirs in zip([*first, *rest], whole, strict=True):
        np.testing.assert_array_equal(np.sort(ours["id"]), np.sort(theirs["id"]))
        np.testing.assert_array_equal(np.sort(ours["value"], 0), np.sort(theirs["value"], 0))


def test_faults_are_counted_in_their_own_set(monkeypatch):
    data = mixture(1, 1)
    mixed = data.source(encode)
    plain, faulty = mixed._sources[0], Faulty(2, encode)
    mixed._sources = [plain, faulty]
    batch = mixed.batch(range(10))
    rest = mixed.received(batch)
    assert FAULTS not in rest
    assert faulty.seen == sum(mixed.place(p)[0] for p in range(10))


def test_shares_that_are_small_or_uneven_still_fill_a_block():
    assert counts((1, 1, 1)) in {(334, 333, 333), (333, 334, 333), (333, 333, 334)}
    assert counts((1e6, 1)) == (BLOCK - 1, 1)
    assert sum(counts((0.15, 0.15, 0.25, 0.45))) == BLOCK
    for parts in ((), (Part(Multiples(1), 0.0),)):
        with pytest.raises(ValueError, match="shares above 0"):
            Mixture(parts)
