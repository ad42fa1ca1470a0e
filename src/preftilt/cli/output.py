"""Where records go, and which rows are left to do: decided before a model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preftilt.cli.options import FileFlags
from preftilt.errors import BadInput
from preftilt.records import Item, Journal, Survey, survey
from preftilt.search import AutoSearch


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The plan for an output file; ``path`` None is standard output."""

    path: Path | None
    todo: tuple[Item, ...]
    done: int = 0
    known: Survey | None = None

    def open(self) -> Journal:
        """Open it for writing: from here on the old content of a file to overwrite is gone."""
        if self.path is None:
            return Journal.standard_output()
        if self.known is None:
            return Journal.create(self.path)
        again = self.known.failed & {item.id for item in self.todo}
        return Journal.resume(self.path, self.known, again)


def plan_output(
    source: str, output: str, items: Sequence[Item], identity: Mapping[str, Any], files: FileFlags
) -> Output:
    """Check the output file against the rows and how the model is opened (``identity``)."""
    if files.resume and files.force:
        raise BadInput("--resume and --force exclude each other")
    wanted = tuple(items[: files.limit])
    if output == "-":
        if files.resume or files.force:
            raise BadInput("--resume and --force need an output file, not standard output")
        return Output(path=None, todo=wanted)
    path = Path(output)
    _check_place(path, source)
    if not path.is_file() or files.force:
        return Output(path=path, todo=wanted)
    if not files.resume:
        raise BadInput(f"{path} exists: --resume goes on with it, --force overwrites it")
    known = _read(path)
    _check_same_run(path, known, items, identity)
    todo = tuple(item for item in wanted if item.id not in known.done)
    return Output(path=path, todo=todo, done=len(wanted) - len(todo), known=known)


def _check_place(path: Path, source: str) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}")
    if source != "-" and path.exists() and path.samefile(source):
        raise BadInput(f"{path} is the input; name another output file")


def _read(path: Path) -> Survey:
    try:
        return survey(path)
    except OSError as failure:
        raise BadInput(f"cannot read {path}: {failure.strerror}") from None


def _check_same_run(
    path: Path, known: Survey, items: Sequence[Item], identity: Mapping[str, Any]
) -> None:
    by_id = {item.id: item for item in items}
    for id, record in known.done.items():
        where = f'{path} line {record["line"]} (id "{id}")'
        if id not in by_id:
            raise BadInput(f"{where} has no row in the input: it is the output of another one")
        if record["fingerprint"] != by_id[id].fingerprint(identity):
            what = ", ".join(_differences(record, by_id[id], identity))
            raise BadInput(
                f"{where} was made otherwise: {what or 'other words or model options'}; "
                "repeat the old call to go on with it, name another file, or overwrite it with --force"
            )


def _differences(record: Mapping[str, Any], item: Item, identity: Mapping[str, Any]) -> list[str]:
    """What can be told from a record: the model and the settings that differ, then and now."""
    settings = item.settings
    now: dict[str, Any] = {"seed": settings.seed, "max_tokens": settings.max_tokens}
    search = settings.search
    if isinstance(
        search, AutoSearch
    ):  # What it came to then still holds, but for what is asked of it.
        asked = {} if search.n is None else {"n": search.n}
        now["search"] = {**(record["settings"] or {}).get("search", {}), **asked}
    else:
        now["search"] = {"name": search.name} | asdict(search)
    now |= asdict(settings.reward) | asdict(settings.prompt) | asdict(settings.sampling)
    if all(one.strength is None for one in item.preferences):
        now["lambda"] = settings.lam
    then = {**(record["settings"] or {}), "seed": record["seed"]}
    if not identity["model"].endswith(record["model"] or ""):  # A scheme may stand before it.
        now["model"], then["model"] = identity["model"], record["model"]
    return [
        f"{name} {_brief(then[name])}, now {_brief(value)}"
        for name, value in now.items()
        if name in then and value is not None and then[name] != value
    ]


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(
            str(one) if key == "name" else f"{key}={one!r}" for key, one in value.items()
        )
    return str(value)
