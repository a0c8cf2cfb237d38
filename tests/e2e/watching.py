"""Watch of MonitorService: streams of what changes in a sandbox's view or in a codebase."""

from harness import afpb, monpb

WatchEvent = monpb.WatchEvent
CREATED, MODIFIED = WatchEvent.KIND_CREATED, WatchEvent.KIND_MODIFIED
DELETED, RENAMED = WatchEvent.KIND_DELETED, WatchEvent.KIND_RENAMED
DENIED, LOST, READY = WatchEvent.KIND_DENIED, WatchEvent.KIND_LOST, WatchEvent.KIND_READY
DIRECTORY, REGULAR = afpb.FILE_KIND_DIRECTORY, afpb.FILE_KIND_REGULAR
SYMLINK, UNKNOWN = afpb.FILE_KIND_SYMLINK, afpb.FILE_KIND_UNSPECIFIED
STREAM_SECONDS = 300


def watch(client, **fields):
    """A stream that is ready: what happens from now on is in it."""
    stream = client.monitor.Watch(monpb.WatchRequest(**fields), timeout=STREAM_SECONDS)
    assert next(stream).kind == READY
    return stream


def until(stream, path):
    """The events before the one of this path."""
    events = []
    for event in stream:
        if event.path == path:
            return events
        events.append(event)
    raise AssertionError(f"the stream ended without {path}: {events}")


def names(events):
    """(kind, path, old path) of each."""
    return [(e.kind, e.path.decode(), e.old_path.decode()) for e in events]
