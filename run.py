"""Entry point: composes the configuration and runs one task.

python run.py experiment=dmd_chunkwise size=debug

Grids are run by the launchers of `hydra_plugins`, beside this file.
"""

import sys

import hydra
from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from wm_lightning.config import CONFIG_DIR, register
from wm_lightning.config_errors import clear_errors
from wm_lightning.config_foreign import check_foreign
from wm_lightning.config_help import help_text
from wm_lightning.config_overrides import prepare_arguments, recorded


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> dict[str, float] | None:
    """Runs `config.task` in the folder that Hydra made for it."""
    from wm_lightning.launchers.stopping import heed_signals  # noqa: PLC0415  grids alone need it

    heed_signals()
    from wm_lightning.tasks.start import start  # noqa: PLC0415  loads torch, which --help and --cfg do without

    hydra_config = HydraConfig.get()
    config.run_dir = hydra_config.runtime.output_dir
    return start(config, recorded(hydra_config.overrides.task, hydra_config.runtime.choices))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(print(help_text(CONFIG_DIR, CONFIG_DIR.parent / "sweeps")))
    load_dotenv()
    register()
    with clear_errors(sys.argv[1:]):
        check_foreign(sys.argv[1:])
        sys.argv[1:] = prepare_arguments(sys.argv[1:])
        main()
