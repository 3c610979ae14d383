"""The notebook, executed from the first cell to the last, for one epoch."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
NOTEBOOK = REPO / 'docs' / 'notebooks' / 'digits.ipynb'
PARAMETERS = "EPOCHS = 1\nSEEDS = [0, 1]\nWORK_DIR = 'out'"


def execute(notebook, folder):
    client = pytest.importorskip('nbclient')
    client.NotebookClient(
        notebook, timeout=900, resources={'metadata': {'path': str(folder)}}
    ).execute()


def output_of(cell, kind):
    return [o['data'][kind] for o in cell.outputs if kind in o.get('data', {})]


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    nbformat = pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    pytest.importorskip('matplotlib')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [c for c in notebook.cells if 'parameters' in c.metadata.get('tags', [])]
    cell.source = PARAMETERS
    folder = tmp_path_factory.mktemp('notebook')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(REPO))
        execute(notebook, folder)
    return notebook, folder


def test_it_compares_draws_and_exports(executed):
    notebook, folder = executed
    tables = [
        text
        for cell in notebook.cells
        for text in (
            output_of(cell, 'text/markdown') if cell.cell_type == 'code' else []
        )
    ]
    assert len(tables) == 1
    assert re.search(r'FRSKD student .*[+-]\d+\.\d \\?\[', tables[0])
    pictures = [
        cell
        for cell in notebook.cells
        if cell.cell_type == 'code' and output_of(cell, 'image/png')
    ]
    assert len(pictures) == 2
    assert (folder / 'out' / 'student.pth').is_file()
    said = ''.join(o.get('text', '') for o in notebook.cells[-1].outputs)
    said = re.findall(r'.*parameters of the student.*', said)[-1]
    alone, trained = [int(n.replace(',', '')) for n in re.findall(r'[\d,]{4,}', said)]
    assert alone < trained


def test_what_is_shown_was_executed_in_order():
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    counts = [c.execution_count for c in notebook.cells if c.cell_type == 'code']
    assert counts == list(range(1, len(counts) + 1))
    for cell in notebook.cells:  # and names no folder of a machine
        for output in cell.get('outputs', []):
            output.get('data', {}).pop('image/png', None)
        text = str(cell).replace('\\n', '\n')
        assert re.findall(r'(?<![\w:/.])/\w+/[\w./-]*', text) == []
