"""Followed loaders give what loaders give, and go on in the middle of a pass."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from frskd_mm.utils.followed_loader import Start, follow


class Numbers(Dataset):
    """0 to 13, fetched one by one."""

    def __len__(self):
        return 14

    def __getitem__(self, index):
        return index


class Batches(Numbers):
    """The same, fetched by the batch, as a tensor; an empty batch is none."""

    def __getitems__(self, indices):
        if not indices:
            raise IndexError('an empty batch')
        return torch.tensor(indices)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


def as_list(batch):
    return torch.as_tensor(batch).tolist()


KINDS = {
    'items': dict(dataset=Numbers(), batch_size=2),
    'batches': dict(dataset=Batches(), batch_size=2, collate_fn=torch.as_tensor),
    'no batches': dict(dataset=Numbers(), batch_size=None),
    'stream': dict(dataset=Stream(), batch_size=2),
}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_changed_in_a_run_that_is_not_resumed(kind, workers):
    settings = dict(num_workers=workers, persistent_workers=workers > 0, **KINDS[kind])
    plain, followed = DataLoader(**settings), DataLoader(**settings)
    follow(followed)
    for _ in range(2):
        assert [*map(as_list, followed)] == [*map(as_list, plain)]


@pytest.mark.parametrize('persistent', [False, True])
@pytest.mark.parametrize('kind', ['items', 'batches', 'no batches'])
def test_a_resumed_pass_leaves_out_what_was_used_and_the_next_ones_do_not(
    kind, persistent
):
    settings = dict(num_workers=2, persistent_workers=persistent, **KINDS[kind])
    whole = [*map(as_list, DataLoader(**settings))]
    for used in (1, 2, 3):
        loader = DataLoader(**settings)
        position = follow(loader)
        position.start = Start(used, None, None, {})
        passes = [[*map(as_list, loader)] for _ in range(3)]
        assert passes == [whole[used:], whole, whole]
        assert position.batches == len(whole)


def test_a_resumed_stream_loses_nothing():
    loader = DataLoader(num_workers=2, persistent_workers=True, **KINDS['stream'])
    follow(loader).start = Start(3, None, None, {})
    plain = DataLoader(num_workers=2, **KINDS['stream'])
    assert [*map(as_list, loader)] == [*map(as_list, plain)]


@pytest.mark.parametrize('workers', [0, 2])
def test_whoever_reads_in_between_does_not_move_the_position(workers):
    """As mmpretrain's PreciseBNHook does during a training by iterations."""
    loader = DataLoader(Numbers(), batch_size=2, num_workers=workers)
    position = follow(loader)
    batches = iter(loader)
    first = [as_list(next(batches)) for _ in range(3)]
    between = [*map(as_list, loader)]
    assert position.batches == 3
    assert between[:3] == first
    assert [as_list(batch) for batch in batches] == between[3:]
    assert position.batches == 7
    assert [*map(as_list, loader)] == between  # the next pass is followed again
    assert position.batches == 7


def test_whoever_reads_in_between_gets_plain_batches_of_persistent_workers():
    """PyTorch then begins anew with the one iterator that there is."""
    settings = dict(batch_size=2, num_workers=2, persistent_workers=True)
    plain, followed = (DataLoader(Numbers(), **settings) for _ in range(2))
    follow(followed)
    for loader in (plain, followed):
        next(iter(loader))
    kept = iter(followed)
    next(kept)
    assert [*map(as_list, followed)] == [*map(as_list, plain)]


def test_a_pass_that_somebody_keeps_does_not_end_the_following():
    loader = DataLoader(Numbers(), batch_size=2)
    position = follow(loader)
    kept = iter(loader)
    next(kept)
    position.is_claimed = True  # as before each epoch of the training loop
    batches = iter(loader)
    for number in range(1, 4):
        next(batches)
        assert position.batches == number
    next(kept)
    assert position.batches == 3
    kept.close()
    next(batches)
    assert position.batches == 4
