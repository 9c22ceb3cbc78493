"""``python signals_itself.py SIGNAL AT WHEN VERB ...``: a voxtal that sends itself a signal at a place that is known.

One that is sent from outside comes anywhere, and on a slow or a fast machine too early or too late.
"""

import os
import pkgutil
import sys
from unittest.mock import patch

if __name__ == "__main__":  # worker processes import this file too
    from voxtal.cli.main import main

    number, at, when, *words = sys.argv[1:]
    sys.argv = ["voxtal", *words]
    wrapped, calls = pkgutil.resolve_name(at), 0

    def then_signal(*given, **options):
        global calls
        answer = wrapped(*given, **options)
        calls += 1
        if eval(when):
            os.kill(os.getpid(), int(number))
        return answer

    with patch(at, then_signal):
        main()
