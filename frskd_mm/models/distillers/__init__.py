"""Self-distillation methods."""

from .base import BaseDistiller
from .byot import BYOT
from .consistency import Consistency
from .cs_kd import CSKD
from .ddgsd import DDGSD
from .dlb import DLB
from .frskd import FRSKD
from .frskd_sla import FRSKDSLA
from .one import ONE
from .pretrained_teacher import PretrainedTeacher
from .ps_kd import PSKD
from .sad import SAD
from .sla import SLA
from .tf_kd import TfKDReg
from .uskd import USKD
from .zipf_ls import ZipfLS

__all__ = [
    'BYOT',
    'CSKD',
    'DDGSD',
    'DLB',
    'FRSKD',
    'FRSKDSLA',
    'ONE',
    'PSKD',
    'SAD',
    'SLA',
    'USKD',
    'BaseDistiller',
    'Consistency',
    'PretrainedTeacher',
    'TfKDReg',
    'ZipfLS',
]
