"""Print the table of constants for docs/configuration.md, made from Config and its comments:

    python scripts/config_table.py
"""
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from groundwork.limits import to_plain  # noqa: E402
from train_latent_cfg import PRESETS, Config  # noqa: E402


def shown(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)


def table() -> str:
    full, *others = (to_plain(config) for config in PRESETS.values())
    lines = [f"| constant | default | {' | '.join(list(PRESETS)[1:])} | |", "|---|---|---|---|---|"]
    constants = re.findall(r"^    (?:# --- (.*)|(\w+): .*?  # (.*))$", inspect.getsource(Config), re.M)
    for heading, name, reason in constants:
        if heading:
            lines.append(f"| **{heading}** | | | | |")
            continue
        changed = [f"`{shown(other[name])}`" if other[name] != full[name] else "" for other in others]
        lines.append(f"| `{name}` | `{shown(full[name])}` | {' | '.join(changed)} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
