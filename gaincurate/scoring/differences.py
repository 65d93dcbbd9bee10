"""The differences of two scored sets' identities in words, and the refusal of a folder with another set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.files import differing_keys
from gaincurate.errors import OutputError

_WORDS = {
    "source.rows": "another number of rows",
    "source.fingerprint": "other data",
    "source.prompt_column": "another prompt column",
    "source.answer_column": "another answer column",
    "source.id_column": "another id column",
    "source.tools_column": "another tools column",
    "source": "another reading of the data",
    "model": "another model",
    "model.name": "another name of the model",
    "tokenizer.chat_template": "another chat template",
    "tokenizer": "another tokenizer",
    "segmentation.system": "another system message",
    "segmentation.shots": "other examples",
    "segmentation.template_kwargs": "other template variables",
    "segmentation.max_length": "another longest prompt",
    "segmentation": "another prompt rendering",
    "dtype": "another dtype",
    "signals": "other signals",
    "layer": "another layer",
    "site": "another scored tensor",
    "reuse": "other --reuse sets",
    "device": "another kind of processor",
    "versions": "other library versions",
    "threads": "another number of threads",
    "batch_tokens": "another batch size",
    "shard_rows": "shards of another size",
}
"""By key of an identity or its beginning, in the order in which a refusal names them."""


def differences(changes: Sequence[tuple[str, Any, Any]]) -> str:
    """The differences of two scored sets' identities (`differing_keys`) in words, each once.

    A difference that follows from another one is left out: of the data where the number of rows differs, of
    the model's name where its weights differ, of the rendering where an option of the prompt differs.
    """
    keys = {key for key, _, _ in changes}
    implied = {"source.fingerprint"} if "source.rows" in keys else set()
    if "model.weights" in keys:
        implied |= {"model.name", "model.revision"}
    if any(key.startswith(("tokenizer", "segmentation.")) for key in keys - {"segmentation.rendering"}):
        implied.add("segmentation.rendering")
    order, words = list(_WORDS), dict[int, str]()
    for key, was, now in changes:
        parts = key.split(".")
        name = next((n for n in (".".join(parts[:k]) for k in (3, 2, 1)) if n in _WORDS), None)
        word = _WORDS[name] if name else f"another {key}"
        if key == "source.rows" and isinstance(was, int) and isinstance(now, int):
            count = abs(now - was)
            word = f"{count:,} row{'s' * (count != 1)} {'more' if now > was else 'fewer'}"
        elif name == key and key in ("dtype", "source.prompt_column", "site", "layer"):
            word += f" ({was} before, {now} now)"
        if key not in implied:
            words.setdefault(order.index(name) if name else len(order) + len(words), word)
    return ", ".join(word for _, word in sorted(words.items()))


def refuse_other(artifact: Artifact, begun: Json, identity: Json) -> None:
    """Refuse to go on in a folder that was begun with another identity.

    Raises:
        OutputError: they differ, in words; `details` has each key with both values.
    """
    changes = list(differing_keys(begun, identity))
    if not changes:
        return
    folder = artifact.place
    hint = (artifact.kind.hints or {}).get(changes[0][0], "") if len(changes) == 1 else ""
    raise OutputError(
        f"{differences(changes)}{hint}: {folder} holds scores of another run. Give another --out, where "
        f"--reuse {folder} takes those of equal rows, repeat the first run's options, or start over with "
        "--overwrite.",
        path=str(folder),
        keys=[key for key, _, _ in changes],
        details=changes,
    )
