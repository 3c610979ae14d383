"""Arguments of registered parts are checked where the parts are built."""

import importlib
import inspect
import pickle
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import pytest

from frskd_mm import registry
from frskd_mm.utils.arguments import (
    POSITIVE,
    ArgumentError,
    at_least,
    check_arguments,
    did_you_mean,
    length,
    one_of,
)


class Part:
    @check_arguments(
        depth=at_least(1), rate=POSITIVE, mode=one_of('mean', 'sum'), sizes=length(1, 2)
    )
    def __init__(
        self,
        depth: int = 2,
        rate: Optional[float] = None,
        mode: str = 'mean',
        flag: bool = True,
        sizes: Sequence[int] = (1,),
        pair: Tuple[float, float] = (0.0, 1.0),
        channels: Union[int, Sequence[int]] = 4,
        cfg: Optional[dict] = None,
        cfgs: Union[dict, List[dict], None] = None,
        other: Any = None,
    ) -> None:
        self.given = dict(locals())


class Child(Part):
    @check_arguments()
    def __init__(self, extra: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra


@pytest.mark.parametrize(
    ('argument', 'value', 'message'),
    [
        ('depth', '2', "depth of Part must be a whole number, got '2'"),
        ('depth', 2.0, 'a whole number, got 2.0'),
        ('depth', True, 'a whole number, got True'),
        ('depth', 0, 'depth of Part must be >= 1, got 0'),
        ('rate', float('nan'), 'a finite number or None, got nan'),
        ('rate', float('inf'), 'a finite number or None, got inf'),
        ('rate', -1, 'rate of Part must be positive, got -1'),
        ('mode', 'median', r"one of \('mean', 'sum'\), got 'median'"),
        ('mode', 'men', 'Did you mean mean'),
        ('mode', None, 'mode of Part must be a text, got None'),
        ('flag', 'no', "flag of Part must be True or False, got 'no'"),
        ('flag', 1, 'True or False, got 1'),
        ('sizes', 3, 'a list of whole numbers, got 3'),
        ('sizes', '12', "a list of whole numbers, got '12'"),
        ('sizes', (1, '2'), 'a list of whole numbers'),
        ('sizes', (), r'a list of 1 to 2, got \(\)'),
        ('pair', (1.0,), 'a list of 2 finite numbers, got'),
        ('channels', '4', 'a whole number or a list of whole numbers'),
        ('cfg', 'BN', 'a dict or None'),
        ('cfgs', [1], 'a dict or a list of dicts or None'),
        ('dept', 1, 'Part has no argument dept. Did you mean depth'),
    ],
)
def test_wrong_arguments_get_a_message(argument, value, message):
    with pytest.raises(TypeError, match=message):
        Part(**{argument: value})


def test_right_arguments_are_handed_on():
    given = dict(depth=np.int64(3), rate=np.float32(0.5), sizes=[1, 2], channels=[1])
    given.update(cfg={}, cfgs=[{}], other='x', pair=[0, 1], flag=False, mode='sum')
    part = Part(**given)
    assert {name: part.given[name] for name in given} == given
    assert 'checks_arguments' in vars(Part.__init__)
    assert pickle.loads(pickle.dumps(Child(extra=1))).extra == 1


def test_a_subclass_is_named_for_what_its_base_checks():
    with pytest.raises(ArgumentError, match='depth of Child must be') as caught:
        Child(depth=0)
    assert (caught.value.owner, caught.value.argument) == ('Child', 'depth')
    assert Child(extra=1, depth=3).given['depth'] == 3


def test_missing_arguments_are_named():
    @check_arguments('Function')
    def function(first: int, second: int) -> None: ...

    with pytest.raises(TypeError, match='Function needs second. Set it in the config'):
        function(1)


def test_a_rule_for_no_argument_is_a_fault_of_the_code():
    with pytest.raises(KeyError, match='has no argument'):
        check_arguments(rat=POSITIVE)(lambda rate: None)


def test_similar_names_are_suggested():
    assert did_you_mean('frskd-g', ['frskd', 'byot']) == ' Did you mean frskd?'
    assert did_you_mean('zzz', ['frskd', 'byot']) == ''
    assert did_you_mean(3, ['frskd']) == ''


def registered_parts():
    for name in registry.__all__:
        entries = getattr(registry, name)
        entries.import_from_location()
        for part in entries.module_dict.values():
            if not part.__module__.startswith('tests'):
                yield part


def test_every_registered_part_checks_its_arguments():
    importlib.import_module('frskd_mm.models')
    unchecked = set()
    for part in registered_parts():
        own = vars(part).get('__init__') if inspect.isclass(part) else None
        is_checked = own is None or getattr(own, 'checks_arguments', False)
        if not is_checked:
            unchecked.add(part)
    assert not unchecked
