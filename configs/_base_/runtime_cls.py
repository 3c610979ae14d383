# mmpretrain's runtime, with runs that an interruption does not change.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_hooks = [
    dict(type='frskd_mm.EpochSeedHook'),
    dict(type='frskd_mm.ChannelsLastHook'),
    dict(type='frskd_mm.MeanLogHook'),  # of all processes, if there are several
]
default_hooks = dict(
    # Two, so that a valid one is left when saving is interrupted.
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
randomness = dict(seed=0)
