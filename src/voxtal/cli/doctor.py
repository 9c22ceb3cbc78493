"""``voxtal doctor``: what is wrong with an installation or a job, and how to mend it."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.cli.common import RunOption, print_table
from voxtal.errors import EXIT_FAILED

if TYPE_CHECKING:
    from voxtal.diagnosis.examination import Facts
    from voxtal.diagnosis.findings import Finding
    from voxtal.parallel.data_parallel import Launch

PATIENCE_SECONDS = 180.0


def doctor(
    run: RunOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print findings and facts as JSON.")] = False,
) -> None:
    """Look at the installation, the launcher and the machine; say what is wrong and how to mend it.

    Alone, or as the ranks of a job: under mpirun, srun, torchrun or horovodrun it also tells whether ranks see each
    other, their GPUs and cores, and the same run directory. Exit code 1 when something is wrong.

    Example: voxtal doctor --run runs/co-hf

    Example: srun --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 voxtal doctor --run runs/co-hf
    """
    from voxtal.diagnosis.examination import examine, judge
    from voxtal.diagnosis.findings import Verdict
    from voxtal.parallel.data_parallel import launch_of

    launch = launch_of(os.environ)
    watch = _watch(launch)
    facts = examine(run, launch)
    watch.cancel()
    if facts is None:
        return
    findings = judge(facts)
    if as_json:
        print(json.dumps(_tree(findings, facts), indent=2))
    else:
        _print(findings)
    if any(finding.verdict is Verdict.WRONG for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _watch(launch: Launch) -> threading.Timer:
    """End this rank when the others do not answer, so that nothing hangs."""

    def give_up() -> None:
        print(
            f"ranks: wrong: the {launch.size} ranks that {launch.launcher} started did not all answer within "
            f"{PATIENCE_SECONDS:.0f} s. Look for nodes that do not reach each other (network interface, firewall).",
            flush=True,
        )
        os._exit(EXIT_FAILED)

    timer = threading.Timer(PATIENCE_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    return timer


def _print(findings: Sequence[Finding]) -> None:
    rows = [(f.check, f.verdict.value, f.found, f.mend) for f in findings]
    print_table("voxtal doctor", ("check", "verdict", "found", "how to mend it"), rows)
    counts = Counter(f.verdict.value for f in findings)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "warning", "wrong") if counts[verdict]))


def _tree(findings: Sequence[Finding], facts: Facts) -> dict[str, Any]:
    worst = next((v for v in ("wrong", "warning") if any(f.verdict.value == v for f in findings)), "ok")
    tree = {"verdict": worst, "findings": [dataclasses.asdict(f) for f in findings]}
    return {**tree, "facts": _plain(dataclasses.asdict(facts))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
