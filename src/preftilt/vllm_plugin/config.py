"""What the operator decides: ``vllm serve --additional-config '{"preftilt": {…}}'``."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.records.patch import Count, SettingsPatch, Strict, complaints
from preftilt.server.names import read_presets
from preftilt.server.resolve import ServerConfig
from preftilt.server.wire import Knob


class PluginConfig(Strict):
    """The fields of the object; each is that of ``preftilt serve``'s flag of the same name."""

    preference_from: Literal["none", "system"] = "none"
    presets: dict[str, Knob] = Field(default_factory=dict)
    settings: SettingsPatch = Field(default_factory=SettingsPatch)
    ignore_tools: bool = False
    max_candidates: Count = 64
    deadline: Annotated[float, Field(gt=0)] | None = None
    request_timeout: Annotated[float, Field(gt=0)] = 600.0


def server_configs(
    names: Sequence[str], options: Any, adapters: Collection[str] = ()
) -> dict[str, ServerConfig]:
    """What every served name of the model stands for; ``options`` is the object, or None.

    adapters: the names of vLLM's LoRA adapters, a view of those that it has at the moment.

    Raises :class:`~preftilt.errors.BadInput`.
    """
    try:
        config = PluginConfig.model_validate({} if options is None else options)
    except ValidationError as failure:
        raise BadInput(
            f"--additional-config, preftilt: {'; '.join(complaints(failure, PluginConfig))}"
        ) from None
    objects = (options or {}).get("presets", {})
    presets = read_presets([f"{name}={json.dumps(objects[name])}" for name in config.presets], None)
    taken = sorted(set(presets) & set(adapters))
    if taken:
        raise BadInput(
            f"--additional-config, preftilt: the preset {taken[0]} has the name of a LoRA adapter; rename one of them"
        )
    return {
        name: ServerConfig(
            model=name,
            settings=config.settings.apply(Settings()),
            presets=presets,
            preference_from=config.preference_from,
            ignore_tools=config.ignore_tools,
            max_candidates=config.max_candidates,
            deadline_s=config.deadline,
            timeout_s=config.request_timeout,
            adapters=adapters,
        )
        for name in names
    }
