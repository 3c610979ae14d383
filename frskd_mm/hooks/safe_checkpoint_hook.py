"""Checkpoints that are never worse than the one before."""

import os.path as osp
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from frskd_mm.registry import HOOKS
from frskd_mm.utils.checkpoint_files import write_whole
from frskd_mm.utils.model import unwrap

OUTDATED = 'outdated_ckpt_ids'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's hook, with the order that a kill or a NaN cannot spoil.

    ``frskd_mm.engine`` puts it in the place of the config's ``CheckpointHook``; its
    settings and what it writes are that one's. It differs in this:

    * What a new checkpoint replaces, by ``max_keep_ckpts`` or as the best one, is
      removed after the new one has been written, and ``last_checkpoint`` is
      written whole.
    * A run that goes on from another folder's checkpoint removes nothing there.
    * Weights that are not finite are not saved, unless they were so before the
      training, as masks of minus infinity are.
    """

    @classmethod
    def adopt(cls, hooks: List[Any]) -> None:
        """Replace MMEngine's hook in a runner's list; subclasses stay."""
        for index, hook in enumerate(hooks):
            if type(hook) is CheckpointHook:
                hooks[index] = cls.__new__(cls)
                hooks[index].__dict__.update(hook.__dict__)

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed run had no time to remove."""
        super().before_train(runner)
        self._exempt = set(_not_finite(runner))
        if self.max_keep_ckpts > 0 and is_main_process():
            for step in runner.message_hub.get_info(OUTDATED, []):
                self._remove(self._path(step))

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(
            self.out_dir, self.filename_tmpl.format(step)
        )

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # of DeepSpeed
            self.file_backend.rmtree(path)

    def _may_save(self, runner: Runner) -> bool:
        spoilt = [name for name in _not_finite(runner) if name not in self._exempt]
        number = torch.tensor(len(spoilt), device=runner_device(runner))
        all_reduce(number)
        if number:
            names = ', '.join(spoilt[:3]) or 'those of another process'
            runner.logger.error(
                f'No checkpoint is saved: weights are not finite ({names}). The '
                f'checkpoints in {self.out_dir} are from before.'
            )
        return not number

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: Dict[str, Any]
    ) -> None:
        if not self._may_save(runner):
            return
        outdated: List[int] = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)  # a deque of limited length
            # Both are in the checkpoint that is written now.
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            runner.message_hub.update_info(OUTDATED, outdated)
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.call_hook('before_gathered_save')  # of all processes
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            name = osp.join(runner.work_dir, 'last_checkpoint')
            write_whole(name, self.last_ckpt.encode())
            for old in outdated:
                self._remove(self._path(old))

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        if self.save_best and self._may_save(runner):
            with self._removing_at_the_end():
                super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_at_the_end(self) -> Iterator[None]:
        """Postpone MMEngine's removal of the last best one."""
        backend: Any = self.file_backend
        self.file_backend: Any = _Postponing(backend)
        try:
            yield
            removals = self.file_backend.removals
        finally:
            self.file_backend = backend
        kept = (self.last_ckpt, *self._best_paths())
        own_folder = osp.abspath(osp.dirname(self._path(0)))
        for method, path in removals:
            # The checkpoint that a run went on from names the best one by its path,
            # which may be another run's.
            is_own = osp.abspath(osp.dirname(path)) == own_folder
            if path not in kept and is_own:
                getattr(backend, method)(path)

    def _best_paths(self) -> List[Any]:
        by_metric = getattr(self, 'best_ckpt_path_dict', {})
        return [getattr(self, 'best_ckpt_path', None), *by_metric.values()]


class _Postponing:
    """A file backend that only takes note of what it should remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removals: List[Tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', path))


def runner_device(runner: Runner) -> torch.device:
    """Return where the model is."""
    return next(unwrap(runner.model).parameters()).device


def _not_finite(runner: Runner) -> List[str]:
    """Return the names of weights and buffers with NaN or infinite values."""
    model = unwrap(runner.model)
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = {n: t for n, t in named if t.is_floating_point() and t.numel()}
    if not tensors:
        return []
    # One transfer from the device instead of one per tensor.
    flags = torch.stack([t.detach().isfinite().all() for t in tensors.values()])
    return [name for name, finite in zip(tensors, flags.tolist()) if not finite]
