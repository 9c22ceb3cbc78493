"""atomate2's double relaxation and static calculation, with a user's settings; inputs, fingerprint and flow from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxtal.calculators.vasp import NEUTRAL_TAGS, VaspOptions
from voxtal.calculators.vasp_labels import label

STEPS = ("relax1", "relax2", "static")

IONIC_TAGS = ("NSW", "IBRION", "ISIF", "EDIFFG", "POTIM")
"""INCAR tags that would make the static calculation a relaxation."""


def make_flow(options: VaspOptions, structure: Any, first_energy: float | None = None) -> Any:
    """Flow of the three steps and a job that turns their documents into the plain result, its output.

    Parameters
    ----------
    options : VaspOptions
        Which flow, and what is changed of it.
    structure : Structure
        What to relax.
    first_energy : float, optional
        Energy (eV) of the first structure, where ``structure`` is what an earlier start had reached.
    """
    from jobflow import Flow, job

    maker = make_maker(options)
    steps = maker.make(structure)
    relaxations, static = steps.jobs[0], steps.jobs[1]
    result = job(label, name="label")(
        *(step.output for step in (*relaxations.jobs, static)),
        corrections=options.applied_corrections,
        first_energy=first_energy,
        same_functional=options.flow != "MP24DoubleRelaxStaticMaker",
    )
    return Flow([steps, result], output=result.output, name=f"{structure.composition.reduced_formula} {maker.name}")


def make_maker(options: VaspOptions) -> Any:
    """atomate2's Maker with the user's settings in each of its input sets.

    A step that ends without convergence does not end the flow: the second relaxation goes on from the first, and
    the result says in the end what did not converge.
    """
    from atomate2.vasp.flows import mp

    maker = getattr(mp, options.flow)()
    for name, step in _steps(maker).items():
        step.input_set_generator = _changed(step.input_set_generator, options, static=name == "static")
        step.stop_children_kwargs = {"handle_unsuccessful": False}
        commands = {"vasp_cmd": options.command, "vasp_gamma_cmd": options.gamma_command or options.command}
        step.run_vasp_kwargs |= {key: command for key, command in commands.items() if command}
    return maker


def settings_hash(options: VaspOptions) -> str:
    """Hash of all that decides the inputs of the three steps, without what only changes their speed."""
    tree = {name: _settings(step.input_set_generator) for name, step in _steps(make_maker(options)).items()}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


def potcar_names(options: VaspOptions) -> list[tuple[dict[str, str], str]]:
    """For each step the POTCAR of every element, and the set (functional) that it is taken from."""
    generators = [step.input_set_generator for step in _steps(make_maker(options)).values()]
    return [(_plain_names(generator), generator.user_potcar_functional) for generator in generators]


def write_inputs(options: VaspOptions, structure: Any, folder: Path) -> list[Path]:
    """Write the inputs of each step into a folder of its name, with POTCAR.spec for POTCAR."""
    folders = []
    for name, step in _steps(make_maker(options)).items():
        inputs = step.input_set_generator.get_input_set(structure, potcar_spec=True)
        inputs.write_input(folder / name, make_dir_if_not_present=True)
        folders.append(folder / name)
    return folders


def _steps(maker: Any) -> dict[str, Any]:
    relax = maker.relax_maker
    return dict(zip(STEPS, (relax.relax_maker1, relax.relax_maker2, maker.static_maker), strict=True))


def _changed(generator: Any, options: VaspOptions, static: bool) -> Any:
    incar = {tag: value for tag, value in options.user_incar_settings.items() if not (static and tag in IONIC_TAGS)}
    return replace(
        generator,
        user_incar_settings=generator.user_incar_settings | incar,
        user_kpoints_settings=generator.user_kpoints_settings | options.user_kpoints_settings,
        user_potcar_settings=generator.user_potcar_settings | options.user_potcar_settings,
        user_potcar_functional=options.user_potcar_functional or generator.user_potcar_functional,
    )


def _settings(generator: Any) -> dict[str, Any]:
    tree = {key: value for key, value in generator.as_dict().items() if not key.startswith("@")}
    incar = tree["user_incar_settings"]
    base = tree["config_dict"]
    return tree | {
        "set": type(generator).__name__,
        "user_incar_settings": {tag: value for tag, value in incar.items() if tag not in NEUTRAL_TAGS},
        "config_dict": base | {"POTCAR": _plain_names(generator)},
    }


def _plain_names(generator: Any) -> dict[str, str]:
    table = generator.config_dict["POTCAR"] | generator.user_potcar_settings
    return {symbol: entry["symbol"] if isinstance(entry, dict) else entry for symbol, entry in table.items() if entry}
