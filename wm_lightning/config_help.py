"""The text of `python run.py --help`: every group and option with the sentence its file begins with.

Hydra can list groups too, but takes a second for it and knows no descriptions.
"""

import re
from pathlib import Path

# Where a sentence ends, which is not after an abbreviation ("eq. 7") or dots that leave out numbers.
_END = re.compile(r"\. (?!\d)")
_USAGE = """\
wm_lightning: action-conditioned video world models, from data to a real-time simulator

Usage: python run.py [experiment=NAME] [task=VERB] [size=debug|small|paper] [key=value ...]

  experiment=NAME                train what the experiment says and write its results
  task=VERB ckpt_path=FILE       do something else with a checkpoint: its own settings, then the ones given
  run_dir=DIR ckpt_path=last     continue the run in DIR, or start it there
  ablation=NAME                  every point of a grid
  -m seed=1,2,3                  a grid of one's own
  --cfg job                      print the composed configuration and stop
  --hydra-help                   Hydra's own options

A value on the command line wins over every file, size=... wins over experiment=...
Tab completion: eval "$(python run.py -sc install=bash)"

Groups (group=option):
"""


def help_text(*folders: Path) -> str:
    """Usage, then the groups found as folders of YAML files in `folders`."""
    groups = sorted({path.parent for folder in folders for path in folder.glob("*/*.yaml")}, key=lambda path: path.name)
    return _USAGE + "\n".join(_group(group) for group in groups) + "\n"


def _group(group: Path) -> str:
    options = sorted(group.glob("[!_]*.yaml"))
    width = max(len(option.stem) for option in options)
    lines = [f"    {option.stem:{width}}  {_sentence(option)}".rstrip() for option in options]
    return "\n".join([f"  {group.name}", *lines])


def _sentence(option: Path) -> str:
    """The comment that a file begins with, up to its first full stop; Hydra's `@package` line is not one."""
    comment = []
    for line in option.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comment.append(line.lstrip("# "))
    return _END.split(" ".join(comment))[0].rstrip(".")
