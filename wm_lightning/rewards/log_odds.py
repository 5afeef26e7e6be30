"""From a chat endpoint's reply to log p(yes) - log p(no)."""

import json
import math
from collections.abc import Iterable
from typing import Any

from wm_lightning.rewards.reward import Failed

YES, NO = "yes", "no"
MOST = 10.0
# Marks of a leading space in tokens that a server hands out undecoded.
SPACES = "\u2581\u0120"


def read_log_odds(reply: str) -> float | Failed:
    """The log-odds that a reply's first token gives to yes, within ±10; a failure where the reply does not tell.

    `reply` is the body of a chat completion with `logprobs` and `top_logprobs`.
    """
    try:
        choice = json.loads(reply)["choices"][0]
        if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
            return Failed("refused")
        if not choice.get("logprobs") or not choice["logprobs"]["content"]:
            return Failed("no log-probabilities")
        return log_odds(_pair(entry) for entry in choice["logprobs"]["content"][0]["top_logprobs"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return Failed("malformed reply")


def log_odds(tokens: Iterable[tuple[str, float]]) -> float | Failed:
    """log p(yes) - log p(no) by the log-probabilities of the likeliest first tokens, within ±10.

    Every spelling that differs in case or space counts for its word. A word that is not among the tokens is at most as
    likely as the least likely of them, and takes that one's log-probability. A failure where neither word is there, or
    where only one token is, which leaves the other word without a bound.
    """
    by_word: dict[str, list[float]] = {YES: [], NO: []}
    possible = [(token, value) for token, value in tokens if value > -math.inf]
    for token, log_probability in possible:
        by_word.get(word_of(token), []).append(log_probability)
    if not by_word[YES] and not by_word[NO]:
        return Failed("neither yes nor no")
    if len(possible) < 2:
        return Failed("too few log-probabilities")
    lowest = min(log_probability for _, log_probability in possible)
    yes, no = (_total(by_word[word]) if by_word[word] else lowest for word in (YES, NO))
    return max(-MOST, min(MOST, yes - no))


def word_of(token: str) -> str:
    """What a token spells, whatever its case and the space around it."""
    return token.strip().strip(SPACES).casefold()


def _pair(entry: Any) -> tuple[str, float]:
    token, log_probability = entry["token"], entry["logprob"]
    # Whole numbers beyond every float raise OverflowError here.
    if not isinstance(token, str) or isinstance(log_probability, bool) or not log_probability + 0.0 < math.inf:
        raise ValueError(f"{entry=} is no token with its log-probability")
    return token, float(log_probability)


def _total(log_probabilities: list[float]) -> float:
    """log Σ exp."""
    most = max(log_probabilities)
    return most + math.log(sum(math.exp(value - most) for value in log_probabilities))
