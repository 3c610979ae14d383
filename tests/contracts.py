"""What every component of a kind has to show, whoever writes it.

One class a kind. The test class of a component inherits it, says how the component is
built, what it is given and what independent code expects of it, and adds what only
this component has to show. ``device`` and ``dtype`` are fixtures: where there is a
GPU, everything runs there, too.
"""

from copy import deepcopy
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
import torch
from comparators import distilled
from mmengine.registry import MODELS
from test_detection import det_toys
from test_segmentation import seg_toys
from torch import Tensor, nn
from torch._dynamo.utils import counters
from toys import (
    needs_tracing,
    terms_of,
    toy_batch,
    toy_student_cfg,
    wide_resnet_cfg,
)

from frskd_mm.models.losses import DetSoftLabelLoss
from frskd_mm.models.losses.soft_labels import BBOX_FORMS, CLS_FORMS
from frskd_mm.models.tasks.readers import find_readers
from frskd_mm.registry import HEAD_READERS


class Case(NamedTuple):
    """One way of building and calling a component.

    Attributes:
        settings: Of the component.
        data: What its inputs are made from.
    """

    settings: Dict[str, Any]
    data: Any


class Contract:
    """What the contracts of all kinds share.

    Attributes:
        component: The class under test.
        cases: Name -> case. Values are compared in all of them.
        main: Names of the cases in which everything else is shown.
        gradcheck: Names of those without gradients that are stopped on the
            student's side, where ``main`` has such.
        wrong_settings: Settings and the message that refuses them.
    """

    component: type
    cases: Dict[str, Case]
    main: Sequence[str]
    gradcheck: Sequence[str] = ()
    wrong_settings: Sequence[Tuple[Dict[str, Any], str]] = ()

    def pytest_generate_tests(self, metafunc):
        """Give the tests the cases of the class that inherited them."""
        cls, given = metafunc.cls, metafunc.fixturenames
        if 'case' in given:
            metafunc.parametrize('case', cls.cases.values(), ids=cls.cases)
        for fixture, names in (
            ('main_case', cls.main),
            ('gradcheck_case', cls.gradcheck or cls.main),
        ):
            if fixture in given:
                named = [cls.cases[name] for name in names]
                metafunc.parametrize(fixture, named, ids=names)
        for name in ('wrong_settings', 'wrong_inputs', 'image_sizes'):
            if name in given:
                metafunc.parametrize(
                    name, getattr(cls, name), ids=lambda v: str(v)[:30]
                )

    def build(self, case: Case, device: Any = 'cpu', dtype: Any = None) -> nn.Module:
        """Build the component, all of whose parameters matter."""
        raise NotImplementedError

    def test_is_built_from_a_config_of_any_library(self):
        config = dict(type=f'frskd_mm.{self.component.__name__}')
        assert MODELS.get(config['type']) is self.component

    def test_wrong_settings_are_refused(self, wrong_settings):
        settings, message = wrong_settings
        case = self.cases[self.main[0]]
        with pytest.raises((ValueError, TypeError), match=message):
            self.build(case._replace(settings={**case.settings, **settings}))


def _first_letters(value: Any) -> str:
    return str(value)[:30]


def assert_all_close(
    names: Sequence[str],
    ours: Sequence[Tensor],
    expected: Sequence[Tensor],
    rtol: float,
    atol: float,
) -> None:
    """Require equal tensors, to ``atol`` of the largest value of all of them."""
    scale = max(tensor.abs().max().item() for tensor in expected)
    assert scale > 0
    for name, one, other in zip(names, ours, expected):
        torch.testing.assert_close(
            one,
            other.to(one),
            rtol=rtol,
            atol=atol * scale,
            msg=lambda text, name=name: f'{name}: {text}',
        )


class Pair(NamedTuple):
    """What a loss compares.

    Attributes:
        student: Tensors of the student, by name; all of them are trained.
        teacher: Those of the teacher.
        options: What else the loss is given.
    """

    student: Dict[str, Tensor]
    teacher: Dict[str, Tensor]
    options: Dict[str, Any] = {}

    def to(self, dtype: torch.dtype) -> 'Pair':
        """Return copies in a type, with gradients of their own."""
        return Pair(*(_copied(part, dtype) for part in self))


def _copied(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item, dtype) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, dtype) for item in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(dtype).requires_grad_(value.requires_grad)
    return value


class LossContract(Contract):
    """A term that pulls the student's outputs or maps towards the teacher's.

    Attributes:
        wrong_inputs: Names of tensors of the pair that get another shape, by
            ``spoil``, and the message that refuses them.
        half_tolerance: How far, relatively, rounding all inputs to bf16 may move
            the value in ``main``. The computation itself is in fp32.
        weights: Names of the factors that the value grows with.
    """

    wrong_inputs: Sequence[Tuple[str, str]] = ()
    half_tolerance = 0.05
    weights: Sequence[str] = ('loss_weight',)

    def build(self, case: Case, device: Any = 'cpu', dtype: Any = None) -> nn.Module:
        loss = self.component(**case.settings)
        return loss.to(device=device, dtype=dtype)

    def pair(self, case: Case, device: Any = 'cpu') -> Pair:
        """Make float64 inputs, leaves with gradients on both sides."""
        raise NotImplementedError

    def call(self, loss: nn.Module, pair: Pair) -> Tensor:
        """Compute the loss of maps, level by level, or of what replaces this."""
        levels = list(pair.student.values()), list(pair.teacher.values())
        return loss(*levels, **pair.options)

    def expected(self, loss: nn.Module, pair: Pair) -> Tensor:
        """Compute the same by independent code."""
        raise NotImplementedError

    def spoil(self, pair: Pair, name: str) -> Pair:
        """Return a pair that cannot be compared."""
        raise NotImplementedError

    def test_value_and_gradients_are_those_of_the_equation(self, case, device, dtype):
        loss, pair = self.build(case, device, dtype), self.pair(case, device).to(dtype)
        exact_loss, exact = deepcopy(loss).double(), pair.to(torch.float64)
        value, expected = self.call(loss, pair), self.expected(exact_loss, exact)
        assert expected > 0
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        torch.testing.assert_close(
            value, expected.to(value), rtol=tolerance, atol=tolerance / 100
        )
        own = dict(loss.named_parameters())
        assert_all_close(
            [*pair.student, *own],
            torch.autograd.grad(value, [*pair.student.values(), *own.values()]),
            torch.autograd.grad(
                expected, [*exact.student.values(), *exact_loss.parameters()]
            ),
            rtol=10 * tolerance,
            atol=tolerance,
        )

    def test_the_value_is_a_scalar_times_its_weight(self, main_case, device, dtype):
        loss, pair = self.build(main_case, device, dtype), self.pair(main_case, device)
        value = self.call(loss, pair.to(dtype))
        for name in self.weights:
            setattr(loss, name, 2.5 * getattr(loss, name))
        assert value.shape == ()
        assert value.dtype == dtype
        assert value.device.type == device.type
        torch.testing.assert_close(self.call(loss, pair.to(dtype)), 2.5 * value)

    def test_trains_the_student_and_its_own_parameters_alone(self, main_case, device):
        loss = self.build(main_case, device, torch.float64)
        pair = self.pair(main_case, device)
        self.call(loss, pair).backward()
        assert all(tensor.grad is None for tensor in pair.teacher.values())
        for name, tensor in {**pair.student, **dict(loss.named_parameters())}.items():
            assert tensor.grad.abs().sum() > 0, name

    def test_gradcheck(self, gradcheck_case, device):
        loss = self.build(gradcheck_case, device, torch.float64)
        pair = self.pair(gradcheck_case, device)
        parameters = dict(loss.named_parameters())

        def function(*tensors: Tensor) -> Tensor:
            student = dict(zip(pair.student, tensors))
            given = dict(zip(parameters, tensors[len(student) :]))
            called = _Called(loss, self.call, pair._replace(student=student))
            return torch.func.functional_call(
                called, {f'loss.{name}': tensor for name, tensor in given.items()}, ()
            )

        assert torch.autograd.gradcheck(
            function, (*pair.student.values(), *parameters.values()), fast_mode=True
        )

    @pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_inputs_are_compared_in_fp32(self, main_case, device, half):
        """Exactly, and within ``half_tolerance`` of what fp32 inputs give."""
        loss = self.build(main_case, device, torch.float32)
        exact = self.pair(main_case, device).to(torch.float32)
        # Weights of positions are made in fp32.
        rounded = exact.to(half)._replace(options=exact.options)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = self.call(loss, rounded)
        value.backward()
        assert value.dtype == torch.float32
        for tensor in rounded.student.values():
            assert torch.isfinite(tensor.grad).all()
        torch.testing.assert_close(
            value, self.call(loss, rounded.to(torch.float32)), rtol=0, atol=0
        )
        torch.testing.assert_close(
            value, self.call(loss, exact), rtol=self.half_tolerance, atol=0
        )

    @needs_tracing
    def test_compiled_it_is_one_graph_with_the_same_value(self, device):
        case = self.cases[self.main[0]]
        loss = self.build(case, device, torch.float32)
        pair = self.pair(case, device).to(torch.float32)
        expected = self.call(loss, pair)
        torch._dynamo.reset()
        called = torch.compile(
            lambda pair: self.call(loss, pair), backend='eager', fullgraph=True
        )
        torch.testing.assert_close(called(pair), expected)

    def test_a_state_dict_restores_the_value(self, main_case, device):
        loss = self.build(main_case, device, torch.float64)
        other = self.build(main_case, device, torch.float64)
        with torch.no_grad():
            for tensor in (*loss.parameters(), *loss.buffers()):
                tensor.copy_(1.1 * tensor)
        other.load_state_dict(loss.state_dict())
        pair = self.pair(main_case, device)
        assert torch.equal(self.call(other, pair), self.call(loss, pair))

    def test_what_cannot_be_compared_is_named(self, wrong_inputs, device):
        name, message = wrong_inputs
        case = self.cases[self.main[0]]
        loss = self.build(case, device, torch.float64)
        with pytest.raises(ValueError, match=message):
            self.call(loss, self.spoil(self.pair(case, device), name))


class _Called(nn.Module):
    """A loss and its inputs, so that only parameters are left to give."""

    def __init__(self, loss, call, pair):
        super().__init__()
        self.loss, self.call, self.pair = loss, call, pair

    def forward(self):
        return self.call(self.loss, self.pair)


class FeatureLossContract(LossContract):
    """A loss of feature maps, level by level.

    The data of a case are the levels: (N, c, d, H, W), fine to coarse.
    """

    #: Whether the maps are post-ReLU.
    activated = True
    wrong_settings = [(dict(foreground='masks'), "one of .*'confidence', 'boxes'")]
    wrong_inputs = [
        ('fewer levels', 'gave 2 feature maps and the self-teacher 1'),
        ('another width', r'Level 1: student map \(.*\) and .* differ in N, H or W'),
        ('another batch', r'Level 0: .* differ in N, H or W'),
    ]

    def pair(self, case: Case, device: Any = 'cpu') -> Pair:
        def maps(channels: int) -> Dict[str, Tensor]:
            sizes = [(size[0], size[channels], *size[3:]) for size in case.data]
            feats = [torch.randn(size, dtype=torch.float64) for size in sizes]
            feats = [feat.relu() if self.activated else feat for feat in feats]
            return {
                f'level {i}': feat.to(device).requires_grad_()
                for i, feat in enumerate(feats)
            }

        return Pair(maps(1), maps(2))

    def spoil(self, pair: Pair, name: str) -> Pair:
        first, second, *_ = pair.teacher.values()
        student = dict(list(pair.student.items())[:2])
        teacher = {
            'fewer levels': [first],
            'another width': [first, second[..., :-1]],
            'another batch': [first[:1], second],
        }[name]
        return pair._replace(student=student, teacher=dict(enumerate(teacher)))


class NeckContract(Contract):
    """A neck that refines feature maps, fine to coarse.

    Attributes:
        half_tolerance: Mean error of bf16 autocast, of the mean output.
        wrong_inputs: Channels of maps that it refuses, and the message.
    """

    half_tolerance = 0.1
    wrong_inputs: Sequence[Tuple[List[int], str]] = ()

    def feats(self, case: Case, device: Any = 'cpu') -> List[Tensor]:
        """Make float64 maps, see :func:`random_maps`."""
        raise NotImplementedError

    def expected(
        self, neck: nn.Module, feats: List[Tensor], case: Case
    ) -> List[Tensor]:
        """Compute the refined maps by independent code."""
        raise NotImplementedError

    def channels_of(self, neck: nn.Module) -> List[int]:
        """Return the channels of its maps, as it says."""
        return neck.out_channels

    def test_maps_and_gradients_are_those_of_the_equations(self, case, device):
        neck, feats = self.build(case, device, torch.float64), self.feats(case, device)
        expected = self.expected(neck, feats, case)
        variables = [*feats, *neck.parameters()]
        wanted = torch.autograd.grad(scalar_of(expected), variables)
        outs = neck(feats)
        grads = torch.autograd.grad(scalar_of(outs), variables)

        torch.testing.assert_close(list(outs), expected, rtol=1e-9, atol=1e-9)
        names = [f'feats.{i}' for i in range(len(feats))]
        names += [name for name, _ in neck.named_parameters()]
        assert_all_close(names, grads, wanted, rtol=1e-8, atol=1e-9)

    def test_gives_a_map_of_its_channels_for_each_level(self, main_case, device, dtype):
        neck = self.build(main_case, device, dtype)
        feats = [feat.detach().to(dtype) for feat in self.feats(main_case, device)]
        kept = [feat.clone() for feat in feats]
        outs = neck(feats)
        assert isinstance(outs, tuple)
        channels = self.channels_of(neck)
        assert [out.shape for out in outs] == [
            (len(feat), c, *feat.shape[2:]) for feat, c in zip(feats, channels)
        ]
        assert {out.dtype for out in outs} == {dtype}
        # An activation in place may write to none of them.
        assert all(map(torch.equal, feats, kept))

    def test_every_map_and_every_parameter_gets_a_gradient(self, main_case, device):
        neck = self.build(main_case, device, torch.float64)
        feats = self.feats(main_case, device)
        scalar_of(neck(feats)).backward()
        named = {f'feats.{i}': feat for i, feat in enumerate(feats)}
        for name, tensor in {**named, **dict(neck.named_parameters())}.items():
            assert tensor.grad.abs().sum() > 0, name

    @pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
    def test_gradcheck(self, main_case, device, training):
        neck = self.build(main_case, device, torch.float64).train(training)
        feats = self.feats(main_case, device)
        assert torch.autograd.gradcheck(
            lambda *feats: scalar_of(neck(feats)), feats, fast_mode=True
        )

    def test_bf16_is_near_fp32(self, main_case, device):
        neck = self.build(main_case, device, torch.float32)
        feats = [feat.float() for feat in self.feats(main_case, device)]
        exact = neck(feats)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outs = neck(feats)
        for out, wanted in zip(outs, exact):
            error = (out.float() - wanted).abs().mean()
            assert error < self.half_tolerance * wanted.abs().mean()

    @needs_tracing
    def test_compiled_it_is_one_graph_with_the_same_maps(self, device):
        case = self.cases[self.main[0]]
        neck, feats = self.build(case, device, torch.float64), self.feats(case, device)
        expected = neck(feats)
        torch._dynamo.reset()
        compiled = torch.compile(neck, backend='eager', fullgraph=True)
        torch.testing.assert_close(compiled(feats), expected)

    def test_a_state_dict_restores_the_maps(self, main_case, device):
        neck = self.build(main_case, device, torch.float64).eval()
        other = self.build(main_case, device, torch.float64).eval()
        other.load_state_dict(neck.state_dict())
        feats = self.feats(main_case, device)
        assert all(map(torch.equal, other(feats), neck(feats)))

    def test_other_maps_than_it_was_built_for_are_named(self, wrong_inputs, device):
        channels, message = wrong_inputs
        neck = self.build(self.cases[self.main[0]], device)
        with pytest.raises(ValueError, match=message):
            neck([torch.zeros(2, c, 4, 4, device=device) for c in channels])


def random_maps(
    batch: int,
    channels: Sequence[int],
    sizes: Sequence[Tuple[int, int]],
    device: Any = 'cpu',
) -> List[Tensor]:
    """Make float64 maps, post-ReLU, fine to coarse; leaves with gradients."""
    return [
        torch.randn(batch, c, *size, dtype=torch.float64)
        .relu()
        .to(device)
        .requires_grad_()
        for c, size in zip(channels, sizes)
    ]


def scalar_of(outs: Sequence[Tensor]) -> Tensor:
    """Reduce outputs to one number whose gradient tells every pixel apart."""
    generator = torch.Generator().manual_seed(1)
    return sum(
        (out * torch.randn(out.shape, generator=generator).to(out)).sum()
        for out in outs
    )


class DistillerContract(Contract):
    """A method on a small classifier.

    ``gradcheck`` says nothing about a method: what it detaches is no derivative.
    Its gradients are compared with those of the equations instead, in double
    precision, too.

    Attributes:
        parts: First letters of a parameter's name, and what to call such parts.
            Others are called by the name's first part, and the distiller's by its
            second.
        graphs: Number of graphs into which ``torch.compile`` traces the whole
            step; 0 where that is not promised.
        for_dense_prediction: Whether segmentors and detectors can be students.
        half_tolerance: How far, relatively, bf16 autocast may move a term.
        image_sizes: Heights and widths on which it trains.
    """

    parts: Dict[str, str] = {}
    graphs = 0
    image_sizes = (dict(height=25, width=25), dict(height=24, width=32))
    for_dense_prediction = False
    half_tolerance = 0.2

    def settings(self, case: Case) -> Dict[str, Any]:
        """Return the distiller's config."""
        return dict(case.settings, type=f'frskd_mm.{self.component.__name__}')

    def student(self) -> Dict[str, Any]:
        """Return the student's config."""
        return toy_student_cfg()

    def build(self, case: Case, device: Any = 'cpu', dtype: Any = None) -> nn.Module:
        """Build the distilled model, all parts of which matter from the start."""
        model = distilled(self.settings(case), self.student())
        for module in model.modules():
            # ResNets start with zeros here, and every block as the identity.
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)
        return model.to(device=device, dtype=dtype)

    def batch(self, size: int = 4, height: int = 16, width: int = 16) -> Dict[str, Any]:
        """Make images and annotations, as the data preprocessor gives them."""
        return toy_batch(size, height, width)

    def prepare(self, model: nn.Module) -> None:
        """Do what comes before the step that is compared."""

    def expected(
        self, model: nn.Module, images: Tensor, data_samples: List[Any]
    ) -> Dict[str, Tensor]:
        """Compute what is optimised by the equations, by name."""
        raise NotImplementedError

    def reaches(self, case: Case) -> Dict[str, Set[str]]:
        """Return which parts each term trains."""
        raise NotImplementedError

    def given(self, device: Any, dtype: torch.dtype, **sizes: int) -> Dict[str, Any]:
        """Return a batch on a device and in a type."""
        batch = self.batch(**sizes)
        batch['inputs'] = batch['inputs'].to(device, dtype)
        batch['data_samples'] = [sample.to(device) for sample in batch['data_samples']]
        return batch

    def losses(self, case: Case, device: Any, dtype: torch.dtype, **sizes: int) -> Any:
        """Return a model and what it optimises in the compared step."""
        model = self.build(case, device, dtype)
        self.prepare(model)
        return model, terms_of(model(**self.given(device, dtype, **sizes), mode='loss'))

    def test_terms_and_gradients_are_those_of_the_equations(self, case, device, dtype):
        model = self.build(case, device, dtype)
        self.prepare(model)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        assert_parity(model, self.given(device, dtype), self.expected, tolerance)

    def test_each_term_trains_its_parts_alone(self, main_case, device):
        model, losses = self.losses(main_case, device, torch.float32)
        expected = self.reaches(main_case)
        assert losses.keys() == expected.keys()
        for name, term in losses.items():
            assert trained_parts(model, term, self.parts) == expected[name], name

    def test_every_parameter_is_trained(self, main_case, device):
        """DistributedDataParallel waits for every one of them."""
        model, losses = self.losses(main_case, device, torch.float32)
        model.zero_grad()
        sum(losses.values()).backward()
        for name, param in model.named_parameters():
            assert param.grad is not None or not param.requires_grad, name

    def test_leaves_a_plain_student(self, main_case, device):
        model, _ = self.losses(main_case, device, torch.float32)
        plain = MODELS.build(self.student()).to(device)
        plain.load_state_dict(
            {
                name: value
                for name, value in model.state_dict().items()
                if not name.startswith('distiller.')
            }
        )
        images = torch.randn(2, 3, 16, 16, device=device)
        with torch.no_grad():
            ours, theirs = (one.eval().predict(images) for one in (model, plain))
        for one, other in zip(ours, theirs):
            assert torch.equal(one.pred_score, other.pred_score)

    def test_trains_on_images_of_any_size(self, device, image_sizes):
        case = self.cases[self.main[0]]
        _, losses = self.losses(case, device, torch.float32, **image_sizes)
        assert all(torch.isfinite(value) for value in losses.values())

    def test_bf16_autocast_keeps_the_terms_in_fp32(self, main_case, device):
        """Those of the method; the host computes its own as it likes."""
        model, batch = self.build(main_case, device), self.given(device, torch.float32)
        self.prepare(model)
        other = deepcopy(model)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = terms_of(other(**batch, mode='loss'))
        exact = terms_of(model(**batch, mode='loss'))
        added = losses.keys() - {'student.loss'}
        assert added
        for name in added:
            assert losses[name].dtype == torch.float32, name
            torch.testing.assert_close(
                losses[name],
                exact[name],
                rtol=self.half_tolerance,
                atol=1e-3,
                msg=lambda text, name=name: f'{name}: {text}',
            )
        sum(losses.values()).backward()
        for name, param in other.named_parameters():
            assert param.grad is None or torch.isfinite(param.grad).all(), name

    @needs_tracing
    def test_compiled_the_whole_step_is_a_graph_with_the_same_numbers(self, device):
        if not self.graphs:
            pytest.skip('this method is not compiled as a whole')
        torch._dynamo.reset()
        counters.clear()
        case = self.cases[self.main[0]]
        model = distilled(self.settings(case), wide_resnet_cfg()).to(device)
        plain = deepcopy(model)
        model.forward = torch.compile(model.forward, backend='eager', fullgraph=True)
        for _ in range(4):
            batch = self.given(device, torch.float32)
            losses = [one(**deepcopy(batch), mode='loss') for one in (model, plain)]
            assert losses[0].keys() == losses[1].keys()
            for one, terms in zip((model, plain), losses):
                one.zero_grad()
                one.parse_losses(terms)[0].backward()
            for (name, ours), theirs in zip(losses[0].items(), losses[1].values()):
                torch.testing.assert_close(
                    ours, theirs, msg=lambda text, name=name: f'{name}: {text}'
                )
            for ours, theirs in zip(model.parameters(), plain.parameters()):
                torch.testing.assert_close(ours.grad, theirs.grad)
            torch.testing.assert_close(list(model.buffers()), list(plain.buffers()))
        assert counters['stats']['unique_graphs'] == self.graphs
        assert not counters['graph_break']

    @pytest.mark.parametrize('student', ['segmentor', 'detector'])
    def test_students_for_dense_prediction_are_taken_or_refused(self, student):
        pytest.importorskip(dict(segmentor='mmseg', detector='mmdet')[student])
        if student == 'segmentor':
            config = seg_toys.student_cfg()
        else:
            config = det_toys.student_cfg('retinanet')
        distiller = self.settings(self.cases[self.main[0]])
        model = dict(type='frskd_mm.Distilled', student=config, distiller=distiller)
        if self.for_dense_prediction:
            assert isinstance(MODELS.build(model).distiller, self.component)
        else:
            name = self.component.__name__
            with pytest.raises(TypeError, match=f'{name} is for classification'):
                MODELS.build(model)


def assert_parity(
    model: nn.Module,
    batch: Dict[str, Any],
    reference: Callable[[nn.Module, Tensor, List[Any]], Dict[str, Tensor]],
    tolerance: float = 1e-4,
) -> None:
    """Require equal terms, gradients and batch statistics of a reference.

    ``reference`` gets a copy of the model, the images and the annotations, and
    returns the terms.
    """
    copy = deepcopy(model)
    losses = model.loss(**batch)
    expected = reference(copy, batch['inputs'], batch['data_samples'])
    optimised = {name: value for name, value in losses.items() if 'loss' in name}
    assert optimised.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            optimised[name],
            value,
            rtol=tolerance,
            atol=tolerance / 10,
            msg=lambda m, n=name: f'{n}: {m}',
        )
    sum(optimised.values()).backward()
    sum(expected.values()).backward()
    for (name, ours), theirs in zip(model.named_parameters(), copy.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(
                ours.grad,
                theirs.grad,
                rtol=10 * tolerance,
                atol=tolerance,
                msg=lambda m, n=name: f'{n}: {m}',
            )
    for (name, ours), theirs in zip(model.named_buffers(), copy.buffers()):
        if 'running' in name:
            torch.testing.assert_close(
                ours, theirs, rtol=tolerance, atol=tolerance / 10
            )


def trained_parts(
    model: nn.Module, term: Tensor, parts: Optional[Dict[str, str]] = None
) -> Set[str]:
    """Return the parts of a model that a term trains, see ``DistillerContract``."""
    model.zero_grad()
    term.backward(retain_graph=True)
    return {
        part_of(name, parts or {})
        for name, param in model.named_parameters()
        if param.grad is not None and param.grad.abs().sum() > 0
    }


def owners_trained(model: nn.Module, term: Tensor) -> Set[str]:
    """Return the first parts of the names of parameters that a term trains.

    Their ``grad`` stays as it is.
    """
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(
        term, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    return {
        name.partition('.')[0]
        for name, grad in zip(parameters, grads)
        if grad is not None and grad.any()
    }


def part_of(name: str, parts: Dict[str, str]) -> str:
    for prefix, part in parts.items():
        if name.startswith(prefix):
            return part
    owner, _, rest = name.partition('.')
    return rest.partition('.')[0] if owner == 'distiller' else owner


class HeadReaderContract:
    """A reader of one kind of detector heads.

    Reading selects rows of what the heads returned, so there is nothing to
    differentiate or to round here; nor is a detector compiled as a whole.

    Attributes:
        component: The class of the reader.
        families: Toy detector -> names of its heads of this kind.
        without: A toy detector that has none.
    """

    component: type
    families: Dict[str, List[str]]
    without: str

    def pytest_generate_tests(self, metafunc):
        """Give the tests the detectors of the class that inherited them."""
        if 'family' in metafunc.fixturenames:
            metafunc.parametrize('family', metafunc.cls.families)

    def expected(
        self, name: str, one: Any, student: Any, data_samples: List[Any]
    ) -> Dict[str, Tensor]:
        """Pick the rows of a head from a pass, by independent code.

        Args:
            name: The head's.
            one: The pass that is read.
            student: The student's pass, whose random choices both follow.
            data_samples: The annotations.

        Returns:
            dict[str, Tensor]: 'cls', and 'bbox' and 'quality' where there are such.
        """
        raise NotImplementedError

    def compared(self, family: str, device: Any) -> Any:
        """Return the model, both passes, the annotations and the readers."""
        model = det_toys.distilled(family).train().to(device)
        data = det_toys.family_batch(family)
        data['inputs'] = data['inputs'].to(device)
        data['data_samples'] = [sample.to(device) for sample in data['data_samples']]
        passes = det_toys.run_both(model, data)
        return model, passes, data['data_samples'], self.component.find(model)

    def test_finds_heads_of_its_kind_alone(self, family):
        detector = MODELS.build(det_toys.student_cfg(family))
        readers = find_readers(detector)
        found = [r.name for r in readers if type(r) is self.component]
        assert found == self.families[family]
        assert not self.component.find(MODELS.build(det_toys.student_cfg(self.without)))
        assert self.component in HEAD_READERS.module_dict.values()

    def test_records_methods_of_the_detector(self, family):
        detector = MODELS.build(det_toys.student_cfg(family))
        for reader in self.component.find(detector):
            targets = reader.targets(detector)
            assert targets
            assert set(reader.replayed()) <= set(targets)
            for owner, method in targets.values():
                assert callable(getattr(owner, method))

    def test_rows_are_those_of_the_heads(self, family, device):
        _, passes, samples, readers = self.compared(family, device)
        for reader in readers:
            labels = reader.soft_labels(*passes, samples)
            for side, one in zip(('student', 'teacher'), passes):
                rows = self.expected(reader.name, one, passes[0], samples)
                for kind in ('cls', 'bbox', 'quality'):
                    found = getattr(labels, f'{side}_{kind}')
                    assert (found is None) == (kind not in rows), kind
                    if found is None:
                        continue
                    assert found.shape == rows[kind].shape, kind
                    counts = slice(None)
                    if kind == 'bbox' and labels.bbox_weight is not None:
                        counts = labels.bbox_weight > 0
                    assert torch.equal(found[counts], rows[kind][counts]), kind

    def test_says_how_every_row_is_compared(self, family, device):
        _, passes, samples, readers = self.compared(family, device)
        for reader in readers:
            labels = reader.soft_labels(*passes, samples)
            rows = len(labels.student_cls)
            assert rows > 0
            assert labels.cls_form in CLS_FORMS
            assert (labels.bbox_form in BBOX_FORMS) == (labels.student_bbox is not None)
            for weight in (labels.weight, labels.bbox_weight):
                assert weight is None or (len(weight) == rows and weight.min() >= 0)
            if labels.in_boxes is not None:
                inside = labels.in_boxes()
                assert inside.shape == (rows,)
                assert 0 < inside.float().mean() < 1

    def test_what_is_read_trains_the_student_alone(self, family, device):
        model, passes, samples, readers = self.compared(family, device)
        loss = DetSoftLabelLoss(bbox_weight=1.0)
        for reader in readers:
            value = loss([reader.soft_labels(*passes, samples)])
            assert value > 0
            reached = trained_parts(model, value)
            assert {'backbone'} | ({'neck'} if model.with_neck else set()) < reached
            assert 'self_teacher' not in reached
