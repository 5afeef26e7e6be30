"""Words as a condition: hashed, padded, read in their order, and attended to."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.modules.making import network
from tests.networks.tiny import labels, randn
from wm_lightning.clip import Condition, Prompt
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.prompt import HashedWords, PromptReader
from wm_lightning.networks.video_dit import VideoDiT

WORDS = HashedWords(buckets=97, length=8)
TEXTS = ("[Red square]: Take the key", "take the red key", "key red the take")


def reader() -> VideoDiT:
    return network(actions=0, prompt=partial(PromptReader, buckets=97, depth=1, heads=2))


def said(net: VideoDiT, prompt: Prompt | None) -> torch.Tensor:
    frames, batch = 3, 3
    given = Condition(torch.zeros(batch, frames, 0), torch.ones(batch, frames, dtype=torch.long), prompt=prompt)
    x_t = randn(1, frames, 3, 8, 8, seed=0).expand(batch, -1, -1, -1, -1)
    with torch.no_grad():
        return net(x_t, labels(1, frames, seed=1).expand(batch, -1), given, mask=FrameMask(None))[0]


def test_case_and_spaces_change_nothing_and_signs_are_words() -> None:
    prompt = WORDS(["[Red  square]: take", "[red square]: TAKE"])
    assert torch.equal(prompt.tokens[0], prompt.tokens[1]) and prompt.there.sum(1).tolist() == [6, 6]
    with pytest.raises(ValueError, match=r"a text of 9 words where 8 are read.*raise data.prompter.length"):
        WORDS(["one two three four five six seven eight nine"])


def test_words_and_their_order_matter_and_padding_does_not() -> None:
    net = reader()
    first, second, third = said(net, WORDS(TEXTS))
    assert float((first - second).abs().max()) > 1e-3 and float((second - third).abs().max()) > 1e-3
    prompt = WORDS(TEXTS)
    longer = replace(prompt, tokens=torch.where(prompt.there, prompt.tokens, torch.full_like(prompt.tokens, 5)))
    torch.testing.assert_close(said(net, longer), said(net, prompt))


def test_no_prompt_is_as_good_as_an_empty_one() -> None:
    net = reader()
    torch.testing.assert_close(said(net, None), said(net, WORDS(["", "", ""])))


def test_a_fresh_network_reads_and_says_what_one_without_words_says() -> None:
    net = reader()
    for block in net.blocks:
        torch.nn.init.zeros_(block.prompt.out.weight)  # type: ignore[union-attr,arg-type]
        torch.nn.init.zeros_(block.prompt.out.bias)  # type: ignore[union-attr,arg-type]
    assert torch.equal(said(net, WORDS(TEXTS)), said(net, None))


def test_a_prompt_goes_with_its_condition() -> None:
    given = Condition(torch.zeros(3, 2, 0), torch.ones(3, 2, dtype=torch.long), prompt=WORDS(TEXTS))
    assert given.prompt is not None
    part, whole = given[1:], Condition.cat([given, given])
    assert part.prompt is not None and torch.equal(part.prompt.tokens, given.prompt.tokens[1:])
    assert whole.prompt is not None and len(whole.prompt.tokens) == 6
    assert given.frames(0, 1).prompt is given.prompt and given.to("cpu").prompt is not None
