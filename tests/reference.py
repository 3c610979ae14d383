"""The method's equations written down plainly, for the tests to compare with.

Nothing of frskd_mm is used or looked at but parameters: functions of tensors,
loops over levels, windows and samples, normalisations spelled out. The layout of
the parameters is the equations': one entry a level, ``None`` where the equations
have no such part.
"""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(NamedTuple):
    """A batch norm's parameters and running statistics."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor


class Pointwise(NamedTuple):
    """PW: 1x1 convolution, batch norm, ReLU."""

    kernel: Tensor
    norm: Norm


class Repeat(NamedTuple):
    """One repeat of DW: 3x3 depthwise and 1x1 convolution, batch norm."""

    depthwise: Tensor
    pointwise: Tensor
    norm: Norm


class LayerParams(NamedTuple):
    """What one BiFPN layer learns, a list entry a level (fine to coarse)."""

    lateral: List[Optional[Pointwise]]  # PW of L_i
    lateral2: List[Optional[Pointwise]]  # PW of L'_i
    up: List[Optional[Pointwise]]  # PW after Up, of level i + 1 for level i
    down: List[Optional[Pointwise]]  # PW after Down, of level i - 1 for level i
    top_down_weight: List[Optional[Tensor]]
    top_down: List[Optional[List[Repeat]]]
    bottom_up_weight: List[Optional[Tensor]]
    bottom_up: List[Optional[List[Repeat]]]


def batch_norm(x: Tensor, norm: Norm, training: bool) -> Tensor:
    if training:
        mean = x.mean(dim=(0, 2, 3))
        var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
    else:
        mean, var = norm.mean, norm.var
    scale = norm.gamma / torch.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.beta[:, None, None]


def conv1x1(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.einsum('nchw,oc->nohw', x, kernel[:, :, 0, 0])


def pw(x: Tensor, params: Optional[Pointwise], training: bool) -> Tensor:
    """PW, or nothing where BiFPN has none."""
    if params is None:
        return x
    return relu(batch_norm(conv1x1(x, params.kernel), params.norm, training))


def dw(x: Tensor, repeats: Sequence[Repeat], training: bool) -> Tensor:
    for number, repeat in enumerate(repeats):
        if number > 0:
            x = relu(x)
        height, width = x.shape[2:]
        padded, total = F.pad(x, (1, 1, 1, 1)), 0
        for i in range(3):
            for j in range(3):
                shifted = padded[:, :, i : i + height, j : j + width]
                total = total + shifted * repeat.depthwise[:, 0, i, j][:, None, None]
        x = batch_norm(conv1x1(total, repeat.pointwise), repeat.norm, training)
    return x


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def up(x: Tensor, size: Tuple[int, int], mode: str) -> Tensor:
    """Resize to ``size`` by nearest or bilinear interpolation, pixel by pixel."""
    for dim, target in zip((2, 3), size):
        source = x.shape[dim]
        rows = []
        for i in range(target):
            if mode == 'nearest':
                rows.append(x.select(dim, i * source // target))
                continue
            position = max((i + 0.5) * source / target - 0.5, 0.0)
            low = min(int(position), source - 1)
            high = min(low + 1, source - 1)
            share = position - low
            rows.append((1 - share) * x.select(dim, low) + share * x.select(dim, high))
        x = torch.stack(rows, dim=dim)
    return x


def down(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """Maximum over windows.

    3x3 windows at stride 2, "same" padding: the padding needed in all is shared
    between both sides, the odd row going to the end. Maps of one size stay as they
    are, and for any other size window i covers floor(i * h / H) .. ceil((i + 1) *
    h / H).
    """
    if x.shape[2:] == size:
        return x
    halved = all(math.ceil(s / 2) == t for s, t in zip(x.shape[2:], size))
    ranges = []
    for source, target in zip(x.shape[2:], size):
        if halved:
            before = max((target - 1) * 2 + 3 - source, 0) // 2
            spans = [(2 * i - before, 2 * i - before + 3) for i in range(target)]
        else:
            spans = [
                (i * source // target, math.ceil((i + 1) * source / target))
                for i in range(target)
            ]
        ranges.append([(max(a, 0), min(b, source)) for a, b in spans])
    return torch.stack(
        [
            torch.stack([x[:, :, a:b, c:d].amax(dim=(2, 3)) for c, d in ranges[1]], -1)
            for a, b in ranges[0]
        ],
        dim=2,
    )


def fuse(weight: Tensor, *maps: Tensor) -> Tensor:
    positive = [relu(w) for w in weight]
    return sum(w / (sum(positive) + 1e-6) * x for w, x in zip(positive, maps))


def bifpn_layer(
    feats: Sequence[Tensor],
    params: LayerParams,
    mode: str,
    training: bool,
    residual: bool = False,
) -> List[Tensor]:
    """Return T_1 .. T_n, before the last ReLU or without the F_i."""
    n = len(feats)
    sizes = [tuple(f.shape[2:]) for f in feats]
    lateral = [pw(feats[i], params.lateral[i], training) for i in range(n)]
    p: List[Tensor] = [None] * n  # type: ignore[list-item]
    p[n - 1] = lateral[n - 1]
    for i in reversed(range(n - 1)):
        # P_n = L_n comes from a PW's ReLU, or from the layer before.
        coarser = p[i + 1] if i + 1 == n - 1 else relu(p[i + 1])
        coarse = pw(up(coarser, sizes[i], mode), params.up[i], training)
        p[i] = dw(
            fuse(params.top_down_weight[i], lateral[i], coarse),
            params.top_down[i],
            training,
        )
    t = [p[0]]
    for i in range(1, n):
        maps = [pw(feats[i], params.lateral2[i], training)]
        if i < n - 1:
            maps.append(relu(p[i]))
        finer = finished(feats[i - 1], t[i - 1], residual)
        maps.append(pw(down(finer, sizes[i]), params.down[i], training))
        t.append(
            dw(fuse(params.bottom_up_weight[i], *maps), params.bottom_up[i], training)
        )
    return t


def finished(feat: Tensor, t: Tensor, residual: bool) -> Tensor:
    """Return what is read of T_i."""
    return feat + t if residual else relu(t)


def bifpn(
    feats: Sequence[Tensor],
    layers: Sequence[LayerParams],
    mode: str = 'nearest',
    training: bool = True,
    residual: bool = False,
) -> List[Tensor]:
    """Return ReLU(T_1 .. T_n) of stacked layers, or F_i + T_i with ``residual``."""
    for params in layers:
        refined = bifpn_layer(feats, params, mode, training, residual)
        feats = [finished(feat, t, residual) for feat, t in zip(feats, refined)]
    return list(feats)


def neck_params(neck: nn.Module) -> List[LayerParams]:
    """Read a neck's parameters."""

    def norm(module: nn.Module) -> Norm:
        return Norm(module.weight, module.bias, module.running_mean, module.running_var)

    def pointwise(module: Optional[nn.Module]) -> Optional[Pointwise]:
        return module and Pointwise(module[0].weight, norm(module[1]))

    def repeats(module: nn.Module) -> List[Repeat]:
        convs = [m.weight for m in module if isinstance(m, nn.Conv2d)]
        norms = [norm(m) for m in module if isinstance(m, nn.BatchNorm2d)]
        return [Repeat(*parts) for parts in zip(convs[0::2], convs[1::2], norms)]

    layers = []
    for layer in neck.layers:
        n = len(neck.in_channels)
        layers.append(
            LayerParams(
                lateral=list(map(pointwise, layer.laterals)) or [None] * n,
                lateral2=[None, *map(pointwise, layer.second_laterals)],
                up=[pointwise(layer.upsamples[i].project) for i in range(n - 1)]
                + [None],
                down=[None]
                + [pointwise(layer.downsamples[i].project) for i in range(n - 1)],
                top_down_weight=[m.weight for m in layer.top_down_fusions] + [None],
                top_down=[repeats(m) for m in layer.top_down_convs] + [None],
                bottom_up_weight=[None] + [m.weight for m in layer.bottom_up_fusions],
                bottom_up=[None] + [repeats(m) for m in layer.bottom_up_convs],
            )
        )
    return layers


def soft_label(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    mask: Optional[Tensor] = None,
) -> Tensor:
    """K^2 * KL(softmax(z_t / K) || softmax(z_s / K)), a mean over positions."""
    classes = student.shape[1]
    z_s = student.movedim(1, -1).reshape(-1, classes)
    z_t = teacher.detach().movedim(1, -1).reshape(-1, classes)
    counts = [True] * len(z_s) if mask is None else mask.flatten().tolist()
    total = student.new_zeros(())
    for a, b, counted in zip(z_s, z_t, counts):
        if counted:
            p_s = torch.exp(a / temperature) / torch.exp(a / temperature).sum()
            p_t = torch.exp(b / temperature) / torch.exp(b / temperature).sum()
            total = total + (p_t * torch.log(p_t / p_s)).sum()
    return temperature**2 * total / max(sum(counts), 1)


def attention_transfer(
    student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], reduction: str
) -> Tensor:
    """Sum over levels of the distance of attention maps."""
    total = student_feats[0].new_zeros(())
    for f, t in zip(student_feats, teacher_feats):
        per_sample = []
        for one, other in zip(f, t.detach()):
            phi_s = (one**2).sum(dim=0) / one.shape[0]
            phi_t = (other**2).sum(dim=0) / other.shape[0]
            phi_s = phi_s / torch.sqrt((phi_s**2).sum())
            phi_t = phi_t / torch.sqrt((phi_t**2).sum())
            squared = ((phi_s - phi_t) ** 2).sum()
            per_sample.append(
                {
                    'mean': squared / phi_s.numel(),
                    'sum': squared,
                    'norm': torch.sqrt(squared),
                }[reduction]
            )
        total = total + sum(per_sample) / len(per_sample)
    return total


def cross_entropy(logits: Tensor, labels: Sequence[int]) -> Tensor:
    terms = [
        torch.log(torch.exp(z).sum()) - z[label] for z, label in zip(logits, labels)
    ]
    return sum(terms) / len(terms)


def classify(feat: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Global average pooling and a linear layer."""
    return feat.mean(dim=(2, 3)) @ weight.T + bias


def wide_resnet(x: Tensor, state: Dict[str, Tensor], training: bool) -> List[Tensor]:
    """Features of the three groups of a WRN, post-ReLU.

    Args:
        x: Images (N, 3, H, W).
        state: Parameters and buffers by name.
        training: Whether batch statistics normalise.
    """

    def norm(y: Tensor, name: str) -> Tensor:
        names = ('weight', 'bias', 'running_mean', 'running_var')
        return batch_norm(y, Norm(*(state[f'{name}.{n}'] for n in names)), training)

    x, outs = F.conv2d(x, state['stem.weight'], padding=1), []
    for group in range(3):
        blocks = max(
            int(k.split('.')[2]) for k in state if k.startswith(f'groups.{group}.')
        )
        for block in range(blocks):
            name = f'groups.{group}.{block}'
            stride = 2 if group > 0 and block == 0 else 1
            y = F.conv2d(relu(x), state[f'{name}.conv1.weight'], None, stride, 1)
            y = relu(norm(y, f'{name}.norm'))
            y = F.conv2d(y, state[f'{name}.conv2.weight'], padding=1)
            if f'{name}.shortcut.weight' in state:
                x = F.conv2d(relu(x), state[f'{name}.shortcut.weight'], None, stride)
            x = x + y
        x = norm(x, f'groups.{group}.{blocks}')
        outs.append(relu(x))
    return outs


def sgd_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    velocities: Sequence[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> Tuple[List[Tensor], List[Tensor]]:
    """Return the parameters and velocities after a step of SGD."""
    new_velocities = [
        momentum * v + g + weight_decay * p
        for p, g, v in zip(params, grads, velocities)
    ]
    return [p - lr * v for p, v in zip(params, new_velocities)], new_velocities


def sigmoid_ramp(epoch: int, warmup: int, epochs: int) -> float:
    """Factor of the published segmentation recipe in a 0-based epoch."""
    if epoch < warmup:
        return 0.0
    done = (epoch + 1 - warmup) / (epochs - warmup)
    return math.exp(-5.0 * (1.0 - done) * (1.0 - done))
