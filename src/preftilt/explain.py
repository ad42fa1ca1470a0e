"""Why a candidate won: its tokens, coloured by preference gain (p_t − q_t, in nats), for a terminal and as a web page.

Blue tokens are likelier with the preference in the prompt, orange ones less likely; the latter are underlined, so that
colour is never the only sign. The scale is symmetric, and reaches full colour at the largest |gain| of the result.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from preftilt.result import Realigned, ScoredCandidate

POSITIVE = "#0072b2"
NEGATIVE = "#d55e00"
LEVELS = 4
"""Steps of colour between none and full."""

SHOWN_SPACES = {"\n": "↵\n", "\t": "→"}
STRONGEST = 5


@dataclass(frozen=True, slots=True)
class TokenGain:
    """A token for display: its text, its log-prob under the question and under the preference, and its gain."""

    text: str
    question: float
    gain: float

    @property
    def preference(self) -> float:
        """Log-prob with the preference; for several, the mix whose gain is the score's slope."""
        return self.question + self.gain


def pieces(result: Realigned, index: int) -> list[TokenGain]:
    """The tokens of candidate ``index`` that its score is made of: its thoughts are not."""
    candidate = result.candidates[index]
    question = next(iter(candidate.logprobs.values()))
    every = [
        TokenGain(text, float(q), float(gain))
        for text, q, gain in zip(result.pieces[index], question, candidate.gains, strict=True)
    ]
    return every[candidate.thoughts :]


def scale(result: Realigned) -> float:
    """The largest finite |gain| of any candidate, in nats; at least a tenth of a nat."""
    gains = [
        abs(float(gain))
        for candidate in result.candidates
        for gain in candidate.gains[candidate.thoughts :]
        if math.isfinite(gain)
    ]
    return max([*gains, 0.1])


def level(gain: float, full: float) -> int:
    """−LEVELS … LEVELS: how strongly a gain is coloured, on a scale that is full at ``full`` nats."""
    if math.isnan(gain):
        return 0
    steps = round(min(abs(gain) / full, 1.0) * LEVELS)
    return -steps if gain < 0 else steps


def strongest(result: Realigned, index: int = 0) -> tuple[list[TokenGain], list[TokenGain]]:
    """The tokens that speak most for the preference and most against it, strongest first."""
    ordered = sorted(pieces(result, index), key=lambda token: token.gain)
    against = [token for token in ordered[:STRONGEST] if token.gain < 0]
    return [token for token in ordered[: -STRONGEST - 1 : -1] if token.gain > 0], against


# --- terminal -----------------------------------------------------------------------

TERMINAL = {
    1: "black on #d6e6f2",
    2: "black on #9cc6e3",
    3: "black on #56a3d3",
    4: "bold white on #0067a3",
    -1: "underline black on #fae3d3",
    -2: "underline black on #f5bf98",
    -3: "underline black on #ea8f4e",
    -4: "bold underline white on #b34700",
}
"""Text and background both, so that a token reads the same on a dark and on a light terminal."""


def explained(result: Realigned, index: int = 0) -> Text:
    """Candidate ``index``, every token coloured by its gain."""
    full = scale(result)
    text = Text()
    for token in pieces(result, index):
        text.append(visible(token.text), TERMINAL.get(level(token.gain, full), ""))
    return text


def legend(result: Realigned) -> Text:
    """What the colours of :func:`explained` mean, in nats."""
    full = scale(result)
    text = Text("gain a token, in nats: ")
    for step in range(-LEVELS, LEVELS + 1):
        text.append(f" {signed(full * step / LEVELS)} ", TERMINAL.get(step, ""))
    return text


def visible(text: str) -> str:
    """A token's text with control characters shown, not obeyed; line breaks show and break."""
    return "".join(
        SHOWN_SPACES.get(
            character, character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        )
        for character in text
    )


def signed(gain: float) -> str:
    """A gain with its sign, a true minus among them."""
    text = f"{gain:+.2f}".replace("-0.00", "+0.00")
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "∞")


# --- web page -----------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>preftilt: why this answer</title>
<style>
:root {{ color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --rule: #ddd; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e8e8; --paper: #16181b; --faint: #a0a4a8; --rule: #3a3d41; }} }}
body {{ margin: 2rem auto; max-width: 48rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.7 system-ui, sans-serif; }}
h1 {{ font-size: 1.3rem; }}
.faint, summary span {{ color: var(--faint); font-size: .85rem; font-weight: normal; }}
details {{ border-top: 1px solid var(--rule); padding: .6rem 0; }}
summary {{ cursor: pointer; font-weight: 600; }}
.answer {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.answer span, .legend span {{ border-radius: .2em; padding: .1em 0; }}
.legend span {{ padding: .1em .5em; }}
{levels}
</style>
</head>
<body>
<h1>Why this answer</h1>
<p>{wish}</p>
<p class="faint">{model} · {settings} · seed {seed}</p>
<p class="legend">{legend}</p>
<p class="faint">A token's gain is its log-probability with the preference in the prompt minus the one {without}, in
nats. Blue: likelier with the preference. Orange and underlined: less likely. Point at a token for its numbers.</p>
{candidates}
</body>
</html>
"""


def explain_html(result: Realigned) -> str:
    """A web page of every candidate, best first, that needs no other file and runs no script."""
    settings = result.settings
    wish = "; ".join(
        f"“{html.escape(preference['text'])}” with strength {preference['strength']:g}"
        for preference in settings.get("preferences", ())
    )
    against = settings.get("against")
    contrast = f", against “{html.escape(against)}”" if against else ""
    full = scale(result)
    return PAGE.format(
        levels="\n".join(_levels()),
        wish=f"Preference: {wish}{contrast}."
        if wish
        else f"The earlier turns with strength {result.lam:g}.",
        without="with the contrast there" if against else "without",
        model=html.escape(f"{result.model} on {result.engine}"),
        settings=html.escape(f"{settings['search']['name']}, {settings['reduction']}"),
        seed=result.seed,
        legend=" ".join(
            f'<span class="{_class(step)}">{signed(full * step / LEVELS)}</span>'
            for step in range(-LEVELS, LEVELS + 1)
        ),
        candidates="\n".join(
            _candidate(result, index, full) for index in range(len(result.candidates))
        ),
    )


def _levels() -> Iterator[str]:
    for step in range(1, LEVELS + 1):
        alpha = 0.75 * step / LEVELS
        yield f".p{step} {{ background: rgba(0, 114, 178, {alpha:.2f}); }}"
        yield f".n{step} {{ background: rgba(213, 94, 0, {alpha:.2f}); text-decoration: underline; }}"


def _class(step: int) -> str:
    return f"{'n' if step < 0 else 'p'}{abs(step)}"


def _candidate(result: Realigned, index: int, full: float) -> str:
    candidate = result.candidates[index]
    against = result.settings.get("against")
    labels = ("with the contrast" if against else "without the preference", "with the preference")
    spans = "".join(
        f'<span class="{_class(level(piece.gain, full))}" title="{_numbers(piece, labels)}">'
        f"{html.escape(visible(piece.text))}</span>"
        for piece in pieces(result, index)
    )
    return (
        f"<details{' open' if index == 0 else ''}><summary>{candidate.rank}. {_verdict(candidate)}"
        f" <span>= question {_nats(candidate.question_logprob)} + {result.lam:g} × gain"
        f" {_nats(candidate.preference_gain)}; {len(candidate.tokens)} tokens</span></summary>"
        f'<p class="answer">{spans}</p></details>'
    )


def _verdict(candidate: ScoredCandidate) -> str:
    cut = ", cut off" if candidate.finish == "length" else ""
    return f"score {_nats(candidate.score)}{cut}"


def _numbers(piece: TokenGain, labels: tuple[str, str]) -> str:
    """A token's gain, and its log-prob under both prompts, which ``labels`` name."""
    lines = [f"gain {signed(piece.gain)}"]
    for name, value in zip(labels, (piece.question, piece.preference), strict=True):
        lines.append(f"{name} {_nats(value)} ({math.exp(value):.1%})")
    return html.escape("\n".join(lines)).replace("\n", "&#10;")


def _nats(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}").replace("inf", "∞")
