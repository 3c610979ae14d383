"""What ``frskd_mm`` itself offers, and that it costs nothing until it is used."""

import re
import subprocess
import sys

import pytest

import frskd_mm
import frskd_mm.engine

FUNCTIONS = [name for name in frskd_mm.__all__ if name != '__version__']


def snippet(path):
    """Return the only block of Python in a document that imports functions of ours."""
    blocks = re.findall(r'^```python\n(.*?)^```', path.read_text(), re.DOTALL | re.M)
    (found,) = [block for block in blocks if 'from frskd_mm import ' in block]
    return found


@pytest.mark.parametrize('name', FUNCTIONS)
def test_the_functions_are_the_engine_s(name):
    assert getattr(frskd_mm, name) is getattr(frskd_mm.engine, name)
    assert name in dir(frskd_mm)


def test_what_is_not_there_is_named():
    with pytest.raises(AttributeError, match="'frskd_mm' has no attribute 'no_such'"):
        frskd_mm.no_such  # noqa: B018
    with pytest.raises(ImportError, match='no_such'):
        exec('from frskd_mm import no_such')


def test_importing_the_package_imports_no_host(repo):
    code = (
        'import sys, frskd_mm\n'
        'heavy = {"torch", "mmcv", "mmdet", "mmseg", "mmpretrain", "frskd_mm.engine"}\n'
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repo, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_the_snippet_of_the_readme_runs(repo, tmp_path, monkeypatch):
    text = snippet(repo / 'README.md')
    assert text == snippet(repo / 'docs/python.md')
    assert len(text.splitlines()) < 10
    short = "dict([('train_cfg.max_epochs', 1), ('train_cfg.val_interval', 9)])"
    shortened = re.sub(r"(load_config\('[^']+')\)", rf'\1, {short})', text)
    assert shortened.count(short) == 1
    monkeypatch.chdir(tmp_path)
    given = {}
    exec(shortened.replace('epoch_25.pth', 'epoch_1.pth'), given)
    assert (tmp_path / 'student.pth').is_file()
    metrics = frskd_mm.evaluate(
        frskd_mm.configure_run(
            frskd_mm.load_config('student.py'), work_dir=str(tmp_path / 'test')
        ),
        'student.pth',
    )
    assert 0 <= metrics['accuracy/top1'] <= 100
    # The plain config was left as it was.
    assert given['cfg'].model.type == 'frskd_mm.Distilled'


def test_a_training_without_a_folder_is_refused():
    cfg = frskd_mm.load_config('frskd_mm::digits/wrn10-1_digits.py')
    with pytest.raises(ValueError, match='The config has no work_dir'):
        frskd_mm.train(cfg)
