"""The numbers that the REAR paper prints (arXiv "2606.30339", Tables 1 and 3): to stand beside ours, never among them.

They are of Qwen2.5-7B-Instruct (Table 3: Qwen3-VL-8B-Instruct) judged by GPT-4.1, in percent, PingPong's score apart.
The paper gives no intervals. Its other tables and figures are known to us as pictures or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A printed table: ``rows`` by method, in the order of ``columns``, as printed."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


TABLE_1 = PublishedTable(
    "Table 1 of the paper: Qwen2.5-7B-Instruct, N = 16, judge GPT-4.1; score in percent, PingPong from 1 to 5",
    (
        "PrefEval explicit",
        "PrefEval choice",
        "PrefEval implicit (persona)",
        "Multifaceted",
        "PingPong",
    ),
    {
        "DVTS-REAR": ("77.7", "78.6", "19.1", "76.8", "3.03"),
        "BoN-REAR": ("74.1", "78.2", "16.2", "76.3", "3.07"),
        "greedy": ("67.0", "71.5", "12.0", "75.3", "2.97"),
        "BoN by external RM": ("73.4", "78.3", "17.0", "76.5", "2.97"),
        "BoN by generative RM": ("69.0", "74.7", "12.9", "76.1", "3.01"),
        "Amulet": ("68.5", "70.4", "13.1", "75.4", "2.87"),
        "Linear Alignment": ("64.2", "78.0", "12.8", "75.6", "3.01"),
    },
)

TABLE_3 = PublishedTable(
    "Table 3 of the paper: MMHal-Bench, Qwen3-VL-8B-Instruct, N = 16, λ = 20, judge GPT-4.1, percent",
    ("score", "hallucination rate"),
    {
        "BoN-REAR": ("84.20", "21.87"),
        "BoN by generative RM": ("80.21", "23.96"),
        "greedy": ("78.99", "28.12"),
    },
)

PUBLISHED = {"table1": TABLE_1, "table3": TABLE_3}
