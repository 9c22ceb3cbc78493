"""The command line as users meet it: exit codes, messages, start-up time, progress and tables."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.cli.common import print_table, progress
from voxtal.cli.main import VERBS
from voxtal.structures.structure_set import StructureSet

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
VOXTAL = Path(sys.executable).with_name("voxtal")


def _voxtal(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(VOXTAL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **options)


def _fastest(command: list[str], tries: int = 3) -> float:
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize("command", [[str(VOXTAL), "--help"], [sys.executable, "-c", "import voxtal"]])
def test_starting_takes_less_than_a_second(command: list[str]) -> None:
    """One heavy import at the top of a verb's module would make every command wait for torch."""
    assert _fastest(command) < 1.0


def test_help_lists_every_verb_and_an_example() -> None:
    """A verb that is not listed does not exist for the user."""
    answer = _voxtal("--help")
    assert answer.returncode == 0
    assert all(f" {verb} " in answer.stdout for verb in VERBS)
    assert "voxtal round --run" in answer.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    """The contract: all verbs have --help with an example, and it loads nothing heavy."""
    code = (
        "import sys; from voxtal.cli.main import build_app; "
        "app = build_app(); sys.argv = ['voxtal', sys.argv[1], '--help']\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pymatgen', 'chgnet', 'ase', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "xample" in answer.stdout


@pytest.mark.parametrize(
    "arguments", [["no-such-verb"], ["status", "--no-such-option"], ["status", "--run"], ["train"]]
)
def test_wrong_use_exits_2_without_a_traceback(arguments: list[str]) -> None:
    """Scripts tell wrong use from a failure by the code."""
    answer = _voxtal(*arguments)
    assert answer.returncode == 2
    assert answer.stderr
    assert "Traceback" not in answer.stderr


def test_wrong_input_exits_2_with_one_message(tmp_path: Path) -> None:
    """A configuration typo must name the key and the right one, and nothing else."""
    (tmp_path / "voxtal.toml").write_text("[generate]\nnn = 3\n")
    for verb in ("status", "report", "round"):
        answer = _voxtal(verb, "--run", tmp_path)
        assert answer.returncode == 2
        assert answer.stdout == ""
        assert answer.stderr.startswith("voxtal: ")
        assert answer.stderr.count("\n") == 1
        assert "'generate.nn'" in answer.stderr
        assert "'n'" in answer.stderr


def _script(body: str) -> str:
    """A program whose one command is ``body``, run as voxtal runs its verbs."""
    return textwrap.dedent(
        """
        import sys, time, typer
        from voxtal.cli.common import run_command
        app = typer.Typer(pretty_exceptions_enable=False)
        @app.command()
        def command():
        {body}
        sys.exit(run_command(app))
        """
    ).replace("{body}", textwrap.indent(body, "    "))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_exit_75(number: signal.Signals) -> None:
    """Batch scripts requeue on 75; Ctrl-C through typer alone would give 1 or 130."""
    script = _script("print('ready', flush=True); time.sleep(1000)")
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    errors = _stop(process, number)
    assert process.returncode == 75
    assert "Run the same command again" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    print('ready', flush=True); time.sleep(1000)\nexcept: pass\nwhile True: time.sleep(0.01)",
        "class A:\n    def __del__(self): print('ready', flush=True); time.sleep(1000)\n"
        "a = A(); del a\nwhile True: time.sleep(0.01)",
        "import weakref\nclass A: pass\n"
        "def forget(_): print('ready', flush=True); time.sleep(1000)\n"
        "a = A(); b = weakref.ref(a, forget); del a\nwhile True: time.sleep(0.01)",
    ],
    ids=["except", "__del__", "weakref"],
)
def test_a_swallowed_signal_comes_again(body: str) -> None:
    """A scheduler sends its warning once: lost in some library, it would cost the work until the kill.

    Nor may a traceback tell the user of a fault where there is none.
    """
    command = [sys.executable, "-c", _script(body)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    errors = _stop(process, signal.SIGUSR1)
    assert process.returncode == 75
    assert "Traceback" not in errors


def test_a_fault_in_a_finalizer_is_still_told() -> None:
    """What is left out for a stop signal must not hide the faults of others."""
    body = "class A:\n    def __del__(self): raise ValueError('a fault')\na = A(); del a"
    done = subprocess.run([sys.executable, "-c", _script(body)], capture_output=True, text=True, timeout=300)
    assert "ValueError: a fault" in done.stderr


def test_a_real_verb_stops_on_sigterm(tmp_path: Path, signalling_itself: Callable[[int, str, str], list[str]]) -> None:
    """A verb that catches every exception would swallow the signal."""
    command = signalling_itself(signal.SIGTERM, "voxtal.structures.prototypes._why_unlikely", "calls == 100")
    command += ["hypothetical", "Co-Hf", "-o", str(tmp_path / "out.h5")]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 75, stopped.stderr
    assert not (tmp_path / "out.h5").exists()


def _stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal, wait for the end, return what was written to stderr."""
    process.send_signal(number)
    try:
        return process.communicate(timeout=300)[1]
    finally:
        process.kill()


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """A job started with nohup or & must not end when the terminal's Ctrl-C reaches it."""
    script = _script("print('ready', flush=True); sys.stdin.read(); print('done')")
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate("", timeout=300)[0] == "done\n"
    assert process.returncode == 0


def test_an_unexpected_error_exits_1_with_its_traceback() -> None:
    """A bug that is reported without its traceback cannot be mended."""
    command = [sys.executable, "-c", _script("{}['missing']")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "KeyError: 'missing'" in answer.stderr


@pytest.fixture
def nearly_full_disk(run_directory: Path) -> Iterator[Path]:
    """The report's folder of a run, on a file system of 64 KiB."""
    folder = run_directory / "report"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_exits_1_and_says_so(nearly_full_disk: Path) -> None:
    """A full disk is no bug: the user must read what to do, and no half-written page may stay."""
    answer = _voxtal("report", "--run", nearly_full_disk.parent)
    assert answer.returncode == 1
    assert f"No space left on device: {nearly_full_disk / 'index.html'}" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(nearly_full_disk.iterdir())


@pytest.mark.slow
def test_a_full_disk_costs_no_finished_calculation(nearly_full_disk: Path) -> None:
    """A quota that is reached over night would cost the night's relaxations, or the ledger."""
    root = nearly_full_disk
    edges = [3.55 + 0.001 * k for k in range(50)]
    structures = [Structure(Lattice.cubic(a), ["Cu"] * 4, FCC) for a in edges]
    StructureSet.from_structures(structures, [f"s{k}" for k in range(50)]).write(root.parent / "in.h5")
    words = ("relax", root.parent / "in.h5", "-o", root.parent / "out.h5", "--run", root, "--calculator", "emt")
    words += ("--workers", 2)  # to start one a core may take minutes
    stopped = _voxtal(*words, "--max-steps", 0)
    assert stopped.returncode == 1
    assert "The ledger cannot be written (database or disk is full)" in stopped.stderr
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        finished = dict(ledger.execute("SELECT id, finished FROM calculations WHERE status = 'unconverged'"))
    assert finished
    subprocess.run(["mount", "-o", "remount,size=4m", str(root)], check=True)
    assert _voxtal(*words, "--max-steps", 0).returncode == 0
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        assert dict(ledger.execute("SELECT id, finished FROM calculations")).items() >= finished.items()
    assert len(StructureSet.read(root.parent / "out.h5")) == 50


def test_a_file_size_limit_exits_1_and_says_so(run_directory: Path) -> None:
    """Quotas and limits must read like a full disk; the half-written page must be gone."""
    answer = _voxtal(
        "report",
        "--run",
        run_directory,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert answer.returncode == 1
    assert "File too large" in answer.stderr
    assert "index.html" in answer.stderr
    assert not list((run_directory / "report").iterdir())


@pytest.mark.parametrize(
    "body",
    [
        "import h5py, numpy\nwith h5py.File('/dev/full', 'w') as f: f['x'] = numpy.zeros(10**6)",
        "import torch\ntorch.save(torch.zeros(10**6), '/dev/full')",
        "import sqlite3\nraise sqlite3.OperationalError('database or disk is full')",
    ],
    ids=["hdf5", "torch", "sqlite"],
)
def test_libraries_that_meet_a_full_disk_exit_1_without_a_traceback(body: str) -> None:
    """HDF5, torch and SQLite say it in their own words, each of which must be understood."""
    command = [sys.executable, "-c", _script(body)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith("voxtal: ")
    assert "Traceback" not in answer.stderr


def test_version_and_no_arguments() -> None:
    """The first things that a user types."""
    assert _voxtal("--version").stdout.startswith("voxtal ")
    answer = _voxtal()
    assert "Usage" in answer.stdout + answer.stderr


def test_progress_prints_plain_lines_when_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file must not fill with bars, and must show how it ended."""
    monkeypatch.setattr("voxtal.cli.common.time", types.SimpleNamespace(monotonic=lambda: 0.0))
    with progress("relax", 3) as advance:
        for name in "abc":
            advance(1, name)
    assert capsys.readouterr().out == "relax: 3/3 (100%), 0 s\n"
    with pytest.raises(ZeroDivisionError), progress("relax", 3) as advance:
        advance(1 // (advance(1) is not None))
    assert "relax: 1/3 (33%)" in capsys.readouterr().out


def test_tables_are_aligned_and_numbers_are_on_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs are read by eye, and by awk."""
    print_table("Rows", ["reason", "count"], [["a [b]", 5], ["longer", 1234], ["none", None]])
    assert capsys.readouterr().out.splitlines() == [
        "Rows",
        "  reason  count",
        "  a [b]       5",
        "  longer   1234",
        "  none        -",
    ]


def test_a_terminal_gets_a_bar_and_a_ruled_table() -> None:
    """On a terminal a plain line every five seconds looks like a hang."""
    code = (
        "from voxtal.cli.common import print_table, progress\n"
        "with progress('relax', 2) as advance: advance(2, '[CoHf]')\n"
        "print_table('Rows', ['a'], [['[b]']])"
    )
    leader, follower = os.openpty()
    command = [sys.executable, "-c", code]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    printed = b""
    while chunk := _read(leader):
        printed += chunk
    assert process.wait() == 0
    assert "2/2" in printed.decode()
    assert "[CoHf]" in printed.decode()
    assert "│ [b] │" in printed.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux: the other end is closed and everything is read
        return b""
