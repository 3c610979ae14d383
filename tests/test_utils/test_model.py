"""Models are built and unwrapped as the runner has them."""

from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from torch import distributed, nn
from toys import toy_student_cfg

from frskd_mm.utils.model import build_model, unwrap


def test_preprocessing_beside_the_model_is_the_models():
    cfg = Config(
        dict(
            model=toy_student_cfg(),
            data_preprocessor=dict(mean=[1.0] * 3, std=[2.0] * 3),
            default_scope='mmpretrain',
        )
    )
    before = cfg.to_dict()
    assert build_model(cfg).data_preprocessor.std.flatten().tolist() == [2.0] * 3
    other = toy_student_cfg(num_classes=7)
    assert build_model(cfg, other).head.num_classes == 7
    own = dict(toy_student_cfg(), data_preprocessor=dict(mean=[0.0] * 3, std=[3.0] * 3))
    assert build_model(cfg, own).data_preprocessor.std.flatten().tolist() == [3.0] * 3
    assert cfg.to_dict() == before


def test_wrapped_models_are_unwrapped(tmp_path):
    model = nn.Linear(1, 1)
    assert unwrap(model) is model
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        wrapped = MMDistributedDataParallel(model)
        assert unwrap(wrapped) is model
    finally:
        distributed.destroy_process_group()
