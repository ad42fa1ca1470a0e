"""What the command line looks like: every command, and what an error looks like."""

from __future__ import annotations

import ast
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

import preftilt
from preftilt.errors import PreftiltError

FIRST, EVALUATION, TRAINING, TOOLS = "Commands to begin with", "Evaluation", "Training", "Tools"
"""What commands are for: the panels of ``preftilt --help``, in this order."""

COMMANDS = {
    "ask": (FIRST, "ask"),
    "run": (FIRST, "rows"),
    "score": (FIRST, "rows"),
    "serve": (FIRST, "serve"),
    "calibrate": (FIRST, "calibrate"),
    "train": (FIRST, "train"),
    "reproduce": (EVALUATION, "reproduce"),
    "policy-accuracy": (EVALUATION, "policy_accuracy"),
    "behaviour": (EVALUATION, "behaviour"),
    "sweep": (EVALUATION, "sweep"),
    "fronts": (EVALUATION, "fronts"),
    "arms-eval": (EVALUATION, "arms_eval"),
    "soup": (TRAINING, "train"),
    "fix-alpha": (TRAINING, "train"),
    "demo-pairs": (TRAINING, "train"),
    "influence": (TOOLS, "influence"),
    "verify": (TOOLS, "verify"),
    "schema": (TOOLS, "rows"),
}
"""Every command: its panel, and the module in ``preftilt.cli`` that has it, as a function of its name."""


def command_line(*names: str) -> typer.Typer:
    """The program with these commands, ready to be called; without any name every command, as ``--help`` lists them.

    A command's module, and the settings that its flags come from, import numpy and more, so only what is called is
    imported.
    """
    program = typer.Typer(
        name="preftilt",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback(invoke_without_command=True)(preftilt_command)
    for name in names or COMMANDS:
        panel, module = COMMANDS[name]
        function = name.replace("-", "_")
        if names:
            from preftilt.cli.options import grouped

            command = grouped(getattr(import_module(f"preftilt.cli.{module}"), function))
            program.command(name, rich_help_panel=panel)(command)
        else:
            docstring = _docstring(Path(__file__).with_name(f"{module}.py"), function)
            program.command(name, rich_help_panel=panel, help=docstring)(lambda: None)
    return program


def _docstring(source: Path, function: str) -> str | None:
    """That of a function, read from its source."""
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node)
    raise LookupError(f"{source} has no function {function}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 something failed, 2 bad input, 130 interrupted."""
    _replace_closed_streams()
    _spell_what_cannot_be_encoded()
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _replace_closed_streams() -> None:
    """What is said to a stream that was closed from the start (``>&-``) goes nowhere, and no file takes its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _spell_what_cannot_be_encoded() -> None:
    """A terminal or pipe that is not UTF-8 gets escapes; nothing fails after tokens are spent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str]) -> int:
    try:
        program = command_line(*(name for name in arguments[:1] if name in COMMANDS))
        code = program(list(arguments), prog_name="preftilt", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except TyperException as failure:
        return _complain(failure.format_message() + _renamed(failure), failure.exit_code)
    except PreftiltError as failure:
        return _complain(str(failure), failure.exit_code)
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as failure:
        _drop_output()
        return _complain(f"{failure.strerror}: {failure.filename or 'standard output'}", 1)


def _renamed(failure: TyperException) -> str:
    """What to write instead of a flag that former versions had."""
    from preftilt.cli.options import flag
    from preftilt.records.patch import RENAMED

    name = getattr(failure, "option_name", "").lstrip("-").replace("-", "_")
    return f" (use {flag(RENAMED[name])}, which is one for every search)" if name in RENAMED else ""


def _drop_output() -> None:
    """Send what is still in the buffer nowhere, so that leaving does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    if message:
        print(f"preftilt: error: {message}", file=sys.stderr)
    return code


def preftilt_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a language model follow your preference more strongly, at test time, without training."""
    if version:
        print(f"preftilt {preftilt.__version__}")
        raise typer.Exit
