"""The grid of methods and seeds: planned, checked and run."""

import json
import os
import os.path as osp
import signal
import subprocess
import sys
import time
from collections import deque
from copy import deepcopy
from glob import escape, glob
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, DefaultScope
from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import frskd_mm
from frskd_mm.engine.config import load_config
from frskd_mm.engine.methods import PLAIN, method_name
from frskd_mm.engine.wrap import drop_distiller_hooks, student_config, wrap
from frskd_mm.models.distilled import is_distilled
from frskd_mm.utils.arguments import did_you_mean
from frskd_mm.utils.checkpoint_files import write_whole
from frskd_mm.utils.model import build_model
from frskd_mm.utils.scope import type_name

from .length import MARK, lengthen, split_length, stretch_distillation
from .lock import hold
from .quality import check_quality
from .run import CONFIG, LOG, PROGRESS, RESULT

#: File of the grid's folder with the plain recipe.
RECIPE = 'recipe.py'
#: What a method may change beside its distiller and its pairs of images.
METHOD_KEYS = (
    'custom_imports',
    'model.backbone.out_indices',  # the levels that it reads
    'model.head.loss',  # label smoothing
    'model.train_cfg.augments',  # Mixup, CutMix
    # the distiller's own learning rate and weight decay
    'optim_wrapper.paramwise_cfg.custom_keys.distiller',
    'train_dataloader.collate_fn',  # of pairs
)
ALIASES = {'ce': PLAIN, 'plain': PLAIN}
#: What each of MMEngine's default hooks is needed for.
HOOKS_IN_USE = {
    'checkpoint': 'a grid that was interrupted goes on from checkpoints',
    'timer': 'the report tells what a step costs',
}
NUM_DIFFERENCES = 10
NUM_LOG_LINES = 15
#: Seconds between lines of progress, where no bar can be drawn.
PROGRESS_INTERVAL = 60.0
#: Seconds of which the speed is taken for the time that is left.
SPEED_PERIOD = 3600.0
#: Largest seed: MMEngine adds the number of the process and of the data's workers.
MAX_SEED = 2**31 - 1
#: What the grid's own files end with.
FILE_ENDINGS = ('.py', '.md', '.html', '.json', '.png')
#: The working directory comes last: with -m its modules would stand for others.
START_RUN = (
    'import os, sys; sys.path[:] = [p for p in sys.path if p] + [os.getcwd()]; '
    'from frskd_mm.lab.compare.run import main; main(sys.argv[1], int(sys.argv[2]))'
)


class Run(NamedTuple):
    """One training of the grid."""

    method: str
    seed: int
    folder: str

    @property
    def finished(self) -> bool:
        """Whether it was trained and tested."""
        return osp.isfile(osp.join(self.folder, RESULT))

    @property
    def out(self) -> str:
        """The grid's folder."""
        return osp.dirname(osp.dirname(self.folder))

    @property
    def progress(self) -> float:
        """Fraction of its training that is done."""
        if self.finished:
            return 1.0
        path = osp.join(self.folder, PROGRESS)
        if not osp.isfile(path):
            return 0.0
        with open(path, encoding='utf-8') as file:
            return float(file.read())

    def read_result(self) -> Dict[str, Any]:
        """Return the numbers of a finished run."""
        with open(osp.join(self.folder, RESULT), encoding='utf-8') as file:
            return json.load(file)

    def last_log_lines(self) -> str:
        """Return the end of what the run printed."""
        path = osp.join(self.folder, LOG)
        if not osp.isfile(path):
            return 'It was not started.'
        with open(path, encoding='utf-8', errors='replace') as file:
            return ''.join(deque(file, maxlen=NUM_LOG_LINES)).rstrip()


def results_of(runs: Sequence[Run]) -> Dict[str, Dict[int, Dict[str, Any]]]:
    """Return the numbers of the finished runs, by method and seed."""
    results: Dict[str, Dict[int, Dict[str, Any]]] = {}
    for run in runs:
        if run.finished:
            results.setdefault(run.method, {})[run.seed] = run.read_result()
    return results


def finished_before(runs: Sequence[Run], out: str) -> List[Run]:
    """Return the finished runs of a grid's folder that are not among these.

    Earlier commands trained them by the same recipe: another one is refused. What was
    put there since is left out if it has another seed or was tested on other data.
    """
    asked = {(run.method, run.seed) for run in runs}
    recipe = Config.fromfile(osp.join(out, RECIPE))
    found = []
    for path in sorted(glob(osp.join(escape(out), '*', 'seed*', RESULT))):
        folder = osp.dirname(path)
        method = osp.basename(osp.dirname(folder))
        seed = osp.basename(folder)[len('seed') :]
        path = osp.join(folder, CONFIG)
        is_new = seed.isdigit() and (method, int(seed)) not in asked
        if not is_new or not osp.isfile(path):
            continue
        cfg = Config.fromfile(path)
        of_seed = cfg.get('randomness', {}).get('seed') == int(seed)
        if of_seed and cfg.get('test_dataloader') == recipe.get('test_dataloader'):
            found.append(Run(method, int(seed), folder))
    return found


def method_of(text: str) -> str:
    """Return a method as ``--method`` has it; paths stay as they are.

    Raises:
        ValueError: If what follows '@' is no length.
    """
    text = text.strip()
    name, length = split_length(text)
    if not name.endswith('.py'):
        name = name.replace('_', '-')
    name = ALIASES.get(name, name)
    return name if length == 1.0 else f'{name}{MARK}{length:g}'


def plan_grid(
    config: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    out: str,
    options: Optional[Dict[str, Any]] = None,
    metric: Optional[str] = None,
) -> List[Run]:
    """Write every run's config, unless the folder holds other runs.

    Args:
        config: Config of the plain student.
        methods: Names or files as :func:`frskd_mm.engine.wrap` takes them; 'ce'
            is 'none'. 'ce@1.5' trains 1.5 times as long as the config says, with
            the learning rate's schedule stretched: so the plain student gets the
            time that a method costs.
        seeds: Seeds; each method is trained once with each.
        out: The grid's folder.
        options: Values that replace the config's, by dotted key.
        metric: The quality that :func:`write_report` is to be asked for.

    Returns:
        list[Run]: All methods with the first seed, then with the next one.

    Raises:
        ValueError: If a method is unknown, cannot be built with the config or
            changes its recipe, if a seed or the metric is none, or if the folder
            holds runs of another recipe; names the difference.
        FileNotFoundError: If there is no such config or file of a method.
    """
    return plan_runs(load_config(config, options), config, methods, seeds, out, metric)


def plan_runs(
    cfg: Config,
    name: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    out: str,
    metric: Optional[str] = None,
    part: float = 1.0,
) -> List[Run]:
    """Do what :func:`plan_grid` does, for a config that is read already.

    Args:
        cfg: The plain student's.
        name: What messages call it.
        methods: See :func:`plan_grid`, as all that follow.
        seeds: Seeds.
        out: The grid's folder.
        metric: The quality.
        part: Of its schedule, that the config has been cut to.
    """
    check_config(cfg, name)
    recipe = deepcopy(cfg)
    recipe.get('randomness', {}).pop('seed', None)
    configs = {osp.join(out, RECIPE): recipe}
    runs = []
    # Unknown methods are refused before anything is written.
    chosen = list(dict.fromkeys(map(method_of, methods)))
    for method in chosen:
        _check_name(method, out)
    _check_seeds(seeds)
    wrapped = {_label(method): _wrap(cfg, method, part) for method in chosen}
    if len(wrapped) < len(chosen):
        raise ValueError(f'Two of the methods {chosen} have one name: rename a file.')
    for seed in dict.fromkeys(seeds):
        for method, method_cfg in wrapped.items():
            run = Run(method, seed, osp.join(out, method, f'seed{seed}'))
            run_cfg = deepcopy(method_cfg)
            run_cfg.randomness = {**run_cfg.get('randomness', {}), 'seed': seed}
            configs[osp.join(run.folder, CONFIG)] = run_cfg
            runs.append(run)
    for path, run_cfg in configs.items():
        if osp.isfile(path):
            _check_recipe(path, run_cfg)
    if not all(run.finished for run in runs):
        check_quality(cfg, metric)
    for path, run_cfg in configs.items():
        if not osp.isfile(path):
            write_whole(path, run_cfg.pretty_text.encode())
    return runs


def _label(method: str) -> str:
    name, length = split_length(method)
    return method_name(name) + ('' if length == 1.0 else f'{MARK}{length:g}')


def _wrap(cfg: Config, method: str, part: float) -> Config:
    name, length = split_length(method)
    wrapped = wrap(cfg, name)
    stretch_distillation(wrapped, part)
    _check_method(cfg, _label(method), wrapped)
    return lengthen(wrapped, length)


def check_config(cfg: Config, name: str) -> None:
    """Refuse a config that a grid cannot train and test."""
    for key in (
        *('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
        *('test_dataloader', 'test_evaluator'),
    ):
        if not cfg.get(key):
            raise ValueError(
                f'{name} has no {key}. A comparison trains and tests: give a complete '
                'config of the plain student.'
            )
    if is_distilled(cfg.model):
        raise ValueError(
            f'{name} is of a distilled model. Give the config of its plain student; '
            '--methods names the methods.'
        )
    if 'distiller' in cfg.model:
        raise ValueError(
            f'{name} or --cfg-options sets model.distiller, which would be that of '
            'every method. Give one method other settings in a file of your own, '
            'FILE.py in --methods: '
            "_base_ = 'frskd_mm::_base_/methods/NAME_TASK.py' and "
            f'distiller = {cfg.model.distiller.to_dict()}.'
        )
    for hook, use in HOOKS_IN_USE.items():
        if cfg.get('default_hooks', {}).get(hook, {}) is None:
            raise ValueError(f'{name} has default_hooks.{hook}=None, but {use}.')
    runner = type_name(cfg.get('runner_type', 'Runner'))
    if cfg.get('strategy') or runner != 'Runner':
        raise ValueError(
            f'{name} has the runner_type {runner} and strategy={cfg.get("strategy")}, '
            "but the grid's runs are of MMEngine's Runner, one process each. Take both "
            'out.'
        )


def _check_name(method: str, out: str) -> None:
    """Refuse a file whose name stands for something else in the folder or report."""
    if not split_length(method)[0].endswith('.py'):
        return
    name = _label(method)
    reason = ''
    if name in (PLAIN, *ALIASES):
        reason = 'the plain student is called so'
    elif MARK in method_name(split_length(method)[0]):
        reason = f'what follows {MARK} is the length of a training'
    elif name.startswith('.') or osp.splitext(name)[1] in FILE_ENDINGS:
        reason = "the comparison's own files are called like that"
    elif osp.isfile(osp.join(out, name)):
        reason = f'there is a file {osp.join(out, name)}'
    if reason:
        raise ValueError(
            f'The method of {method} would be called {name!r}, but {reason}. Rename '
            'the file.'
        )


def _check_seeds(seeds: Sequence[int]) -> None:
    wrong = [seed for seed in seeds if not 0 <= seed <= MAX_SEED]
    if wrong or not seeds:
        raise ValueError(
            f'Seeds are whole numbers from 0 to {MAX_SEED}, at least one, not '
            f'{", ".join(map(str, wrong)) or "none"}.'
        )


def _check_method(plain: Config, method: str, cfg: Config) -> None:
    """Refuse a method that cannot be built or changes the recipe."""
    try:
        model = build_model(cfg)
    except (TypeError, ValueError) as error:
        raise ValueError(f'The method {method} cannot be built: {error}') from error
    _check_optimiser(cfg, model, method)
    if is_distilled(cfg.model):
        cfg = student_config(cfg)
    recipes = plain.to_dict(), cfg.to_dict()
    for recipe in recipes:
        drop_distiller_hooks(recipe)
    differences = find_differences(*recipes, ignore=METHOD_KEYS)
    if differences:
        raise ValueError(
            f'The method {method} changes the recipe, so it cannot be compared with '
            f'others. It differs in (--config | {method}):{_list(differences)}\n'
            'Take that out of the file of the method; what all methods should have '
            'belongs to --config or --cfg-options.'
        )


def _check_optimiser(cfg: Config, model: BaseModel, method: str) -> None:
    """Refuse an optimiser or a schedule of its settings that cannot be built."""
    part = 'optim_wrapper'
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        kind = cfg.optim_wrapper.get('optimizer', {}).get('type')
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            raise ValueError(
                f'There is no optimiser {kind!r}, which optim_wrapper.optimizer.type '
                f'names.{did_you_mean(kind, OPTIMIZERS.module_dict)}'
            )
        try:
            optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
            part = 'param_scheduler'
            schedulers = cfg.get('param_scheduler') or []
            if isinstance(optimiser, OptimWrapperDict):
                return
            for scheduler in (
                [schedulers] if isinstance(schedulers, dict) else schedulers
            ):
                own = {
                    k: v for k, v in scheduler.items() if k != 'convert_to_iter_based'
                }
                PARAM_SCHEDULERS.build({**own, 'optimizer': optimiser})
        except Exception as error:  # of whatever kind its class raises
            message = error.args[0] if isinstance(error, KeyError) else error
            raise ValueError(
                f'The {part} cannot be built for the method {method}: {message}'
            ) from error


def _check_recipe(path: str, cfg: Config) -> None:
    differences = find_differences(Config.fromfile(path).to_dict(), cfg.to_dict())
    if differences:
        raise ValueError(
            f'{path} is of another recipe, so its runs cannot be compared with these. '
            f'It differs in (there | now):{_list(differences)}\n'
            'Give the same config and --cfg-options, or another --out.'
        )


def _list(differences: Sequence[str]) -> str:
    more = len(differences) - NUM_DIFFERENCES
    lines = ['', *differences[:NUM_DIFFERENCES], *[f'and {more} more'] * (more > 0)]
    return '\n  '.join(lines)


def find_differences(
    there: Any, now: Any, key: str = '', ignore: Sequence[str] = ()
) -> List[str]:
    """Return what differs between two nested values.

    Args:
        there: Dictionary, list or value.
        now: What to compare it with.
        key: Dotted key of both, '' for the whole.
        ignore: Dotted keys of what may differ.

    Returns:
        list[str]: Lines 'dotted.key: value | value'.
    """
    if key in ignore:
        return []
    if there is _ABSENT and any(name.startswith(f'{key}.') for name in ignore):
        there = {}
    if isinstance(there, dict) and isinstance(now, dict):
        names = [*there, *(name for name in now if name not in there)]
        pairs = [(n, there.get(n, _ABSENT), now.get(n, _ABSENT)) for n in names]
    elif (
        isinstance(there, (list, tuple))
        and isinstance(now, (list, tuple))
        and len(there) == len(now)
    ):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(there, now))]
    elif there == now:
        return []
    else:
        return [f'{key}: {there!r} | {now!r}']
    return [
        line
        for name, a, b in pairs
        for line in find_differences(a, b, f'{key}.{name}' if key else name, ignore)
    ]


class _Absent:
    def __repr__(self) -> str:
        return '(absent)'


_ABSENT = _Absent()


def run_grid(runs: Sequence[Run], jobs: int = 1) -> List[Run]:
    """Run what is not finished, each in a process of its own.

    Args:
        runs: From :func:`plan_grid`.
        jobs: How many to run at a time. With several, each has one thread.

    Returns:
        list[Run]: Those that failed.

    Raises:
        BlockingIOError: If another command trains in the grid's folder.
    """
    waiting = deque(run for run in runs if not run.finished)
    if len(waiting) < len(runs):
        print(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished already.')
    if not waiting:
        return []
    with hold(runs[0].out):
        for run in waiting:
            with hold(run.folder):  # of a command that was killed, still running
                pass
        return _run_all(runs, waiting, jobs)


def _run_all(runs: Sequence[Run], waiting: Deque[Run], jobs: int) -> List[Run]:
    running: Dict[Run, subprocess.Popen] = {}
    failed: List[Run] = []
    with _Progress(runs) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running[run] = _start(run, single_threaded=jobs > 1)
                time.sleep(0.1)
                for run in [run for run in running if running[run].poll() is not None]:
                    code = running.pop(run).returncode
                    name = f'{run.method}, seed {run.seed}'
                    if run.finished:
                        progress.say(f'{name}: finished')
                    else:
                        failed.append(run)
                        progress.say(
                            f'{name}: {_ending(code)}. The end of '
                            f'{osp.join(run.folder, LOG)}:\n{run.last_log_lines()}'
                        )
                progress.show(list(running))
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failed


def _ending(code: int) -> str:
    """Say how a process ended that did not do its work."""
    if code >= 0:
        return f'failed with exit code {code}'
    often = ', often for want of memory' if code == -signal.SIGKILL else ''
    known = -code in {*signal.Signals}
    name = signal.Signals(-code).name if known else f'signal {-code}'
    return f'was killed by {name}{often}'


def _start(run: Run, single_threaded: bool) -> subprocess.Popen:
    root = osp.dirname(osp.dirname(osp.abspath(frskd_mm.__file__)))
    paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    if single_threaded:
        env.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    command = [sys.executable, '-c', START_RUN, run.folder]
    with open(osp.join(run.folder, LOG), 'a', encoding='utf-8') as log:
        return subprocess.Popen(
            [*command, str(os.getpid())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
        )


class _Progress(Progress):
    """What is printed while the grid runs: a bar, or a line now and then."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(
            TextColumn('{task.percentage:3.0f} % of {task.total:g} runs'),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn('{task.description}', markup=False),
            speed_estimate_period=SPEED_PERIOD,
            transient=True,
            disable=not get_console().is_terminal,
        )
        self.runs = runs
        self.add_task('', total=len(runs))
        (self.bar,) = self.tasks
        self.update(self.bar.id, completed=self.done)
        self.shown = time.monotonic()

    @property
    def done(self) -> float:
        """How many runs are done, with fractions."""
        return sum(run.progress for run in self.runs)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, running: Sequence[Run]) -> None:
        """Show the share that is done, the time left and what runs."""
        now = time.monotonic()
        if now - self.shown < (PROGRESS_INTERVAL if self.disable else 1):
            return
        self.shown = now
        names = ', '.join(f'{run.method} seed {run.seed}' for run in running)
        self.update(self.bar.id, completed=self.done, description=f'now {names}')
        if self.disable:
            left = self.bar.time_remaining
            time_left = 'not known yet' if left is None else f'{left / 60:.0f} min'
            share = f'{self.bar.percentage:.0f} % of {len(self.runs)} runs'
            self.say(f'{share}; time left: {time_left}; now {names}')
