"""Hatchling's hook: the message modules go into the wheel (see generate.py)."""

import pathlib
import shutil
import sys
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import generate  # noqa: E402


class ProtoHook(BuildHookInterface):
    """Compiles proto/*.proto for a wheel; an editable install gets them in its source folder."""

    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        """Runs before the build."""
        self.scratch = None
        if self.target_name != "wheel":
            return
        if version == "editable":
            generate.generate(HERE / "src/agentfense/_proto")
            return
        self.scratch = tempfile.mkdtemp(prefix="agentfense-proto-")
        for path in generate.generate(self.scratch):
            build_data["force_include"][str(path)] = f"agentfense/_proto/{path.name}"

    def finalize(self, version, build_data, artifact_path):
        """Runs after it."""
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
