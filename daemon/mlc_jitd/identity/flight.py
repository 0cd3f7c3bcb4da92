"""Single flight: of several threads that want one answer, one finds it and all get it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_T = TypeVar("_T")


class SingleFlight:
    """Runs at most one call per question at a time. Nothing is remembered after the call has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[Any]] = {}

    def do(self, question: Hashable, find: Callable[[], _T]) -> _T:
        """The answer of ``find``, this thread's or that of one which is already finding it.

        An exception goes to everybody who waited.
        """
        with self._lock:
            flight = self._flights.get(question)
            leads = flight is None
            if flight is None:
                flight = self._flights[question] = Future()
        if leads:
            try:
                flight.set_result(find())
            except BaseException as error:  # noqa: BLE001 - it is raised below, for the leader too
                flight.set_exception(error)
            finally:
                with self._lock:
                    del self._flights[question]
        answer: _T = flight.result()
        return answer
