"""Metafiles, configs, READMEs and docs agree."""

import re
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
INDEX = yaml.safe_load((REPO / 'model-index.yml').read_text())['Import']
METAFILES = [yaml.safe_load((REPO / path).read_text()) for path in INDEX]
MODELS = [model for metafile in METAFILES for model in metafile['Models']]
STATUS = ('published', 'trained here', 'example')
PAGES = [
    *sorted(REPO.glob('README*.md')),
    REPO / 'CONTRIBUTING.md',
    REPO / 'configs/README.md',
    *sorted((REPO / 'docs').rglob('*.md')),
]


def test_every_config_is_listed_once():
    listed = [model['Config'] for model in MODELS]
    configs = [
        str(path.relative_to(REPO))
        for path in (REPO / 'configs').rglob('*.py')
        if '_base_' not in path.parts
    ]
    assert sorted(listed) == sorted(configs)
    assert len(listed) >= 25


def test_the_readme_of_the_configs_says_what_each_is():
    rows = re.findall(
        r'^\| \[(\S+)\]\((\S+)\) \| (.+) \| (.+) \|$',
        (REPO / 'configs/README.md').read_text(),
        re.MULTILINE,
    )
    said = {f'configs/{path}': (name, status) for name, path, meaning, status in rows}
    assert len(said) == len(rows)
    assert said == {
        model['Config']: (model['Name'], model['Metadata']['Status'])
        for model in MODELS
    }


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_entry_names_its_config(model):
    assert Path(model['Config']).stem == model['Name']
    assert model['Metadata']['Status'] in STATUS
    assert (model.get('In Collection') == 'FRSKD') == model['Name'].startswith('frskd')


def test_collection_is_the_cited_paper():
    (collection,) = METAFILES[0]['Collections']
    cited = yaml.safe_load((REPO / 'CITATION.cff').read_text())['preferred-citation']
    assert collection['Paper'] == {'URL': cited['url'], 'Title': cited['title']}
    assert (REPO / collection['README']).is_file()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_and_commands_name_files_that_exist(page):
    text = page.read_text()
    links = re.findall(r'(?:\]\(|<img src=")(?!https?:|#)([^)#"]+)', text)
    for link in links:
        assert (page.parent / link).exists(), f'{page.name} links {link}'
    for path in re.findall(
        r'(?<![\w:/.-])((?:configs|tools)/[\w./-]+\.(?:py|sh))', text
    ):
        assert (REPO / path).is_file(), f'{page.name} names {path}'


def test_config_in_the_readme_is_the_file():
    readme = (REPO / 'README.md').read_text()
    code = re.search(r'```python\n# (configs/\S+)\n(.*?)```', readme, re.DOTALL)
    shown, written = (
        [line.split('#')[0].rstrip() for line in text.splitlines()]
        for text in (code.group(2), (REPO / code.group(1)).read_text())
    )
    assert [s for s in shown if s] == [w for w in written if w]
