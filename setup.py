"""Packaging of the toolkit."""

import re
from pathlib import Path
from typing import List

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Read the version without importing the package and its dependencies."""
    text = (ROOT / 'frskd_mm' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text).group(1)


def read_requirements(name: str) -> List[str]:
    """Read requirements/NAME.txt, with the files that it includes."""
    requirements = []
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    for line in text.splitlines():
        if line.startswith('-r '):
            requirements += read_requirements(line[3:].strip()[: -len('.txt')])
        elif line and not line.startswith('#'):
            requirements.append(line)
    return requirements


setup(
    name='frskd_mm',
    version=read_version(),
    description='Feature-refinement self-distillation for the OpenMMLab libraries',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='computer vision, self-distillation, knowledge distillation, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['frskd_mm', 'frskd_mm.*']),
    # frskd_mm/.mim links to the configs and tools, so that frskd_mm::... config paths
    # and `mim train frskd_mm` work in a checkout; source distributions and wheels
    # hold copies.
    package_data={
        'frskd_mm': [
            '.mim/*.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/tools/*.py',
        ],
    },
    # It tries models for docs/models.md, which only a checkout has.
    exclude_package_data={'frskd_mm': ['.mim/tools/check_models.py']},
    entry_points={'console_scripts': ['frskd = frskd_mm.commands.main:main']},
    python_requires='>=3.8',
    # Deliberately empty. torch and the OpenMMLab packages are there already in the
    # project that this toolkit joins, under one of two families of distribution
    # names. Any name here would be the wrong one for half of the users, and pip
    # would install a second copy over the first. Importing the package says what
    # is missing, with the pip line for the family at hand.
    install_requires=[],
    extras_require={
        # For the maintained packages; its tests skip where it is absent.
        'rotated': ['onedl-mmrotate==1.2.1', 'faster_coco_eval>=1.6.7'],
        **{
            name: read_requirements(name)
            for name in (
                'maintained',
                'classic',
                'demo',
                'deploy',
                'docs',
                'pretrained',
                'test',
            )
        },
    },
    zip_safe=False,
)
