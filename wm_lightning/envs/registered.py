"""Importing this registers the environments: `gymnasium.make("wm_lightning/WorldModel-v0", ckpt_path=...)`."""

import gymnasium

ID = "wm_lightning/WorldModel-v0"

# Named and not imported: whoever makes one needs the tasks' way from a checkpoint to a network, which lies above.
gymnasium.register(
    ID,
    entry_point="wm_lightning.tasks.environments:make_env",
    vector_entry_point="wm_lightning.tasks.environments:make_vector_env",
)
