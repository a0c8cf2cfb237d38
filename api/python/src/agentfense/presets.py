"""Named lists of rules. Presets are process-wide; registering is thread-safe."""

from __future__ import annotations

import threading
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from .exceptions import InvalidConfigurationError
from .types import PermissionRule, Rule

PRESET_AGENT_SAFE = "agent-safe"
PRESET_READ_ONLY = "read-only"
PRESET_FULL_ACCESS = "full-access"
PRESET_DEVELOPMENT = "development"
PRESET_VIEW_ONLY = "view-only"
DEFAULT_PRESET = PRESET_AGENT_SAFE


def _rule(pattern: str, permission: str, priority: int = 0) -> Dict[str, Any]:
    return {"pattern": pattern, "permission": permission, "priority": priority}


_SECRETS = [_rule(p, "none", 100) for p in ("**/.env*", "**/secrets/**", "**/*.key", "**/*.pem")]

PRESETS: Dict[str, List[Dict[str, Any]]] = {
    PRESET_AGENT_SAFE: [
        _rule("**/*", "read"),
        _rule("/output/**", "write", 10),
        _rule("/tmp/**", "write", 10),
        *_SECRETS,
        _rule("**/credentials*", "none", 100),
        _rule("**/.git/**", "none", 50),
    ],
    PRESET_READ_ONLY: [_rule("**/*", "read")],
    PRESET_FULL_ACCESS: [_rule("**/*", "write")],
    PRESET_DEVELOPMENT: [_rule("**/*", "write"), *_SECRETS],
    PRESET_VIEW_ONLY: [_rule("**/*", "view")],
}
_BUILT_IN = frozenset(PRESETS)
_lock = threading.Lock()


def as_rule(rule: Rule) -> PermissionRule:
    """A rule from a rule or a mapping; InvalidConfigurationError for anything else."""
    if isinstance(rule, PermissionRule):
        return rule
    if isinstance(rule, Mapping):
        return PermissionRule.from_dict(rule)
    raise InvalidConfigurationError(f"a rule is a PermissionRule or a mapping, not {rule!r}")


def as_rules(rules: Optional[Iterable[Rule]]) -> List[PermissionRule]:
    """Rules from rules or mappings; None is no rule."""
    if rules is None:
        return []
    if isinstance(rules, (str, bytes, Mapping)) or not isinstance(rules, Iterable):
        raise InvalidConfigurationError(f"permissions are a list of rules, not {rules!r}")
    return [as_rule(rule) for rule in rules]


def get_preset_dicts(name: str) -> List[Dict[str, Any]]:
    """A preset's rules as mappings. InvalidConfigurationError when there is no such preset."""
    with _lock:
        if name not in PRESETS:
            known = ", ".join(sorted(PRESETS))
            raise InvalidConfigurationError(f"there is no preset {name!r}: use one of {known}")
        return [dict(rule) for rule in PRESETS[name]]


def get_preset(name: str) -> List[PermissionRule]:
    """A preset's rules. InvalidConfigurationError when there is no such preset."""
    return [PermissionRule.from_dict(rule) for rule in get_preset_dicts(name)]


def list_presets() -> List[str]:
    """The names of all presets, sorted."""
    with _lock:
        return sorted(PRESETS)


def extend_preset(
    base: str,
    additions: Optional[Iterable[Rule]] = None,
    overrides: Optional[Iterable[Rule]] = None,
) -> List[PermissionRule]:
    """The rules of `base` and more.

    additions: added as they are, with their own priorities.
    overrides: win over every rule of the base and the additions: their priorities are raised
      above the highest of those, and keep their order among each other.
    """
    rules = get_preset(base) + as_rules(additions)
    winning = as_rules(overrides)
    if winning:
        top = max((rule.priority for rule in rules), default=0)
        lift = max(0, top + 1 - min(rule.priority for rule in winning))
        for rule in winning:
            rules.append(
                PermissionRule(rule.pattern, rule.permission, rule.type, rule.priority + lift)
            )
    return rules


def register_preset(name: str, rules: Sequence[Rule]) -> None:
    """Adds or replaces a preset. InvalidConfigurationError for a bad rule or a built-in name."""
    if not isinstance(name, str) or not name:
        raise InvalidConfigurationError(f"a preset's name is text, not {name!r}")
    if name in _BUILT_IN:
        raise InvalidConfigurationError(f"the preset {name!r} is built in: take another name")
    made = [rule.to_dict() for rule in as_rules(rules)]
    with _lock:
        PRESETS[name] = made


def resolve(preset: Optional[str], permissions: Optional[Iterable[Rule]]) -> List[PermissionRule]:
    """The rules of a sandbox: those of the preset, then the caller's own."""
    return (get_preset(preset) if preset is not None else []) + as_rules(permissions)
