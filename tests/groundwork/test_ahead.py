"""Work that threads do ahead: its order, its errors, and how far ahead it is."""
import threading
import time

import pytest
import torch

from groundwork.ahead import ahead, threads_beside


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_and_an_error_where_its_result_would_have_come(threads):
    def reciprocal(number):
        time.sleep(0.02 * (number % 2))     # so that later items are ready before earlier ones
        return 1 / number
    assert list(ahead(reciprocal, range(1, 8), threads)) == [1 / number for number in range(1, 8)]
    assert list(ahead(reciprocal, [], threads)) == []
    found = []
    with pytest.raises(ZeroDivisionError):
        for result in ahead(reciprocal, [2, 1, 0, 4], threads):
            found.append(result)
    assert found == [0.5, 1]


def test_the_next_item_is_worked_on_while_the_caller_is_busy():
    second = threading.Event()
    results = ahead(lambda item: second.set() if item == 2 else None, [1, 2], threads=1)
    next(results)
    assert second.wait(timeout=10)


@pytest.mark.parametrize("threads, most", [(0, 1), (1, 2), (3, 4)])
def test_a_caller_that_stops_early_leaves_few_items_begun(threads, most):
    begun, before = [], threading.active_count()
    results = ahead(begun.append, iter(range(1000)), threads)
    next(results)
    results.close()
    assert len(begun) <= most and threading.active_count() == before


def test_a_network_on_the_cpu_gets_all_its_cores():
    assert threads_beside(torch.device("cpu")) == 0 and threads_beside(torch.device("cuda")) >= 1
