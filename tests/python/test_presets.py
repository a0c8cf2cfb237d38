"""Presets: their rules, extending, registering."""

import agentfense as af
import pytest
from harness import AGENT_SAFE


def test_agent_safe_is_what_the_contract_says():
    rules = [(r.pattern, r.permission.value, r.priority) for r in af.get_preset("agent-safe")]
    assert sorted(rules) == sorted(AGENT_SAFE)


def test_the_documented_presets_are_there():
    assert af.list_presets() == sorted(
        ["agent-safe", "read-only", "full-access", "development", "view-only"]
    )
    assert [r.to_dict() for r in af.get_preset("view-only")] == [
        {"pattern": "**/*", "permission": "view", "type": "glob", "priority": 0}
    ]
    with pytest.raises(af.InvalidConfigurationError, match="agent-safe"):
        af.get_preset("agentsafe")


def test_a_preset_that_was_handed_out_is_a_copy():
    af.get_preset("read-only")[0].pattern = "changed"
    af.get_preset_dicts("read-only")[0]["pattern"] = "changed"
    assert af.get_preset("read-only")[0].pattern == "**/*"


def test_additions_keep_their_priority_and_overrides_win():
    rules = af.extend_preset(
        "agent-safe",
        additions=[{"pattern": "/docs/**", "permission": "write", "priority": 5}],
        overrides=[
            {"pattern": "**/.env.example", "permission": "read"},
            af.PermissionRule("/x", af.Permission.NONE, af.PatternType.FILE, 7),
        ],
    )
    assert rules[: len(AGENT_SAFE)] == af.get_preset("agent-safe")
    assert (rules[-3].pattern, rules[-3].priority) == ("/docs/**", 5)
    assert [(r.pattern, r.priority) for r in rules[-2:]] == [
        ("**/.env.example", 101),
        ("/x", 108),
    ]


def test_overrides_win_in_a_sandbox(api, project, nothing_left):
    (project / ".env.example").write_text("A=1")
    rules = af.extend_preset(
        "agent-safe", overrides=[{"pattern": "**/.env.example", "permission": "read"}]
    )
    with api.sandbox("from_local", project, preset=None, permissions=rules) as sandbox:
        assert sandbox.run("cat .env.example").stdout == "A=1"


def test_registered_presets_are_used_by_name(api, project, nothing_left):
    af.register_preset("docs-only", [{"pattern": "/README.md", "permission": "read"}])
    try:
        assert "docs-only" in af.list_presets()
        with api.sandbox("from_local", project, preset="docs-only") as sandbox:
            assert sandbox.run("ls").stdout == "README.md\n"
    finally:
        del af.PRESETS["docs-only"]
    for name, rules in (("agent-safe", []), ("", []), ("x", [{"pattern": ""}]), ("x", "**")):
        with pytest.raises(af.InvalidConfigurationError):
            af.register_preset(name, rules)
    assert "x" not in af.list_presets()
