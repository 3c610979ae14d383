"""A data loader that knows how far it is, and can begin there again."""

import random
from contextlib import contextmanager
from itertools import islice
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data._utils.pin_memory import pin_memory

RandomState = Dict[str, Any]


def random_state() -> RandomState:
    """Return the states of this process's random generators, as plain data."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    return dict(
        python=random.getstate(),
        numpy=(kind, np.asarray(keys).tobytes(), *rest),
        torch=torch.get_rng_state().numpy().tobytes(),
        cuda=torch.cuda.get_rng_state().numpy().tobytes() if in_use else None,
    )


def set_random_state(state: Optional[RandomState]) -> None:
    """Give the random generators back the states of :func:`random_state`, if any."""
    if state is None:
        return
    version, keys, gauss = state['python']
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, *rest = state['numpy']
    np.random.set_state((kind, np.frombuffer(numbers, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(list(state['torch']), dtype=torch.uint8))
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(list(state['cuda']), dtype=torch.uint8))


class Start(NamedTuple):
    """Where an iterator over a data loader begins."""

    #: How many batches are left out, which are not loaded.
    batches: int
    #: Random state in which the iterator was made, and the one to go on with.
    made: Optional[RandomState]
    now: Optional[RandomState]
    #: States of the workers after the last batch of each that was used.
    workers: Dict[int, RandomState]


class Position:
    """How far the present iterator over a data loader is."""

    def __init__(self) -> None:
        self.start = Start(0, None, None, {})
        self.made: Optional[RandomState] = None
        self.batches = 0
        self.workers: Dict[int, RandomState] = {}
        #: The iterator that moves it, while that is under way.
        self.owner: Optional[object] = None
        #: Whether the next iterator is the training loop's, whoever else reads.
        self.is_claimed = False


def follow(loader: DataLoader) -> Position:
    """Let a data loader take note of how far it is, in place.

    Its worker processes hand over their random states with each batch, some
    kilobytes; it gives the same batches as before.
    """
    kind = type(loader)
    loader.__class__ = type(f'Followed{kind.__name__}', (_FollowedLoader, kind), {})
    loader.position = position = Position()  # type: ignore[attr-defined]
    return position


class _FollowedLoader(DataLoader):
    """Mixed into the class of a data loader by :func:`follow`."""

    position: Position

    def __iter__(self) -> Any:
        position = self.position
        if position.owner is not None and not position.is_claimed:
            # A hook goes through the data in between.
            return self._unstamped(super().__iter__())
        position.is_claimed = False
        start, position.start = position.start, Start(0, None, None, {})
        set_random_state(start.made)
        position.made = random_state()
        position.batches = start.batches
        if start.workers or not self.persistent_workers:
            position.workers = dict(start.workers)
        with self._beginning_at(start):
            batches = super().__iter__()
        # Workers that stay draw their seeds once: nothing was drawn at this place.
        stayed = start.workers and not start.batches
        set_random_state(position.made if stayed else start.now)
        return self._followed(batches)

    def _followed(self, batches: Iterator[Any]) -> Iterator[Any]:
        position = self.position
        owner = position.owner = object()
        try:
            for batch in batches:
                is_stamped = isinstance(batch, _Stamped)
                if is_stamped and batch.is_empty:
                    continue
                if position.owner is owner:
                    if is_stamped:
                        worker = position.batches % self.num_workers
                        position.workers[worker] = batch.state
                    position.batches += 1
                yield batch.batch if is_stamped else batch
        finally:
            if position.owner is owner:
                position.owner = None

    @staticmethod
    def _unstamped(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if not isinstance(batch, _Stamped):
                yield batch
            elif not batch.is_empty:
                yield batch.batch

    @contextmanager
    def _beginning_at(self, start: Start) -> Iterator[None]:
        """Change what PyTorch's iterator takes from the loader when it is made."""
        collate, init = self.collate_fn, self.worker_init_fn
        self._skipped, self._empty = start.batches, self._empty_batches(start)
        if self.num_workers > 0:
            self.collate_fn = _StampingCollate(collate, self._empty > 0)
        if start.workers or start.batches:
            shift = start.batches - self._empty
            self.worker_init_fn = _GoingOn(init, start, shift, self.num_workers)
        try:
            yield
        finally:
            self.collate_fn, self.worker_init_fn = collate, init
            self._skipped = self._empty = 0

    def _empty_batches(self, start: Start) -> int:
        """Return how many empty batches go before the first one.

        They are dropped again; after them it is the turn of the same worker as it
        was, and so it is in the epochs that persistent workers go on with. They are
        for what PyTorch fetches item by item.
        """
        fetches_items = (
            self._auto_collation
            and not isinstance(self.dataset, IterableDataset)
            and not getattr(self.dataset, '__getitems__', None)
        )
        if not self.persistent_workers or not fetches_items:
            return 0
        return start.batches % self.num_workers

    @property
    def _index_sampler(self) -> Any:
        sampler = super()._index_sampler
        skipped = getattr(self, '_skipped', 0)
        return _Skipping(sampler, skipped, self._empty) if skipped else sampler


class _Skipping:
    """A sampler, once with some empty batches in place of its first ones."""

    def __init__(self, sampler: Any, skipped: int, empty: int) -> None:
        self.sampler, self.skipped, self.empty = sampler, skipped, empty

    def __iter__(self) -> Iterator[Any]:
        # Nothing happens before the first one is asked for: PyTorch begins twice.
        # Persistent workers keep this sampler for the epochs that follow.
        skipped, self.skipped = self.skipped, 0
        empty, self.empty = self.empty, 0
        yield from ([] for _ in range(empty))
        yield from islice(self.sampler, skipped, None)

    def __len__(self) -> int:
        return len(self.sampler)


class _Stamped:
    """A batch with the random state of the worker that made it."""

    def __init__(self, batch: Any, state: RandomState, is_empty: bool = False) -> None:
        self.batch, self.state, self.is_empty = batch, state, is_empty

    def pin_memory(self) -> '_Stamped':
        return _Stamped(pin_memory(self.batch), self.state, self.is_empty)


class _StampingCollate:
    def __init__(self, collate: Callable, after_empty_ones: bool) -> None:
        self.collate, self.after_empty_ones = collate, after_empty_ones

    def __call__(self, samples: Any) -> _Stamped:
        if self.after_empty_ones and len(samples) == 0:
            return _Stamped(None, random_state(), is_empty=True)
        return _Stamped(self.collate(samples), random_state())


class _GoingOn:
    """Let a new worker go on as the one whose turns it takes."""

    def __init__(
        self, init: Optional[Callable], start: Start, shift: int, workers: int
    ) -> None:
        self.init, self.start, self.shift, self.workers = init, start, shift, workers

    def __call__(self, worker_id: int) -> None:
        turn = (self.shift + worker_id) % self.workers
        if self.init is not None:
            self.init(turn)
        set_random_state(self.start.workers.get(turn))
