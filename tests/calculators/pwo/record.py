"""Makes the recorded outputs beside it with a real pw.x: how every kind of end comes about.

    python tests/calculators/pwo/record.py FOLDER [--pseudo /usr/share/espresso/pseudo]

Writes NAME.pwo.gz to FOLDER and prints exit codes. Those beside it were made with pw.x 6.7 of Debian 12, which has both
pseudopotentials; another version may end in other ways. The relaxation that is killed is killed in its sixth step.
"""

from __future__ import annotations

import argparse
import gzip
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BASE = """&CONTROL
 calculation='vc-relax', prefix='voxtal', outdir='./out', pseudo_dir='{pseudo}', nstep=50, forc_conv_thr=4e-4,
 etot_conv_thr=1e-5, tprnfor=.true., tstress=.true.
/
&SYSTEM
 ibrav=0, nat=2, ntyp=1, ecutwfc=16, ecutrho=64, occupations='smearing', smearing='mv', degauss=0.01
/
&ELECTRONS
 conv_thr=1e-8
/
&IONS
/
&CELL
 press_conv_thr=0.5
/
ATOMIC_SPECIES
Si 28.085 Si.pbe-rrkj.UPF
K_POINTS automatic
2 2 2 0 0 0
CELL_PARAMETERS angstrom
0.0 2.8 2.8
2.75 0.0 2.75
2.75 2.8 0.0
ATOMIC_POSITIONS angstrom
Si 0 0 0
Si 1.40 1.40 1.34
"""

RELAX, SCF = {"vc-relax": "relax"}, {"vc-relax": "scf"}
TWO_ITERATIONS = {"conv_thr=1e-8": "conv_thr=1e-8, electron_maxstep=2"}
AT_REST = {"0.0 2.8 2.8": "0.0 2.73 2.73", "2.75 0.0 2.75": "2.73 0.0 2.73", "2.75 2.8 0.0": "2.73 2.73 0.0"}
AT_REST |= {"1.40 1.40 1.34": "1.365 1.365 1.365", "2 2 2 0": "4 4 4 0"}
SMALL = {"0.0 2.8 2.8": "0.0 2.4 2.4", "2.75 0.0 2.75": "2.4 0.0 2.4", "2.75 2.8 0.0": "2.4 2.4 0.0"}
SMALL |= {"1.40 1.40 1.34": "1.2 1.2 1.2", "press_conv_thr=0.5": "press_conv_thr=0.5, cell_factor=1.0"}
NICKEL = {"Si 28.085 Si.pbe-rrkj.UPF": "Ni 58.693 Ni.pbe-nd-rrkjus.UPF", "Si 0 0 0": "Ni 0 0 0"}
ONE_NICKEL = NICKEL | {"nat=2": "nat=1, nspin=2, starting_magnetization(1)=0.4", "Si 1.40 1.40 1.34\n": ""}
ONE_NICKEL |= {"ecutwfc=16, ecutrho=64": "ecutwfc=10, ecutrho=40", "0.0 2.8 2.8": "0.0 1.76 1.76"}
ONE_NICKEL |= {"2.75 0.0 2.75": "1.76 0.0 1.76", "2.75 2.8 0.0": "1.76 1.76 0.0"}
CRUSHED = NICKEL | {"Si 1.40 1.40 1.34": "Ni .6 .6 .6", "ecutwfc=16, ecutrho=64": "ecutwfc=5, ecutrho=20"}
CRUSHED |= {"0.0 2.8 2.8": "0.0 1.2 1.2", "2.75 0.0 2.75": "1.2 0.0 1.2", "2.75 2.8 0.0": "1.2 1.2 0.0"}
TOO_EXACT = RELAX | {"nstep=50": "nstep=200, max_seconds=60", "forc_conv_thr=4e-4": "forc_conv_thr=1e-9"}
TOO_EXACT |= {"etot_conv_thr=1e-5": "etot_conv_thr=1e-14", "conv_thr=1e-8": "conv_thr=1e-2"}


@dataclass(frozen=True)
class Case:
    """What is changed in :data:`BASE`, and what happens while pw.x runs."""

    changes: dict[str, str]
    kill_in_step: int = 0
    after: str = ""
    """Goes on with the scratch of this case."""


CASES = {
    "vc-relax-converged": Case(SMALL),
    "vc-relax-out-of-steps": Case({"nstep=50": "nstep=3"}),
    "vc-relax-scf-unconverged": Case(TWO_ITERATIONS),
    "vc-relax-walltime": Case({"nstep=50": "nstep=50, max_seconds=2"}),
    "vc-relax-restarted": Case({"nstep=50": "nstep=50, restart_mode='restart'"}, after="vc-relax-walltime"),
    "relax-converged": Case(RELAX),
    "relax-out-of-steps": Case(RELAX | {"nstep=50": "nstep=1"}),
    "relax-bfgs-gave-up": Case(TOO_EXACT),
    "scf-converged": Case(SCF | AT_REST),
    "scf-unconverged": Case(SCF | TWO_ITERATIONS),
    "c_bands": Case({"conv_thr=1e-8": "conv_thr=1e-8, diagonalization='cg', diago_cg_maxiter=1"}),
    "bad-keyword": Case({"nstep=50": "nsteps=50"}),
    "no-pseudopotential": Case({"Si.pbe-rrkj.UPF": "Si.none.UPF"}),
    "truncated-pseudopotential": Case({"{pseudo}": ".", "Si.pbe-rrkj.UPF": "truncated.UPF"}),
    "more-bands-than-waves": Case(CRUSHED),
    "aborted": Case(ONE_NICKEL),
    "killed": Case({}, kill_in_step=6),
}


def run(case: Case, folder: Path, pseudo: Path) -> tuple[str, int]:
    """Output and exit code of pw.x, its scratch in ``folder``."""
    text = BASE
    for old, new in case.changes.items():
        # whole settings: "conv_thr" is in other names too
        text = re.sub(rf"(?<![A-Za-z_]){re.escape(old)}" if old[0].isalpha() else re.escape(old), new, text)
    (folder / "pw.in").write_text(text.replace("{pseudo}", str(pseudo)))
    (folder / "truncated.UPF").write_text((pseudo / "Si.pbe-rrkj.UPF").read_text()[:3000])
    output = folder / "pw.out"
    with open(output, "w") as file:
        process = subprocess.Popen(
            ["pw.x", "-in", "pw.in"], cwd=folder, stdout=file, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        while case.kill_in_step and output.read_text().count("ATOMIC_POSITIONS") < case.kill_in_step - 1:
            time.sleep(0.01)
        if case.kill_in_step:
            process.kill()
        code = process.wait()
    return output.read_text(errors="replace"), code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pseudo", type=Path, default=Path("/usr/share/espresso/pseudo"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            folder = Path(scratch, case.after or name)
            folder.mkdir(exist_ok=True)
            text, code = run(case, folder, arguments.pseudo)
            (arguments.folder / f"{name}.pwo.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
            print(f"{name:28} exit code {code}", flush=True)


if __name__ == "__main__":
    main()
