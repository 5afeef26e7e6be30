"""A network without cache: it remembers its raw inputs and runs them again with every call."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.begins import Begins
from wm_lightning.networks.masks import ExplicitMask, FrameMask
from wm_lightning.networks.state import State, empty_state


class Rerun(nn.Module):
    """Same signature as the network it holds; its state holds inputs, so any window or commit works unchanged.

    Equal to the cached network until frames are evicted; from then on a re-run of the truncated
    window is another function, for a cache still carries what evicted frames had left in it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def begun(self, context: Latents, condition: Condition) -> Condition:
        """As the network's own; see `Denoises.begun`."""
        return self.network.begun(context, condition) if isinstance(self.network, Begins) else condition

    def forward(
        self,
        x_t: Latents,
        label: Levels,
        condition: Condition,
        past: State | None = None,
        *,
        mask: FrameMask,
        memory_only: bool = False,
    ) -> tuple[Latents | None, State]:
        """Prediction for the new frames, from one pass over all frames of the window."""
        if memory_only:
            return None, self._with_inputs(x_t, label, condition, past, mask)[1]
        prediction, state = self.window(x_t, label, condition, past, mask=mask)
        return prediction[:, -x_t.shape[1] :], state

    def window(
        self, x_t: Latents, label: Levels, condition: Condition, past: State | None = None, *, mask: FrameMask
    ) -> tuple[Float[Tensor, "b total c h w"], State]:
        """Prediction for all frames of the window, the remembered ones first."""
        inputs, state = self._with_inputs(x_t, label, condition, past, mask)
        whole = replace(condition, actions=inputs["actions"], state=inputs["state"])
        bidirectional = mask.chunk is None
        every = mask if bidirectional else _blocks_given(mask, inputs["block"][0])
        return self.network(inputs["x_t"], inputs["label"], whole, None, mask=every)[0], state

    def _with_inputs(
        self, x_t: Latents, label: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[dict[str, Tensor], State]:
        """The inputs of all frames of the window, and the state that holds them."""
        state = empty_state(len(x_t)) if past is None else past
        if state.valid is not None:
            raise ValueError("a network without cache cannot reset single slots of its batch")
        frames, seen = x_t.shape[1], state.length
        blocks = mask.blocks(seen, frames).to(x_t.device).expand(len(x_t), -1)
        inputs = {
            "x_t": x_t, "label": label, "actions": condition.actions, "state": condition.state, "block": blocks
        }  # fmt: skip
        if seen:
            inputs["block"] = blocks + state.memory["block"][:, -1:] + 1
            inputs = {name: torch.cat([state.memory[name], value], dim=1) for name, value in inputs.items()}
        return inputs, state.advanced({name: value.detach() for name, value in inputs.items()}, frames)


def _blocks_given(mask: FrameMask, blocks: Tensor) -> ExplicitMask:
    return ExplicitMask(chunk=mask.chunk, window=mask.window, sink=mask.sink, ids=tuple(blocks.tolist()))
