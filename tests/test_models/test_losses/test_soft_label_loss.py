"""The soft-label loss against its equation, and its limits."""

from itertools import product

import pytest
import reference
import torch
from contracts import Case, LossContract, Pair

from frskd_mm.models.losses import (
    ChannelSoftLabelLoss,
    PixelSoftLabelLoss,
    SoftLabelLoss,
)
from frskd_mm.models.losses.soft_label_loss import distance_iou_loss

SHAPES = [(1, 2), (4, 10), (3, 100), (2, 5, 7), (2, 4, 3, 5), (2, 3, 2, 3, 2)]


def logits(shape, scale=3.0, dtype=torch.float32):
    return (scale * torch.randn(shape, dtype=dtype)).requires_grad_()


class TestSoftLabelLoss(LossContract):
    """The data of a case: the shape, and whether positions are masked."""

    component = SoftLabelLoss
    cases = {
        f'{shape}-{temperature}-{"masked" if masked else "all"}': Case(
            dict(temperature=temperature, loss_weight=2.5), (shape, masked)
        )
        for shape, temperature, masked in product(
            SHAPES, [0.5, 1.0, 4.0, 10.0], [False, True]
        )
    }
    main = ['(4, 10)-4.0-all', '(2, 4, 3, 5)-1.0-masked']
    wrong_settings = [
        (dict(temperature=0), 'temperature of .* must be positive, got 0')
    ]
    wrong_inputs = [('classes', r'one shape, got \(4, 10\) and \(4, 9\)')]

    def pair(self, case, device='cpu'):
        shape, masked = case.data
        student, teacher = (
            logits(shape, dtype=torch.float64).detach().to(device).requires_grad_()
            for _ in range(2)
        )
        mask = torch.rand(shape[0], *shape[2:], device=device) < 0.6 if masked else None
        if masked:
            mask.view(-1)[0] = True
        return Pair(dict(logits=student), dict(logits=teacher), dict(mask=mask))

    def call(self, loss, pair):
        return loss(pair.student['logits'], pair.teacher['logits'], **pair.options)

    def expected(self, loss, pair):
        return loss.loss_weight * reference.soft_label(
            pair.student['logits'],
            pair.teacher['logits'],
            loss.temperature,
            pair.options['mask'],
        )

    def spoil(self, pair, name):
        return pair._replace(teacher=dict(logits=pair.teacher['logits'][:, :-1]))


class TestPixelSoftLabelLoss(TestSoftLabelLoss):
    """The data of a case: the shape of the logits and that of the labels."""

    component = PixelSoftLabelLoss
    cases = {
        f'{"upsampled" if upsample else "small"}-{"valid" if valid else "all"}': Case(
            dict(loss_weight=0.5, upsample=upsample, mask_ignored=valid),
            ((2, 4, 3, 5), (2, 6, 10)),
        )
        for upsample, valid in product([False, True], [False, True])
    }
    main = ['small-valid', 'upsampled-all']
    wrong_inputs = [('classes', r'one shape, got \(2, 4, 3, 5\) and \(2, 3, 3, 5\)')]

    def pair(self, case, device='cpu'):
        shape, size = case.data
        pair = super().pair(case._replace(data=(shape, False)), device)
        labels = torch.randint(0, shape[1], size)
        labels[:, :, 3:7] = 255
        return pair._replace(options=dict(labels=labels.to(device)))

    def expected(self, loss, pair):
        labels, logits = pair.options['labels'], [*pair.student.values()]
        logits += [tensor.detach() for tensor in pair.teacher.values()]
        if loss.upsample:
            logits = [reference.up(z, labels.shape[1:], 'bilinear') for z in logits]
        height, width = logits[0].shape[2:]
        # The label in the middle of each position's area.
        rows, columns = (
            ((torch.arange(n) + 0.5) * whole / n).long()
            for n, whole in zip((height, width), labels.shape[1:])
        )
        mask = labels[:, rows][:, :, columns] != 255 if loss.mask_ignored else None
        return loss.loss_weight * reference.soft_label(*logits, loss.temperature, mask)


class TestChannelSoftLabelLoss(TestSoftLabelLoss):
    """The data of a case: the shape of the logits; nothing is masked."""

    component = ChannelSoftLabelLoss
    cases = {
        f'{temperature}': Case(
            dict(temperature=temperature, loss_weight=3.0), ((2, 4, 3, 5), False)
        )
        for temperature in (1.0, 4.0)
    }
    main = ['4.0']
    wrong_inputs = [('classes', r'one shape, got \(2, 4, 3, 5\) and \(2, 3, 3, 5\)')]

    def expected(self, loss, pair):
        """Class by class and image by image."""
        (student,), (teacher,) = pair.student.values(), pair.teacher.values()
        tau, terms = loss.temperature, []
        for ours, theirs in zip(student.flatten(0, 1), teacher.detach().flatten(0, 1)):
            p, q = (torch.softmax(z.flatten() / tau, dim=0) for z in (theirs, ours))
            terms.append((p * (p / q).log()).sum())
        return loss.loss_weight * tau**2 * torch.stack(terms).mean()

    def test_vectors_are_refused(self):
        with pytest.raises(ValueError, match=r'maps of logits.*\(4, 10\)'):
            ChannelSoftLabelLoss()(logits((4, 10)), logits((4, 10)))


def test_is_averaged_over_positions_not_only_over_images():
    student, teacher = logits((2, 5, 4, 6)), logits((2, 5, 4, 6))
    loss = SoftLabelLoss()
    flat = [z.movedim(1, -1).reshape(-1, 5) for z in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*flat))


def test_equal_logits_give_zero():
    student = logits((4, 6))
    loss = SoftLabelLoss()(student, student + 7.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_no_true_position_gives_zero():
    student, teacher = logits((2, 5, 3, 3)), logits((2, 5, 3, 3))
    loss = SoftLabelLoss()(student, teacher, mask=torch.zeros(2, 3, 3) > 0)
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()


def test_ignored_positions_may_hold_anything():
    student, teacher = logits((2, 5, 3, 3)), logits((2, 5, 3, 3))
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0, 1, 1] = False
    loss = SoftLabelLoss()
    expected = loss(student, teacher, mask=mask)
    garbage = teacher.detach().clone()
    garbage[0, :, 1, 1] = torch.tensor([float('inf'), float('nan'), 0.0, -1e38, 1e38])
    torch.testing.assert_close(loss(student, garbage, mask=mask), expected)


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = SoftLabelLoss(temperature=1.0)(student, -student)
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-5)
    assert torch.isfinite(student.grad).all()


def test_boxes_without_area_are_alike():
    nothing, box = torch.zeros(1, 4), torch.ones(1, 4)
    assert distance_iou_loss(nothing, nothing).item() == 0
    assert distance_iou_loss(box, nothing).item() == 1
    assert distance_iou_loss(box, box).item() == 0


def test_logits_of_other_strides_are_compared_at_the_labels_size():
    torch.manual_seed(0)
    loss = PixelSoftLabelLoss(upsample=True)
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 2, 2)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    assert loss(student, teacher, labels=labels) > 0
    with pytest.raises(ValueError, match=r'\(2, 5, 4, 4\) and \(2, 5, 2, 2\)'):
        PixelSoftLabelLoss(upsample=False)(student, teacher, labels=labels)
