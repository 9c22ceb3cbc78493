from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from pymatgen.core import Lattice, Structure

from voxtal.active.rounds import relax_selected, relaxed_path
from voxtal.cli.common import run_command
from voxtal.cli.relax import relax
from voxtal.errors import EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from voxtal.ledger import Ledger
from voxtal.runs import Run
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def cu3au(edge: float) -> Structure:
    return Structure(Lattice.cubic(edge), ["Au", "Cu", "Cu", "Cu"], FCC)


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    path = tmp_path / "in.h5"
    collapsed = Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0.1, 0, 0]])
    StructureSet.from_structures([cu3au(3.7), cu3au(3.9), collapsed], ["a", "b", "c"]).write(path)
    return path


def call(*arguments: object) -> int:
    app = typer.Typer()
    app.command()(relax)
    command = typer.main.get_command(app)
    return run_command(lambda: command.main([str(a) for a in arguments], standalone_mode=False))


def test_structures_become_labelled_structures(structures, tmp_path, capsys):
    """The verb would not write labels, or hide what failed."""
    output = tmp_path / "out.h5"
    arguments = (structures, "-o", output, "--run", tmp_path, "--calculator", "emt", "--max-steps", 60)
    assert call(*arguments, "--workers", 1) == EXIT_DONE
    printed = capsys.readouterr().out
    assert "failed: atoms closer than 0.5 A" in printed
    assert "Lowest formation energy: -0.009 eV/atom, Cu3Au (" in printed
    labelled = StructureSet.read(output)
    assert list(labelled.ids) == ["a", "b"]
    assert labelled.properties[FORMATION_ENERGY] == pytest.approx(-0.0095, abs=0.002)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts()["training", "failed"] == 1


def test_a_folder_of_cifs_can_be_relaxed(tmp_path, capsys):
    """A user without a structure set would have no way in."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "good.cif").write_text(cu3au(3.75).to(fmt="cif"))
    (folder / "bad.cif").write_text("data_bad\nno crystal here\n")
    assert call(folder, "-o", tmp_path / "out.h5", "--run", tmp_path, "--calculator", "emt") == EXIT_DONE
    assert len(StructureSet.read(tmp_path / "out.h5")) == 1
    assert "1 not read" in capsys.readouterr().out


def test_a_folder_as_output_has_it_all_for_other_programs(structures, tmp_path):
    """Relaxed structures could be read by voxtal alone, or failures be lost."""
    output = tmp_path / "out"
    assert call(structures, "-o", output, "--run", tmp_path, "--calculator", "emt", "--workers", 1) == EXIT_DONE
    assert len(StructureSet.read(output / "relaxed.h5")) == 2
    assert sorted(path.name for path in (output / "cif").iterdir()) == ["a.cif", "b.cif"]
    assert Structure.from_file(output / "cif" / "a.cif").composition.reduced_formula == "Cu3Au"
    failed = (output / "failed.csv").read_text().splitlines()
    assert failed[1:] == ["c,failed,atoms closer than 0.5 A,1,"]
    for name in ("relaxed.extxyz", "entries.json", "table.csv"):
        assert (output / name).stat().st_size > 0


def test_what_has_failed_is_run_again_when_asked(structures, tmp_path):
    """After mending what made calculations fail, the ledger would go on to say that they do."""
    arguments = (structures, "-o", tmp_path / "out.h5", "--run", tmp_path, "--calculator", "emt", "--workers", 1)
    when = []
    for more in ((), (), ("--retry",)):
        assert call(*arguments, *more) == EXIT_DONE
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            rows = [row for row in ledger.calculations() if row["purpose"] == "training"]
        when.append({row["id"]: row["finished"] for row in rows})
    assert when[0] == when[1]
    assert {id for id in when[0] if when[1][id] != when[2][id]} == {"c"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calculator", "emtt"), "Unknown calculator 'emtt'"),
        (("--set", "relax.worker=2"), "did you mean 'workers'"),
    ],
)
def test_wrong_options_are_told_at_once(structures, tmp_path, capsys, arguments, message):
    """A typo would be found after minutes, or end in a traceback."""
    assert call(structures, "-o", tmp_path / "out.h5", "--run", tmp_path, *arguments) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_a_missing_or_useless_input_is_refused(tmp_path, capsys):
    """A wrong path, or a set that the calculator cannot do at all, would look like success."""
    assert call(tmp_path / "no.h5", "--run", tmp_path) == EXIT_USAGE
    hafnium = tmp_path / "hf.h5"
    StructureSet.from_structures([Structure(Lattice.cubic(3), ["Hf"], [[0, 0, 0]])], ["hf"]).write(hafnium)
    output = tmp_path / "out.h5"
    assert call(hafnium, "-o", output, "--run", tmp_path, "--calculator", "emt") == EXIT_USAGE
    answer = capsys.readouterr()
    assert "failed: EMT has no parameters for Hf" in answer.out
    assert "No structure could be labelled" in answer.err
    assert not output.exists()


@pytest.mark.slow
def test_sigterm_stops_within_seconds_and_the_next_call_carries_on(tmp_path):
    """A Slurm job at its time limit would lose its work or be killed in the middle of a write."""
    source = tmp_path / "in.h5"
    edges = [3.6 + 0.001 * k for k in range(24)]
    StructureSet.from_structures([cu3au(e) for e in edges], [f"s{k}" for k in range(24)]).write(source)
    script = tmp_path / "relax.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from voxtal.cli.common import run_command\nfrom voxtal.cli.relax import relax\n"
        "if __name__ == '__main__':\n"
        "    root = Path(sys.argv[1])\n"
        "    files = root / 'in.h5', root / 'out.h5'\n"
        "    sys.exit(run_command(lambda: relax(*files, 'held_calculator:Held', 60, 0.005, 2, root)))\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stderr=subprocess.PIPE, text=True, env=environment | {"HELD": "1"}
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        deadline = time.monotonic() + 600
        try:
            while ledger.counts().get(("training", "converged"), 0) < 3:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()  # its calculations would go on for hours
        assert process.returncode == EXIT_RESUMABLE
        assert "Run the same command again" in err
        counts = ledger.counts()
        assert counts["training", "converged"] >= 3
        assert ("training", "running") not in counts
    assert subprocess.run([sys.executable, script, tmp_path], env=environment).returncode == EXIT_DONE
    assert len(StructureSet.read(tmp_path / "out.h5")) == 24


def selected_of(run: Run, n: int) -> StructureSet:
    """Candidates that wait to be relaxed; none of them has been."""
    candidates = StructureSet.from_structures([cu3au(3.6 + 0.01 * k) for k in range(n)], [f"r0-{k}" for k in range(n)])
    candidates.write(run.round(0).screen / "selected.h5")
    return candidates


def in_another_process(run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("voxtal")), "relax", "--queue", "--run", str(run.root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_processes_share_the_selected_candidates_and_the_round_collects_them(trained_run, quiet, signalling_itself):
    """An array job would relax candidates twice, wait for the others' ones, or leave those of a killed task undone."""
    selected = selected_of(trained_run, 30)
    at = "voxtal.workflows.pool.Worker.give"  # once a calculation has been claimed
    first = signalling_itself(signal.SIGKILL, at, "given[1].purpose == 'candidate'")
    killed = subprocess.run(
        [*first, "relax", "--queue", "--run", str(trained_run.root)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    with Ledger(trained_run.ledger) as ledger:
        assert ledger.counts()["candidate", "running"] == 1
        others = [in_another_process(trained_run) for _ in range(2)]
        said = [process.communicate(timeout=900)[0] for process in others]
        assert [process.returncode for process in others] == [0, 0]
        rows = [row for row in ledger.calculations() if row["purpose"] == "candidate"]
    assert {row["id"] for row in rows} == set(selected.ids)
    assert sorted(row["attempts"] for row in rows) == [1] * 29 + [2]
    assert all("voxtal round" in text for text in said)
    relax_selected(trained_run, trained_run.round(0), quiet)
    relaxed = StructureSet.read(relaxed_path(trained_run.round(0)))
    assert list(relaxed.ids) == list(selected.ids)
    with Ledger(trained_run.ledger) as ledger:
        assert sorted(row["attempts"] for row in ledger.calculations() if row["purpose"] == "candidate")[-1] == 2


def test_selected_candidates_have_to_be_there_and_settings_are_the_runs(trained_run, capsys):
    """Candidates relaxed with settings of their own would be relaxed again by the round."""
    assert call("--queue", "--run", trained_run.root) == EXIT_DONE
    assert "Nothing waits" in capsys.readouterr().out
    assert call("--queue", "--max-steps", 3, "--run", trained_run.root) == EXIT_USAGE
    assert "change the settings in voxtal.toml" in capsys.readouterr().err
