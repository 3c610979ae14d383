"""Which rooms of the package import which: commands, the lab, and all others."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'frskd_mm'
LAB = 'frskd_mm.lab'
COMMANDS = 'frskd_mm.commands'
#: Of the commands, which are above all.
DOORS = (COMMANDS, 'frskd_mm.__main__')
FILES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
    for path in PACKAGE.rglob('*.py')
}


def imports(name, path):
    """Return the modules of the package that a file names, wherever it does."""
    package = name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = package.split('.')[: len(package.split('.')) - node.level + 1]
                base = '.'.join([*parts, *filter(None, [base])])
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        for imported in names:
            while imported and imported not in FILES:
                if f'{imported}.__init__' in FILES:
                    imported = f'{imported}.__init__'
                else:
                    imported = imported.rpartition('.')[0]
            if imported:
                yield imported


GRAPH = {name: set(imports(name, path)) - {name} for name, path in FILES.items()}


def test_files_were_found():
    assert len(GRAPH) > 80
    assert f'{LAB}.tables' in GRAPH[f'{LAB}.demo']
    assert 'frskd_mm.engine.config' in GRAPH[f'{LAB}.compare.run']


def test_nothing_below_imports_the_lab():
    upward = {
        name: sorted(found)
        for name, imported in GRAPH.items()
        if not name.startswith((f'{LAB}.', *DOORS))
        and (found := {one for one in imported if one.startswith(f'{LAB}.')})
    }
    assert upward == {}


def test_nothing_imports_the_commands():
    upward = {
        name
        for name, imported in GRAPH.items()
        if not name.startswith(DOORS)
        and any(one.startswith(COMMANDS) for one in imported)
    }
    assert upward == set()


def test_the_lab_has_no_circle():
    lab = {
        name: {one for one in imported if one.startswith(f'{LAB}.')}
        for name, imported in GRAPH.items()
        if name.startswith(f'{LAB}.')
    }
    # Take away what imports nothing that is left, again and again.
    while free := {name for name, imported in lab.items() if not imported & lab.keys()}:
        lab = {name: imported for name, imported in lab.items() if name not in free}
    assert lab == {}


def run(code):
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_does_not_load_the_lab():
    code = (
        'import sys, frskd_mm.engine, frskd_mm.registry as registry\n'
        'for name in registry.__all__:\n'
        '    getattr(registry, name).import_from_location()\n'
        'assert "frskd_mm.models.distillers.frskd" in sys.modules\n'
        'print([name for name in sys.modules if name.startswith("frskd_mm.lab")])'
    )
    assert run(code).splitlines()[-1] == '[]'


def test_the_demo_needs_nothing_of_one_system_alone():
    code = (
        'import sys\n'
        'sys.modules.update(fcntl=None, resource=None)\n'
        'sys.argv = ["demo.py", "--help"]\n'
        'import runpy\n'
        'runpy.run_path("tools/demo.py", run_name="__main__")'
    )
    assert '--task' in run(code)
