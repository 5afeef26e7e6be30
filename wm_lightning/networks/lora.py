"""Low-rank adapters (LoRA 2106.09685): several roles of one set of weights, each of which is an adapter or none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents
from wm_lightning.networks.begins import Begins

PARTS = ("lora_A", "lora_B")
# Their kernels read the weights of the layers inside them and never call these, so an adapter there would be passed by.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class LoRA:
    """Adapters W + alpha / rank · B A of the linear layers that `targets` names, where B begins at 0.

    `targets` is a regular expression for the whole of a layer's name, or a list of ends of names, as peft has it.
    Raises ValueError for a rank below 1.
    """

    rank: int
    alpha: float
    targets: str | Sequence[str]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"module.lora.rank={self.rank} must be 1 or more; module.lora=null trains all weights")
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return {"rank": self.rank, "alpha": self.alpha, "targets": targets}


class Adapters:
    """A frozen network in eval mode whose layers wear one of the adapters `names`, or none of them.

    All begin alike, those of `learning` have gradients, and all are float32 whatever the network is. This is no
    module: `network` belongs to somebody, and the roles that share it own an adapter each. Raises ValueError where
    `lora.targets` names no layer, or one that cannot be adapted, and where peft is not installed.
    """

    def __init__(self, network: nn.Module, lora: LoRA, names: Sequence[str], learning: Sequence[str]) -> None:
        self.layers = _injected(network.requires_grad_(False), lora, names)
        self.network, self.learning = network.eval(), tuple(learning)
        first, *others = (self.named(name) for name in names)
        for name, parameter in first.items():
            parameter.data = parameter.data.float()
            for other in others:
                other[name].data = parameter.data.clone()
        self.worn: str | None = names[0]
        self.wear(None)

    def named(self, adapter: str) -> dict[str, nn.Parameter]:
        """An adapter's parameters, as `blocks.0.q.lora_A.weight`."""
        return {
            f"{name}.{part}.weight": getattr(layer, part)[adapter].weight
            for name, layer in self.layers.items()
            for part in PARTS
        }

    def wear(self, adapter: str | None) -> None:
        """Puts an adapter on all layers, in place of the one that was there; None takes it off."""
        if adapter == self.worn:
            return
        for layer in self.layers.values():
            # Otherwise peft would let learn what is worn and nothing else.
            layer.set_adapter([] if adapter is None else [adapter], inference_mode=True)
        for name in self.learning:
            for parameter in self.named(name).values():
                parameter.requires_grad_(True)
        self.worn = adapter

    @contextmanager
    def wearing(self, adapter: str | None) -> Iterator[nn.Module]:
        """The network with an adapter on; then with what it had on before, after an exception too.

        Where gradients flow the adapter stays on: a backward pass may run layers again (activation checkpointing), and
        must run them as they were. So the backward pass of a role comes before another role's next pass with gradient;
        passes without gradient may come between.
        """
        before, stays = self.worn, False
        self.wear(adapter)
        try:
            yield self.network
            stays = torch.is_grad_enabled()
        finally:
            if not stays:
                self.wear(before)


class Role(nn.Module):
    """The shared network as one role runs it: with `adapter`, or as it was without any.

    Its parameters and its state dict are the adapter's alone.
    """

    def __init__(self, adapters: Adapters, adapter: str | None) -> None:
        super().__init__()
        self.adapters, self.adapter = adapters, adapter

    @property
    def remembers(self) -> bool:
        """As the network's own."""
        return getattr(self.adapters.network, "remembers", True)

    def begun(self, context: Latents, condition: Condition) -> Condition:
        """As the network's own; see `Denoises.begun`."""
        network = self.adapters.network
        return network.begun(context, condition) if isinstance(network, Begins) else condition

    def forward(self, *args: Any, memory_only: bool = False, **kwargs: Any) -> Any:
        """The network's own forward; what is only to be remembered takes a whole pass as well.

        A network may read keys and values off its weights there, and would pass the adapter by.
        """
        with self.adapters.wearing(self.adapter) as network:
            prediction, state = network(*args, **kwargs)
        return None if memory_only else prediction, state

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapter's."""
        own = {} if self.adapter is None else self.adapters.named(self.adapter)
        yield from ((f"{prefix}.{name}" if prefix else name, parameter) for name, parameter in own.items())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, parameter in self.named_parameters():
            destination[prefix + name] = parameter if keep_vars else parameter.detach()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        own = {prefix + name: parameter for name, parameter in self.named_parameters()}
        unexpected_keys += [name for name in state_dict if strict and name.startswith(prefix) and name not in own]
        missing_keys += [name for name in own if name not in state_dict]
        for name in own.keys() & state_dict.keys():
            if own[name].shape != state_dict[name].shape:
                error_msgs.append(f"{name} is {tuple(state_dict[name].shape)}, expected {tuple(own[name].shape)}")
            else:
                own[name].data.copy_(state_dict[name])


def merged(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], lora: LoRA) -> dict[str, Tensor]:
    """A network's weights with an adapter's products added, in float32: the same network without any adapter.

    Raises ValueError for an adapter of layers that the network does not have.
    """
    layers = {name.rsplit(f".{PARTS[0]}.", 1)[0] for name in adapter if f".{PARTS[0]}." in name}
    if wrong := [name for name in sorted(layers) if f"{name}.weight" not in weights]:
        raise ValueError(f"the adapter is of {len(wrong)} layers that the network lacks, as {wrong[0]}; name its base")
    found = dict(weights)
    for name in layers:
        narrow, wide = (adapter[f"{name}.{part}.weight"].float() for part in PARTS)
        found[f"{name}.weight"] = weights[f"{name}.weight"].float() + lora.scale * (wide @ narrow)
    return found


def _injected(network: nn.Module, lora: LoRA, names: Sequence[str]) -> dict[str, Any]:
    """The network's layers with adapters, by the names that these layers had."""
    try:
        # An extra, and seconds that nobody else waits for.
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415
        from peft.tuners.lora import LoraLayer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(f"module.lora needs the package {error.name}: pip install 'wm_lightning[lora]'") from error
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0)  # pyright: ignore
    try:
        inject_adapter_in_model(config, network, adapter_name=names[0])
    except ValueError as error:
        raise ValueError(f"module.lora.targets={targets} cannot be adapted: {error}") from error
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    _check(network, layers)
    for layer in layers.values():
        for name in names[1:]:
            layer.update_layer(name, lora.rank, lora_alpha=lora.alpha, config=config)  # pyright: ignore
    return layers


def _check(network: nn.Module, layers: Mapping[str, Any]) -> None:
    fused = [name for name, module in network.named_modules() if isinstance(module, FUSED)]
    for name, layer in layers.items():
        kind = type(layer.get_base_layer())
        inside = next((outer for outer in fused if name.startswith(f"{outer}.")), None)
        if kind is not nn.Linear or inside is not None:
            where = f"inside {inside}, whose kernels read its weights" if inside else f"a {kind.__name__}"
            raise ValueError(f"module.lora.targets names {name}, {where}; name linear layers that are called")
