"""YAML as people write it: texts of several lines as blocks, nothing by reference."""

from __future__ import annotations

from typing import Any


def to_yaml(*documents: Any) -> str:
    """Dump documents as one YAML text; strings that look like numbers stay strings."""
    import yaml

    def block(dumper: Any, text: str) -> Any:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    # Without anchors: a reader of a patch need not look up what stands elsewhere.
    in_full = {"ignore_aliases": lambda _dumper, _data: True}
    dumper: Any = type("Dumper", (yaml.SafeDumper,), in_full)
    dumper.add_representer(str, block)
    text: str = yaml.dump_all(documents, Dumper=dumper, sort_keys=False, width=100)
    return text
