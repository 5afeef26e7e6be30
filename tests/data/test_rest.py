"""What doing nothing is: said once for each data set, and by the measures of actions in the same words."""

import pytest
from hydra.utils import instantiate

from wm_lightning.config import compose
from wm_lightning.data.formats import csgo, recon, robot_actions, world_map

RESTS = {
    "worldmap": (world_map.REST, tuple(world_map.MOVES)),
    "map_image": ({}, ()),  # every action moves
    "rt1": (robot_actions.NEUTRAL, robot_actions.columns("vid2world13")),
    "recon": (recon.REST, recon.COLUMNS),
    "csgo": (csgo.REST, csgo.COLUMNS),
    "doom": (csgo.REST, csgo.COLUMNS),
}


@pytest.mark.parametrize("name", RESTS)
def test_doing_nothing_is_one_action(name: str) -> None:
    rest, columns = RESTS[name]
    config = compose([f"data={name}", "protocol=action_control"])
    data = instantiate(config.data, _convert_="all")
    assert dict(data.rest) == rest and set(rest) <= set(columns)
    told = [config.callbacks.action_fidelity.probes.neutral]
    told += [variants.neutral for variants in config.protocol.variants.values()]
    for neutral in told:
        assert not neutral or dict(neutral) == rest, "another action than the data's own"
