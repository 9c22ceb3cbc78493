"""A calculator that is still at work whenever it is stopped."""

import os
import time

from voxtal.calculators.emt import EMTCalculator


class Held(EMTCalculator):
    """EMT; where HELD is set, compounds beyond the first three of the test take for ever."""

    def relax(self, structure, settings, folder=None):
        if "HELD" in os.environ and len(structure.composition) == 2 and structure.lattice.a > 3.6025:
            time.sleep(1000)
        return super().relax(structure, settings, folder)
