"""Reading ahead keeps the order, stays bounded, and ends with either side."""

import threading
import time

import pytest

from fastxent.files.read_ahead import read_ahead


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "fastxent reads ahead"]


def test_items_come_in_order_and_at_most_so_many_ahead():
    made, most = [], []

    def items():
        for k in range(50):
            made.append(k)
            yield k

    for k in read_ahead(items(), ahead=2):
        time.sleep(0.001)
        most.append(len(made) - k)
        assert k == len(most) - 1
    assert len(most) == 50
    assert max(most) <= 4  # the one at hand, two ready, one being made
    assert not readers()


def test_items_are_made_while_the_last_one_is_worked_on():
    begun = threading.Event()

    def items():
        yield 0
        begun.set()
        yield 1

    for k in read_ahead(items()):
        assert begun.wait(timeout=30) or k


@pytest.mark.parametrize("error", [ValueError("bad row"), KeyboardInterrupt()])
def test_what_the_reader_raises_comes_in_its_place(error):
    def items():
        yield from range(3)
        raise error

    got = read_ahead(items())
    assert [next(got) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error)):
        next(got)
    assert not readers()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_reader_ends_with_whoever_asks(error):
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    def work():
        for k in read_ahead(items()):
            raise error(k)

    with pytest.raises(error):
        work()
    assert closed.wait(timeout=30)
    assert not readers()
