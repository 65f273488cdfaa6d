"""Settings of stage cpt: continued pre-training on documents."""

from typing import ClassVar

from steps.settings.training import Adapted, Optimization, Packed


class Cpt(Optimization, Packed, Adapted):
    """Stage cpt, continued pre-training on documents: of a data set, or those of mixture."""

    grows: ClassVar[bool] = True
