"""Kill trainings again and again, resume them, and count what was lost.

Each case trains once undisturbed. Then the same run is killed with SIGKILL at random
moments of a stage, resumed with ``--resume`` each time, and its last weights and
optimiser state, its best score and the best checkpoint are compared with the
undisturbed ones, bit for bit. The table is that of docs/reliability.md. With
``--soak`` one run goes on for some time instead, and its memory and open files are
measured.
"""

import argparse
import json
import os
import os.path as osp
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import mmpretrain.models  # noqa: F401  (once, for all that are forked)
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, ValLoop

import frskd_mm.models  # noqa: F401
from frskd_mm.hooks import safe_checkpoint_hook
from frskd_mm.lab.tables import markdown_table
from frskd_mm.utils import checkpoint_files

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
#: Where a process tells that it has entered a stage.
STAGE_FILE = 'FRSKD_FAULT_STAGE'
TIMEOUT = 1200.0
#: Seconds before and after what is to be hit: each flush and renaming of a file, and
#: each batch of a validation.
PAUSE = 0.03


def mark_stages() -> None:
    """Let the training that follows in this process say where it is, and dawdle."""
    write, save, validate = os.fsync, checkpoint_files.write_whole, ValLoop.run

    def enter(stage: str) -> None:
        if os.environ.get('RANK', '0') == '0':
            with open(os.environ[STAGE_FILE], 'a', encoding='utf-8') as file:
                file.write(f'{stage} ')

    def slowly(function: Callable) -> Callable:
        def dawdling(*args: Any, **kwargs: Any) -> Any:
            time.sleep(PAUSE)
            result = function(*args, **kwargs)
            time.sleep(PAUSE)
            return result

        return dawdling

    def within(stage: str, function: Callable) -> Callable:
        def marked(*args: Any, **kwargs: Any) -> Any:
            enter(stage)
            result = function(*args, **kwargs)
            enter('training')
            return result

        return marked

    checkpoint_files.write_whole = within('saving', save)
    safe_checkpoint_hook.write_whole = checkpoint_files.write_whole
    os.fsync, os.replace = slowly(write), slowly(os.replace)
    ValLoop.run = within('validation', validate)
    ValLoop.run_iter = slowly(ValLoop.run_iter)
    original = Runner.train

    def train(runner: Runner) -> Any:
        runner.register_hook(_Begin(enter))
        return original(runner)

    Runner.train = train


class _Begin(Hook):
    """Marks the training's own steps."""

    def __init__(self, enter: Callable) -> None:
        self.enter = enter

    def before_train_epoch(self, runner: Runner) -> None:
        self.enter('training')


class Case(NamedTuple):
    """One training that is killed."""

    name: str
    config: str
    options: Dict[str, Any]
    arguments: List[str] = []
    processes: int = 1
    last: str = 'epoch_3.pth'


DIGITS = {
    'train_cfg.max_epochs': 3,
    'train_cfg.val_interval': 1,
    'train_dataloader.dataset.num_per_class': 4,
    'train_dataloader.batch_size': 8,
    'train_dataloader.num_workers': 1,
    'val_dataloader.dataset.num_per_class': 3,
    'val_dataloader.batch_size': 10,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.checkpoint.save_best': 'auto',
}
SCENES = {
    'train_cfg.max_epochs': 3,
    'train_cfg.val_interval': 1,
    'train_dataloader.dataset.num_scenes': 8,
    'train_dataloader.batch_size': 4,
    'val_dataloader.dataset.num_scenes': 8,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.checkpoint.save_best': 'auto',
}
FRSKD = 'configs/digits/frskd_wrn10-1_digits.py'
PLAIN = 'configs/digits/wrn10-1_digits.py'
CASES = {
    'frskd': Case(
        'FRSKD, WRN-10-1, dropout',
        FRSKD,
        {**DIGITS, 'model.student.backbone.drop_rate': 0.3},
    ),
    'iterations': Case(
        'FRSKD, checkpoints within an epoch',
        FRSKD,
        {
            **DIGITS,
            'model.student.backbone.drop_rate': 0.3,
            'default_hooks.checkpoint.by_epoch': False,
            'default_hooks.checkpoint.interval': 2,
        },
        last='iter_15.pth',
    ),
    'two': Case(
        'FRSKD, two processes',
        FRSKD,
        {**DIGITS, 'train_dataloader.batch_size': 4},
        processes=2,
    ),
    'ps-kd': Case(
        'PS-KD, which keeps predictions',
        PLAIN,
        {**DIGITS, 'model.distiller.num_samples': 40},
        ['--method', 'ps-kd'],
    ),
    'detector': Case(
        'FRSKD, RetinaNet',
        'configs/digits/frskd_retinanet_r18-c16_digit-scenes.py',
        SCENES,
    ),
}


class Process:
    """``tools/train.py`` in a fork of this process, which has imported everything."""

    def __init__(self, arguments: List[str], env: Dict[str, str], out: str) -> None:
        self.returncode: Optional[int] = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                output = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.environ.update(env)
                mark_stages()
                sys.argv = ['tools/train.py', *arguments]
                runpy.run_path(sys.argv[0], run_name='__main__')
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> Optional[int]:
        """Return its exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Return its exit code when it has ended."""
        deadline = time.monotonic() + TIMEOUT
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f'Process {self.pid} does not end.')
            time.sleep(0.02)
        return self.returncode or 0

    def kill(self) -> None:
        """Kill it as the system does where memory runs out."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Training:
    """The processes of a case's training; their output goes to ``out.txt``."""

    def __init__(self, case: Case, work_dir: str, resume: bool = False) -> None:
        self.work_dir = work_dir
        os.makedirs(work_dir, exist_ok=True)
        arguments = [case.config, '--work-dir', work_dir, *case.arguments]
        arguments += ['--resume'] * resume + ['--launcher=pytorch'] * (
            case.processes > 1
        )
        arguments += ['--cfg-options', *(f'{k}={v}' for k, v in case.options.items())]
        env = {STAGE_FILE: osp.join(work_dir, 'stage.txt')}
        if case.processes > 1:
            env.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=_free_port())
            env['WORLD_SIZE'] = str(case.processes)
        self.processes = []
        for rank in range(case.processes):
            if case.processes > 1:
                env['RANK'] = env['LOCAL_RANK'] = str(rank)
            out = osp.join(work_dir, 'out.txt')
            self.processes.append(Process(arguments, env, out))

    def kill(self) -> None:
        """Kill the first process; the others end by themselves."""
        self.processes[0].kill()
        for process in self.processes:
            process.wait()

    def stages(self) -> List[str]:
        """Return the stages that were entered, in order."""
        path = osp.join(self.work_dir, 'stage.txt')
        if not osp.isfile(path):
            return []
        with open(path, encoding='utf-8') as file:
            return file.read().split()

    def kill_within(self, stage: str, draw: random.Random) -> bool:
        """Kill it within a stage; tell whether that was in time."""
        before = len(self.stages())
        skipped = draw.randrange(3)  # of the stage's beginnings
        delay = draw.random() * (0.1 if stage == 'saving' else 0.2)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if self.processes[0].poll() is not None:
                return False
            if self.stages()[before:].count(stage) > skipped:
                time.sleep(delay)
                hit = self.stages()[-1:] == [stage]
                self.kill()
                return hit
            time.sleep(0.005)
        raise TimeoutError(f'{self.work_dir} never came to {stage}.')

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: If it fails.
        """
        codes = [process.wait() for process in self.processes]
        with open(osp.join(self.work_dir, 'out.txt'), errors='replace') as file:
            text = file.read()[-3000:]
        # It may have been killed after its last step.
        if any(codes) and 'The run is finished' not in text:
            raise RuntimeError(f'{self.work_dir} failed:\n{text}')


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def final_state(work_dir: str, last: str) -> Any:
    """Return weights and optimiser state at the end."""
    path = osp.join(work_dir, last)
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    return checkpoint['state_dict'], checkpoint['optimizer']['state']


def are_equal(found: Any, expected: Any) -> bool:
    """Tell whether two nested states agree bit for bit."""
    try:
        for ours, theirs in zip(found, expected):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    return True


def best_score(work_dir: str, last: str) -> Any:
    """Return the score of the best checkpoint that the last one knows of."""
    path = osp.join(work_dir, last)
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    info = checkpoint['message_hub']['runtime_info']
    best = info.get('best_ckpt')
    return info.get('best_score'), best is None or osp.isfile(best)


def run_case(
    case: Case, stage: str, kills: int, out: str, draw: random.Random
) -> Dict[str, Any]:
    """Kill a case's runs until ``kills`` fell within the stage.

    Returns:
        dict: Counts of kills, of finished runs and of those that differ.
    """
    folder = tempfile.mkdtemp(dir=out)
    whole = osp.join(folder, 'whole')
    Training(case, whole).finish()
    expected, score = final_state(whole, case.last), best_score(whole, case.last)
    counts = dict(inside=0, beside=0, runs=0, different=0)
    while counts['inside'] < kills:
        work_dir = osp.join(folder, f'run{counts["runs"]}')
        for resume in (False, True, True, True):
            training = Training(case, work_dir, resume)
            hit = training.kill_within(stage, draw)
            if training.processes[0].returncode == 0:  # it was faster
                break
            counts['inside' if hit else 'beside'] += 1
            if counts['inside'] == kills:
                break
        if training.processes[0].returncode != 0:
            Training(case, work_dir, resume=True).finish()
        counts['runs'] += 1
        same = are_equal(final_state(work_dir, case.last), expected)
        same = same and best_score(work_dir, case.last) == score
        counts['different'] += not same
        print(f'{case.name}, {stage}: {counts}', flush=True)
    return counts


def soak(minutes: float, out: str) -> None:
    """Train with many short epochs, and print memory and open files meanwhile."""
    options = {**DIGITS, 'train_cfg.max_epochs': 10**6}
    training = Training(CASES['frskd']._replace(options=options), osp.join(out, 'soak'))
    process = training.processes[0]
    began, rows = time.monotonic(), []
    while time.monotonic() - began < 60 * minutes and process.poll() is None:
        time.sleep(60)
        with open(f'/proc/{process.pid}/status', encoding='utf-8') as file:
            fields = dict(line.split(':', 1) for line in file)
        rows.append(
            [
                f'{(time.monotonic() - began) / 60:.0f}',
                str(training.stages().count('validation')),
                f'{int(fields["VmRSS"].split()[0]) / 1024:.0f}',
                str(len(os.listdir(f'/proc/{process.pid}/fd'))),
            ]
        )
        print(', '.join(rows[-1]), flush=True)
    process.kill()
    process.wait()
    header = ['minute', 'validations', 'memory (MiB)', 'open files']
    step = max(1, len(rows) // 12)
    print('\n' + markdown_table([header, *rows[::step], rows[-1]]))


def main() -> None:
    """Run the cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument(
        '--stages', nargs='+', default=['training', 'saving', 'validation']
    )
    parser.add_argument(
        '--kills', type=int, default=4, help='within each stage of each case'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='folder of the runs; a temporary one by default')
    parser.add_argument('--soak', type=float, help='minutes; no kills')
    args = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    out = args.out or tempfile.mkdtemp()
    os.makedirs(out, exist_ok=True)
    if args.soak:
        soak(args.soak, out)
        return
    draw = random.Random(args.seed)
    rows = []
    for name in args.cases:
        for stage in args.stages:
            counts = run_case(CASES[name], stage, args.kills, out, draw)
            lost = counts['different']
            rows.append(
                [
                    CASES[name].name,
                    stage,
                    str(counts['inside']),
                    str(counts['beside']),
                    str(counts['runs']),
                    str(lost) if lost else 'nothing',
                ]
            )
            with open(osp.join(out, 'counts.jsonl'), 'a', encoding='utf-8') as file:
                file.write(json.dumps(dict(case=name, stage=stage, **counts)) + '\n')
    header = ['training', 'killed in', 'kills', 'others', 'runs', 'lost']
    print('\n' + markdown_table([header, *rows]))
    if any(row[-1] != 'nothing' for row in rows):
        sys.exit('Something was lost.')


if __name__ == '__main__':
    main()
