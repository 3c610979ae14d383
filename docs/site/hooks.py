"""What MkDocs calls while it builds the site, see ``mkdocs.yml``.

The pages of ``docs/`` are written to be read in the repository, too, and link files
outside of it. Here those files join the site, and the links are turned to them. The
configuration reference gets a page for each kind of registered part, made from the
docstrings.
"""

import ast
import json
import os.path as osp
import posixpath
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the repository's root and of the configs: their places in the site.
PAGES = {
    'README.md': 'index.md',
    'README_zh-CN.md': 'zh-CN.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'configs/README.md': 'configs.md',
}
LINK = re.compile(r'(\]\()(?![a-z+]+:|#|/)([^)#\s]+)')
#: HTML, for pictures of a given width; MkDocs leaves it as it is.
IMAGE = re.compile(r'(<img src=")([^":]+)')
CODE = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)


HTML = 'index.html'


class Part(NamedTuple):
    """A registered class or function."""

    registry: str
    name: str
    #: Where it is defined, as Python imports it.
    path: str


class Kind(NamedTuple):
    """Parts that share a page of the reference."""

    title: str
    #: What one reads before them.
    introduction: str
    #: Registry, and the beginning of the modules.
    registry: str
    module: str


KINDS: Dict[str, Kind] = {
    'distillers': Kind(
        'Distillers',
        'The methods: `model.distiller` of a config. `student` and `student_cfg` are '
        'handed over by `Distilled`; a config has the other arguments.',
        'MODELS',
        'frskd_mm.models.distillers',
    ),
    'losses': Kind(
        'Losses',
        'What compares student and teacher: `soft_label` and `feature_loss` of a '
        'distiller.',
        'MODELS',
        'frskd_mm.models.losses',
    ),
    'necks': Kind(
        'Necks', 'What refines the maps: `neck`.', 'MODELS', 'frskd_mm.models.necks'
    ),
    'backbones': Kind(
        'Backbones',
        'Students that the host libraries do not have.',
        'MODELS',
        'frskd_mm.models.backbones',
    ),
    'models': Kind(
        'The distilled model',
        'The student with its distiller, label guidance, and the schedule of the '
        'weights.',
        'MODELS',
        'frskd_mm.models',
    ),
    'hooks': Kind('Hooks', '`default_hooks` and `custom_hooks`.', 'HOOKS', ''),
    'datasets': Kind('Data sets', '`dataset` of a data loader.', 'DATASETS', ''),
    'transforms': Kind('Transforms', 'Steps of a pipeline.', 'TRANSFORMS', ''),
    'functions': Kind('Functions', '`collate_fn` of a loader.', 'FUNCTIONS', ''),
    'metrics': Kind('Metrics', '`val_evaluator`, `test_evaluator`.', 'METRICS', ''),
    'visualizers': Kind('Visualizers', '`visualizer`.', 'VISUALIZERS', ''),
    'strategies': Kind(
        'Strategies', '`strategy` of a `FlexibleRunner`.', 'STRATEGIES', ''
    ),
    'readers': Kind(
        "Readers of detectors' heads",
        'What says which outputs of a head are compared; chosen by themselves.',
        'HEAD_READERS',
        '',
    ),
}


def registered_parts(root: Path = ROOT) -> Iterator[Part]:
    """Find the registered parts in the source, without importing any of it."""
    for path in sorted((root / 'frskd_mm').rglob('*.py')):
        module = '.'.join(path.relative_to(root).with_suffix('').parts)
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            for decorator in node.decorator_list:
                found = re.match(
                    r"(\w+)\.register_module\((?:name='(\w+)')?\)",
                    ast.unparse(decorator),
                )
                if found:
                    registry, name = found.groups()
                    yield Part(registry, name or node.name, f'{module}.{node.name}')


def reference_pages(root: Path = ROOT) -> Dict[str, Tuple[str, List[Part]]]:
    """Return the reference's pages: title and parts by the page's name.

    Raises:
        ValueError: If a part has no page.
    """
    pages: Dict[str, Tuple[str, List[Part]]] = {}
    for part in registered_parts(root):
        for name, kind in KINDS.items():
            if part.registry == kind.registry and part.path.startswith(kind.module):
                pages.setdefault(name, (kind.title, []))[1].append(part)
                break
        else:
            raise ValueError(
                f'{part.path} has no page in the reference: add a kind '
                f'for {part.registry} to KINDS in docs/site/hooks.py.'
            )
    return {name: pages[name] for name in KINDS if name in pages}


def _reference_text(name: str, parts: List[Part]) -> str:
    kind = KINDS[name]
    lines = [f'# {kind.title}', '', kind.introduction, '']
    for part in sorted(parts, key=lambda part: part.name.lower()):
        lines += [f'::: {part.path}', '    options:']
        lines += [f'      heading: frskd_mm.{part.name}']
        lines += [f'      toc_label: {part.name}', '']
    return '\n'.join(lines)


def notebook_text(notebook: Dict[str, Any], name: str) -> str:
    """Return a notebook, with what its cells gave, as a page."""
    parts: List[str] = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code':
            parts.append(source)
            continue
        parts.append(f'```python\n{source}\n```')
        for output in cell['outputs']:
            data = output.get('data', {'text/plain': output.get('text', '')})
            data = {kind: ''.join(lines) for kind, lines in data.items()}
            if 'image/png' in data:
                picture = data['image/png'].replace('\n', '')
                parts.append(f'![Output](data:image/png;base64,{picture})')
            elif 'text/markdown' in data:
                parts.append(data['text/markdown'])
            else:
                parts.append(f'```text\n{data["text/plain"].rstrip()}\n```')
    parts.append(f'[The notebook as a file]({name})')
    return '\n\n'.join(parts) + '\n'


def _site_place(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith('docs/'):
        return path[len('docs/') :]
    return f'repository/{path}'


def _repository_place(uri: str) -> str:
    """Return the file of the repository that a page was made from."""
    for path, place in PAGES.items():
        if place == uri:
            return path
    return f'docs/{uri}'


def _outside_code(text: str, pattern: 're.Pattern[str]') -> Iterator[str]:
    for match in pattern.finditer(CODE.sub('', text)):
        yield match.group(2)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let headings have the anchors that the repository's pages link."""
    config.mdx_configs['toc']['slugify'] = slugify(case='lower')
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of ``docs``, what pages link, and the reference."""
    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for name, (_, parts) in reference_pages().items():
        text = _reference_text(name, parts)
        files.append(File.generated(config, f'reference/{name}.md', content=text))
    for path in sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb')):
        text = notebook_text(json.loads(path.read_text(encoding='utf-8')), path.name)
        place = f'notebooks/{path.stem}.md'
        files.append(File.generated(config, place, content=text))
    for page in list(files.documentation_pages()):
        source = _repository_place(page.src_uri)
        if not (ROOT / source).is_file():
            continue
        for link in _outside_code(page.content_string, LINK):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            place = _site_place(path)
            known = files.get_file_from_path(place)
            if known is None and osp.isfile(ROOT / path):
                files.append(
                    File.generated(config, place, abs_src_path=str(ROOT / path))
                )
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turn links to files of the repository to their places in the site."""
    source = _repository_place(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def place_of(link: str) -> str:
        return _site_place(
            posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        )

    def turned(text: str) -> str:
        for pattern, start in ((LINK, here), (IMAGE, page.file.dest_uri[: -len(HTML)])):
            text = pattern.sub(
                lambda match, start=start: (
                    match.group(1)
                    + posixpath.relpath(place_of(match.group(2)), start or '.')
                ),
                text,
            )
        return text

    parts: List[str] = []
    end = 0
    for code in CODE.finditer(markdown):
        parts += [turned(markdown[end : code.start()]), code.group()]
        end = code.end()
    return ''.join([*parts, turned(markdown[end:])])


def on_env(env: Any, config: MkDocsConfig, files: Files) -> Any:
    """Refuse what a reader's browser would fetch from elsewhere."""
    if config.theme['font']:
        raise ValueError('theme.font fetches from a web service: set it to false.')
    return env
