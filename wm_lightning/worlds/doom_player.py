"""Who plays Doom: hunters, walkers, and players that press what comes to mind."""

from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.data.formats.csgo import COLUMNS, KEYS, MOUSE, MOUSE_X, MOUSE_Y

TURN = np.degrees(0.0009)  # degrees a count of the mouse, as in the maze
POLICIES = ("hunter", "walker", "random")
STUCK, PATIENCE = 4.0, 4  # Doom's units a frame (a running player makes 20), and frames below it that tell a wall


class Player:
    """One of the policies: turns away from walls, hunts what it sees, or presses what comes to mind."""

    def __init__(self, policy: str, source: np.random.Generator) -> None:
        self.policy, self.source = policy, source
        self.place, self.slow, self.turning, self.spin, self.keys = np.zeros(2), 0, 0, 0.0, set[str]()

    def act(self, seen: Any) -> Float32[np.ndarray, "51"]:
        """The next action, from the picture's labels and the player's place."""
        place = np.array(seen.game_variables[:2])
        # A player needs some frames to run, so one slow frame is no wall.
        self.slow = self.slow + 1 if float(np.linalg.norm(place - self.place)) < STUCK else 0
        blocked, self.place = self.slow > PATIENCE, place
        if self.policy == "random":
            return self._random()
        target = _nearest_monster(seen) if self.policy == "hunter" else None
        if target is not None and not blocked and not self.turning:
            aside, near = target
            return pressed(({"left_click"} if abs(aside) < 100 else set()) | (set() if near else {"w"}), aside)
        if self.turning == 0 and blocked:
            self.turning, self.spin = int(self.source.integers(4, 14)), float(self.source.choice([-100, 100]))
        keys = {"w"} | ({"r"} if blocked else set())
        if self.turning:
            self.turning, self.slow = self.turning - 1, 0
            return pressed(keys - {"w"}, self.spin)
        return pressed(keys, 6 * self.source.normal())

    def _random(self) -> Float32[np.ndarray, "51"]:
        if self.source.random() < 0.3:
            self.keys = {key for key in (*KEYS, "left_click") if self.source.random() < (0.5 if key == "w" else 0.08)}
            self.spin = float(self.source.choice([0, 0, -30, 30, -100, 100]))
        return pressed(self.keys, self.spin, 10 * self.source.normal() if self.source.random() < 0.1 else 0.0)


def pressed(keys: set[str], spin: float, tilt: float = 0.0) -> Float32[np.ndarray, "51"]:
    """An action of keys and clicks by name and the nearest steps of the mouse to `spin` and `tilt` counts."""
    action = np.zeros(len(COLUMNS), np.float32)
    for key in keys:
        action[COLUMNS.index(key)] = 1
    for axis, steps, count in (("x", MOUSE_X, spin), ("y", MOUSE_Y, tilt)):
        action[MOUSE[axis].start + int(np.abs(np.array(steps) - count).argmin())] = 1
    return action


def _nearest_monster(seen: Any) -> tuple[float, bool] | None:
    """Counts of the mouse towards the widest monster in view, and whether it is near; None where there is none."""
    found = [label for label in seen.labels if label.object_category == "Monster" and label.width > 3]
    if not found:
        return None
    width = seen.screen_buffer.shape[1]
    widest = max(found, key=lambda label: label.width)
    aside = (widest.x + 0.5 * widest.width) / width - 0.5
    counts = float(np.clip(np.degrees(np.arctan(2 * aside)) / TURN, -300, 300))  # Doom shows 90 degrees
    return counts, widest.width > 0.15 * width
