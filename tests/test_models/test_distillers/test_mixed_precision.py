"""Every method trains under bf16 autocast, its terms in full precision."""

import pytest
import torch
from comparators import distilled, pair_batch
from toys import terms_of, toy_batch, toy_frskd_cfg

SOFT_LABEL = dict(type='frskd_mm.SoftLabelLoss')
PAIRS = dict(
    Consistency='same_image', CSKD='same_class', DDGSD='same_image', DLB='same_image'
)
METHODS = {
    'BYOT': dict(soft_label=SOFT_LABEL),
    'Consistency': dict(),
    'CSKD': dict(),
    'DDGSD': dict(),
    'DLB': dict(),
    'FRSKDSLA': toy_frskd_cfg(),
    'ONE': dict(soft_label=SOFT_LABEL),
    'PSKD': dict(num_samples=4),
    'SAD': dict(),
    'SLA': dict(),
    'TfKDReg': dict(),
    'USKD': dict(),
    'ZipfLS': dict(),
}


@pytest.mark.parametrize('method', METHODS)
def test_method_trains_under_autocast(method):
    model = distilled({**METHODS[method], 'type': f'frskd_mm.{method}'})
    batch = pair_batch(PAIRS[method]) if method in PAIRS else toy_batch()
    for index, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(sample_idx=index))
    for _ in range(2):  # DLB teaches from the second iteration on
        model.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            losses = model(**batch, mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
    added = {name: v for name, v in terms_of(losses).items() if name != 'student.loss'}
    assert added
    assert all(value.dtype == torch.float32 for value in added.values())
    assert torch.isfinite(total)
    for name, param in model.named_parameters():
        assert torch.isfinite(param.grad).all(), name
