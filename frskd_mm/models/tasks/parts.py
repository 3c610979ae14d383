"""Which models have the parts that are refined and built a second time."""

from mmengine.model import BaseModel

#: Attributes of models around others -> what to give instead.
WRAPPERS = {
    'student': 'Give the config of the model inside, with labelled images.',
    'detector': 'Give the config of the detector inside.',
    'model': "Let the library's own classifier have the other library's network as "
    "its backbone, such as backbone=dict(type='TIMMBackbone', ...).",
}


def check_parts(student: BaseModel, *parts: str) -> None:
    """Require a backbone and some part that scores its features.

    Args:
        student: The built student.
        *parts: Names of heads; it has to have one of them.

    Raises:
        TypeError: If there is none.
    """
    has = [name for name in parts if getattr(student, name, None) is not None]
    if has and getattr(student, 'backbone', None) is not None:
        return
    missing = 'head' if getattr(student, 'backbone', None) is not None else 'backbone'
    inside = (text for name, text in WRAPPERS.items() if hasattr(student, name))
    advice = next(inside, 'Distil a model with a backbone and a head.')
    raise TypeError(
        f'{type(student).__name__} has no {missing} of its own, but what a '
        "self-teacher refines and scores are a backbone's features and the head "
        f'behind them. {advice}'
    )
