"""The base of models of JSON that another program wrote: a trainer's log, a server's answer.

The models only check (`core.foreign.see_fits`). The JSON is used as it was read.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ForeignJson(BaseModel):
    """JSON whose values are not converted to the types of the model, and which may have other keys too."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
