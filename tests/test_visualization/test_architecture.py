"""The picture of a model shows the model."""

import sys
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from toys import toy_distilled

from frskd_mm.lab.visualization.architecture import draw_architecture


@pytest.fixture
def drawn_texts(tmp_path, monkeypatch):
    """Draw a model to a file and return the texts of the picture."""
    monkeypatch.setitem(matplotlib.rcParams, 'svg.fonttype', 'none')  # not as outlines
    monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)  # needs no display

    def draw(model):
        path = tmp_path / 'model.svg'
        draw_architecture(model, torch.zeros(1, 3, 32, 32), str(path))
        assert path.stat().st_size > 10_000
        return [element.text for element in ElementTree.parse(path).iter()]

    return draw


def test_shapes_names_and_weights_are_the_models(drawn_texts):
    texts = drawn_texts(toy_distilled(alpha=3.0, beta=7.0))
    for level, (channels, size) in enumerate(((8, 32), (16, 16), (32, 8), (64, 4)), 1):
        assert f'F{level}  {channels}×{size}×{size}' in texts
        assert f'T{level}  {2 * channels}×{size}×{size}' in texts
    assert 'alpha 3 · SoftLabelLoss(z_s, z_t)' in texts
    assert 'beta 7 · AttentionTransferLoss(F, T)' in texts
    assert 'LinearClsHead  z_s' in texts


def test_without_matplotlib_the_pip_line_is_given(monkeypatch):
    for name in ('figure', 'pyplot'):
        monkeypatch.setitem(sys.modules, f'matplotlib.{name}', None)
    with pytest.raises(ImportError, match='pip install matplotlib'):
        draw_architecture(toy_distilled(), torch.zeros(1, 3, 32, 32), 'model.svg')
