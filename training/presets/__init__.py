"""The name of a detector and a data set in, the part of a training plan that papers settle out; plain JSON values.

A preset leaves out what is a user's: `name`, and where annotations and features lie. Numbers are those of
the published configurations; where none was published, a function says "reconstruction".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.presets import actionformer, afsd, amnet, asl, bmn, cmcs, gtad, rcl, react, tadtr
from training.presets.parts import Document

_OF: Mapping[str, Mapping[str, Callable[[], Document]]] = {
    "actionformer": actionformer.PRESETS,
    "asl": asl.PRESETS,
    "amnet": amnet.PRESETS,
    "bmn": bmn.PRESETS,
    "gtad": gtad.PRESETS,
    "rcl": rcl.PRESETS,
    "react": react.PRESETS,
    "tadtr": tadtr.PRESETS,
    "afsd": afsd.PRESETS,
    "cmcs": cmcs.PRESETS,
}

PRESETS: Mapping[str, Callable[[], Document]] = {
    f"{network}/{name}": preset for network, known in _OF.items() for name, preset in known.items()
}
