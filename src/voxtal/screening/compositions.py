"""Compositional validity: can the elements of a formula have charges that cancel?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from voxtal.parallel.communicator import Communicator
from voxtal.parallel.tasks import results

OXIDATION_STATES = "smact14"
"""SMACT's table of oxidation states that CDVAE (arXiv:2110.06197) and the papers after it use."""

_AT_ONCE = 64


def compositionally_valid(formulas: Sequence[str], communicator: Communicator) -> list[bool]:
    """Whether each formula passes SMACT's rules: neutral, electronegativities in order; alloys pass (SMACT's default).

    Collective; equal formulas are judged once. SMACT: Davies et al., J. Open Source Softw. 4, 1361 (2019),
    doi:10.21105/joss.01361; the settings are those of CDVAE's validity.
    """
    distinct = list(dict.fromkeys(formulas))
    blocks = [distinct[first : first + _AT_ONCE] for first in range(0, len(distinct), _AT_ONCE)]
    judged = results(communicator, len(blocks), lambda block: [_neutral(formula) for formula in blocks[block]])
    verdicts = dict(zip(distinct, (verdict for part in judged for verdict in part), strict=True))
    return [verdicts[formula] for formula in formulas]


def _neutral(formula: str) -> bool:
    from smact.screening import smact_validity

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without an electronegativity
        return bool(smact_validity(formula, use_pauling_test=True, oxidation_states_set=OXIDATION_STATES))
