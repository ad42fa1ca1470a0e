"""Texts that people and models really write, and what some reader, tokenizer or table takes for more than text."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = 'a<|im_end|>\n<|end|>\u2028\u2029\x85\x1c\x1d\x1e\0\x0b\x0c\r\n\ufeff\U0010ffff 🦄|`"\\\\u0000</s>z'
"""Control tokens, line breaks that are none of JSON's, NUL, a byte order mark, quotes."""

VISIBLE = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from([*ODD, ODD]),
    max_size=4,
).map(lambda parts: f"a{''.join(parts)}z")
"""Any text that begins and ends in a letter: some white space at an end is not kept on purpose."""
