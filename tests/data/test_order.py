"""The order of samples is a pure function of seed, epoch and counts."""

from mmcl.data.order import EpochOrder, permutation

COUNTS = [5, 3, 8, 1, 6, 4]


def walk(order: EpochOrder) -> list[tuple[int, int]]:
    return [order[i] for i in range(len(order))]


def test_every_sample_once_an_epoch() -> None:
    everything = {(shard, i) for shard, count in enumerate(COUNTS) for i in range(count)}
    for window in (1, 2, 4, 100):
        seen = walk(EpochOrder(COUNTS, seed=0, epoch=0, window=window))
        assert len(seen) == len(everything)
        assert set(seen) == everything


def test_window_zero_is_the_order_of_the_tars() -> None:
    expected = [(shard, i) for shard, count in enumerate(COUNTS) for i in range(count)]
    assert walk(EpochOrder(COUNTS, seed=0, epoch=3, window=0)) == expected


def test_the_same_arguments_give_the_same_order_and_any_other_another() -> None:
    first = walk(EpochOrder(COUNTS, 0, 0, 3))
    assert walk(EpochOrder(COUNTS, 0, 0, 3)) == first
    for other in ((1, 0, 3), (0, 1, 3), (0, 0, 2)):
        assert walk(EpochOrder(COUNTS, *other)) != first


def test_a_window_holds_whole_shards() -> None:
    order = EpochOrder(COUNTS, 0, 0, 2)
    end = int(order.ends[0])
    first = {shard for shard, _ in walk(order)[:end]}
    assert len(first) == 2
    assert first.isdisjoint(shard for shard, _ in walk(order)[end:])


def test_bits_are_those_of_philox_for_ever() -> None:
    """Another order would make every run that was interrupted impossible to go on with."""
    assert permutation(8, 0, "test").tolist() == [6, 7, 0, 5, 1, 2, 4, 3]
