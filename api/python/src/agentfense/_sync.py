"""The incremental upload: an Upload that knows what the codebase holds already (_manifest.py)."""

from __future__ import annotations

import time
from typing import Any, Iterable, Iterator, Optional

from . import _calls, _tree, types
from ._manifest import Hash, Manifest, Plan, label
from ._proto import agentfense_pb2 as af
from ._proto import sandbox_pb2 as pb
from ._rpc import GET_CODEBASE, About, Call
from ._upload import Upload

# Each try, and whether it sends everything: the first relies on the memory of the last time.
SYNC_TRIES = (False, True, True, True)
OTHERS_CHANGE_IT = "others change it all the time; use a codebase of your own"


class Sync(Upload):
    """A directory that a codebase is to be the image of."""

    _hashes = True

    def __init__(
        self,
        codebase_id: str,
        path: _tree.Path,
        ignore_patterns: Optional[Iterable[str]] = None,
        default_ignores: bool = True,
    ) -> None:
        super().__init__(path, ignore_patterns, default_ignores)
        self._codebase_id = _calls.codebase_id(codebase_id)
        self._plan = Plan([])
        self._new = Manifest(self._codebase_id, self.root)
        self._reply: Optional[types.ImportResult] = None

    def prepare(self, full: bool) -> None:
        """Looks at the directory, and reads files whose stat does not tell (blocks)."""
        self._new = Manifest(self._codebase_id, self.root, scanned_ns=time.time_ns())
        self.scan()
        old = Manifest(self._codebase_id, self.root)
        if not full:
            old = Manifest.load(self._codebase_id, self.root)
        self._plan = old.plan(self.entries, self._new)
        self.entries = self._plan.send
        self._count()

    @property
    def has_nothing_to_send(self) -> bool:
        """Whether the codebase is right, provided that it is the version that is remembered."""
        return self._plan.version is not None and not (self._plan.send or self._plan.remove)

    def question(self) -> Call[Any, Any, bool]:
        """Asks whether the codebase is that version."""

        def same(m: pb.Codebase) -> bool:
            return (m.updated_at.seconds, m.updated_at.nanos) == self._plan.version

        request = pb.GetCodebaseRequest(codebase_id=self._codebase_id)
        about = About("get codebase", "codebase", codebase_id=self._codebase_id)
        return Call(GET_CODEBASE, request, about, same)

    def call(self, codebase_id: str) -> Call[Any, Any, types.ImportResult]:
        """As Upload.call; the reply's version is kept for finish()."""
        plain = super().call(codebase_id)

        def convert(m: af.ImportResponse) -> types.ImportResult:
            self._new.version = (m.updated_at.seconds, m.updated_at.nanos)
            self._reply = plain.convert(m)
            return self._reply

        return Call(plain.method, None, plain.about, convert)

    def messages(self, codebase_id: str) -> Iterator[af.ImportRequest]:
        """As Upload.messages, with what goes."""
        yield af.ImportRequest(codebase_id=codebase_id)
        version = self._plan.version
        if version is None:
            yield af.ImportRequest(replace=True)
        else:
            expected = af.ImportRequest()
            expected.unchanged_since.seconds, expected.unchanged_since.nanos = version
            expected.unchanged_since.SetInParent()
            yield expected
        for path in self._plan.remove:
            yield af.ImportRequest(remove=path)
        yield from self._entries()

    def _sent(self, entry: _tree.Entry, content: Optional[Hash]) -> None:
        self._new.note(entry, content.text() if content is not None else label(entry))

    def _missing(self, entry: _tree.Entry) -> Iterator[af.ImportRequest]:
        yield af.ImportRequest(remove=entry.path)

    def finish(self) -> None:
        """Remembers what was sent (blocks)."""
        self._new.save()

    def result(self) -> types.ImportResult:
        """What was done."""
        made = self._reply or types.ImportResult(self._codebase_id)
        made.unchanged = self._plan.unchanged
        made.removed = len(self._plan.remove)
        return made
