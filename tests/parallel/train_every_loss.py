"""``voxtal train`` that logs the losses of every step; started by tests under launchers."""

from voxtal.cli.main import main
from voxtal.training import trainer

trainer.LOG_EVERY_STEPS = 1
main()
