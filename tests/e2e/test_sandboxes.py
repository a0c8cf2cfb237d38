"""SandboxService: states, lists, and what bad input gets."""

import time

import grpc
import pytest

from harness import AGENT_SAFE, eventually, expect, pb, rule, sbpb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def codebase(client):
    """A codebase with one file."""
    return client.codebase({"f": "x"})


def get(client, sandbox):
    return client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox))


def test_a_sandbox_tells_back_what_it_was_made_with(client, codebase):
    request = pb.CreateSandboxRequest(
        codebase_id=codebase,
        permissions=[rule(*r) for r in AGENT_SAFE],
        labels={"team": "a", "run": "7"},
        runtime=pb.RUNTIME_TYPE_BWRAP,
    )
    request.expires_in.FromSeconds(3600)
    made = client.sandboxes.CreateSandbox(request)
    assert made.id.startswith("sb_") and made.codebase_id == codebase
    assert made.status == pb.SANDBOX_STATUS_PENDING
    assert dict(made.labels) == {"team": "a", "run": "7"}
    assert made.expires_at.seconds - made.created_at.seconds in (3599, 3600, 3601)
    assert [(r.pattern, r.permission, r.priority) for r in made.permissions] == [
        (p, {"none": 1, "view": 2, "read": 3, "write": 4}[l], n) for p, l, n in AGENT_SAFE
    ]
    assert get(client, made.id) == made
    client.destroy(made.id)
    expect(NOT_FOUND, get, client, made.id)


def test_unset_runtime_is_the_servers_default(client, codebase):
    made = client.sandboxes.CreateSandbox(pb.CreateSandboxRequest(codebase_id=codebase))
    assert made.runtime == pb.RUNTIME_TYPE_BWRAP
    client.destroy(made.id)


def test_states(client, codebase):
    made = client.sandbox(codebase, start=False)
    start = pb.StartSandboxRequest(sandbox_id=made)
    stop = pb.StopSandboxRequest(sandbox_id=made)
    expect(PRECONDITION, client.sandboxes.StopSandbox, stop)
    started = client.sandboxes.StartSandbox(start)
    assert started.status == pb.SANDBOX_STATUS_RUNNING and started.started_at.seconds > 0
    expect(PRECONDITION, client.sandboxes.StartSandbox, start)
    client.out(made, "echo kept > kept")
    stopped = client.sandboxes.StopSandbox(stop)
    assert stopped.status == pb.SANDBOX_STATUS_STOPPED and stopped.stopped_at.seconds > 0
    expect(PRECONDITION, client.sandboxes.StopSandbox, stop)
    client.sandboxes.StartSandbox(start)
    assert client.out(made, "cat kept") == "kept\n"
    client.destroy(made)


def test_lists_by_codebase_and_pages(client):
    mine, other = client.codebase(), client.codebase()
    ids = sorted(client.sandbox(mine, start=False) for _ in range(5))
    client.sandbox(other, start=False)
    everything = client.sandboxes.ListSandboxes(pb.ListSandboxesRequest(codebase_id=mine))
    assert sorted(s.id for s in everything.sandboxes) == ids
    seen, token = [], ""
    while True:
        page = client.sandboxes.ListSandboxes(
            pb.ListSandboxesRequest(codebase_id=mine, page_size=2, page_token=token)
        )
        seen += [s.id for s in page.sandboxes]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == ids


@pytest.mark.parametrize(
    "bad", ["", "x", "sb_", "cb_" + "0" * 26, "sb_" + "../" * 9, "sb_" + "0" * 25]
)
def test_O5_malformed_ids_are_refused(client, bad):
    calls = client.sandboxes
    expect(INVALID, calls.GetSandbox, pb.GetSandboxRequest(sandbox_id=bad))
    expect(INVALID, calls.StartSandbox, pb.StartSandboxRequest(sandbox_id=bad))
    expect(INVALID, calls.StopSandbox, pb.StopSandboxRequest(sandbox_id=bad))
    expect(INVALID, calls.DestroySandbox, pb.DestroySandboxRequest(sandbox_id=bad))
    expect(INVALID, client.exec, bad, "true")


def test_unknown_ids_are_not_found(client):
    unknown = "sb_" + "0" * 26
    calls = client.sandboxes
    expect(NOT_FOUND, calls.GetSandbox, pb.GetSandboxRequest(sandbox_id=unknown))
    expect(NOT_FOUND, calls.StartSandbox, pb.StartSandboxRequest(sandbox_id=unknown))
    expect(NOT_FOUND, calls.StopSandbox, pb.StopSandboxRequest(sandbox_id=unknown))
    expect(NOT_FOUND, calls.DestroySandbox, pb.DestroySandboxRequest(sandbox_id=unknown))
    expect(NOT_FOUND, client.exec, unknown, "true")
    request = pb.CreateSandboxRequest(codebase_id="cb_" + "0" * 26)
    expect(NOT_FOUND, calls.CreateSandbox, request)


def test_what_cannot_be_honoured_is_refused_at_create(client, codebase):
    create = client.sandboxes.CreateSandbox
    docker = pb.CreateSandboxRequest(codebase_id=codebase, runtime=pb.RUNTIME_TYPE_DOCKER)
    expect(PRECONDITION, create, docker)
    expect(INVALID, create, pb.CreateSandboxRequest(codebase_id=codebase, runtime=9))
    for wrong in (-1, 7):  # no bound, and less than any program takes
        limits = pb.ResourceLimits(memory_bytes=wrong)
        expect(INVALID, create, pb.CreateSandboxRequest(codebase_id=codebase, resources=limits))
    past = pb.CreateSandboxRequest(codebase_id=codebase)
    past.expires_in.FromSeconds(-5)
    expect(INVALID, create, past)
    labels = {str(i): "x" for i in range(100)}
    expect(INVALID, create, pb.CreateSandboxRequest(codebase_id=codebase, labels=labels))
    rules = [rule("**/*", "read")] * 2000
    expect(INVALID, create, pb.CreateSandboxRequest(codebase_id=codebase, permissions=rules))


def test_oversized_and_broken_messages(client, daemon, codebase):
    big = pb.ExecRequest(sandbox_id="sb_" + "0" * 26, command="x" * (5 << 20))
    expect(INVALID, client.sandboxes.Exec, big)
    raw = client.channel.unary_unary("/sandbox.v1.SandboxService/GetSandbox")
    expect(INVALID, raw, b"\x0a\xff\xff\xff\xff\x0f")
    expect(INVALID, raw, b"\x0a\x02\xff\xfe")
    unknown = client.channel.unary_unary("/sandbox.v1.SandboxService/Nope")
    expect(grpc.StatusCode.UNIMPLEMENTED, unknown, b"")


def test_a_start_waits_for_the_stop_that_is_under_way(client, codebase):
    sandbox = client.sandbox(codebase)
    start = pb.StartSandboxRequest(sandbox_id=sandbox)
    waited = 0
    for _ in range(40):
        stop = client.sandboxes.StopSandbox.future(pb.StopSandboxRequest(sandbox_id=sandbox))
        try:
            client.sandboxes.StartSandbox(start)
            waited += 1
        except grpc.RpcError as error:  # it came before the stop
            assert "is running already" in error.details()
            stop.result()
            client.sandboxes.StartSandbox(start)
        stop.result()
        assert client.out(sandbox, "echo up") == "up\n"
    assert waited > 0
    # Destroyed instead, it is not there to be started.
    gone = client.sandboxes.DestroySandbox.future(pb.DestroySandboxRequest(sandbox_id=sandbox))
    code = None
    while code != NOT_FOUND:  # until then it runs, or is on its way out: no start succeeds
        with pytest.raises(grpc.RpcError) as refused:
            client.sandboxes.StartSandbox(start)
        code = refused.value.code()
        assert code in (NOT_FOUND, PRECONDITION), refused.value.details()
    gone.result()


def test_destroy_of_a_running_sandbox_leaves_nothing(client, daemon, codebase):
    made = client.sandbox(codebase)
    client.out(made, "echo x > y")
    client.destroy(made)
    assert not (daemon.mount / made).exists()
    expect(NOT_FOUND, client.destroy, made)


def test_O1_an_expired_sandbox_is_destroyed_with_its_commands(client, daemon, codebase):
    request = pb.CreateSandboxRequest(codebase_id=codebase, permissions=[rule("**/*", "write")])
    request.expires_in.FromMilliseconds(400)
    made = client.sandboxes.CreateSandbox(request).id
    later = pb.CreateSandboxRequest(codebase_id=codebase)
    later.expires_in.FromSeconds(3600)
    kept = client.sandboxes.CreateSandbox(later).id
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made))
    running = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=made, command="sleep 1000"))
    assert running.exception() is not None

    def gone():
        try:
            get(client, made)
        except grpc.RpcError as error:
            return error.code() == NOT_FOUND
        return False

    eventually(gone)
    assert not (daemon.mount / made).exists()
    assert get(client, kept).id == kept


def test_O1_expired_sandboxes_that_cannot_be_removed_keep_no_other(new_daemon):
    # Their changes are to be committed first, and conflict with what is in the codebase meanwhile.
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase({"f": "base"})
    stuck = []
    for _ in range(70):
        sandbox = client.sandbox(codebase)
        client.set_policy(sandbox, sbpb.COMMIT_POLICY_ON_DESTROY, sbpb.CONFLICT_POLICY_REFUSE)
        client.out(sandbox, "echo mine > f")
        stuck.append(sandbox)
    client.upload(codebase, "f", "another's")

    def expire(sandbox, milliseconds):
        request = sbpb.SetExpiryRequest(sandbox_id=sandbox)
        request.expires_in.FromMilliseconds(milliseconds)
        client.views.SetExpiry(request)

    def left():
        listed = client.sandboxes.ListSandboxes(pb.ListSandboxesRequest()).sandboxes
        return {sandbox.id for sandbox in listed}

    began = time.monotonic()
    for sandbox in stuck:
        expire(sandbox, 1)
    def tries():
        return daemon.log_text().count("could not record the end of a sandbox")

    eventually(lambda: tries() >= len(stuck))
    others = {client.sandbox(codebase, start=False) for _ in range(70)}
    for sandbox in others:
        expire(sandbox, 1)
    eventually(lambda: not left() & others)
    assert left() == set(stuck)
    # They are tried again, but neither all the time nor whenever something else expires.
    assert tries() <= len(stuck) * (2 + (time.monotonic() - began) / 30)
    client.views.Rollback(sbpb.RollbackRequest(sandbox_id=stuck[0]))
    eventually(lambda: stuck[0] not in left(), 60)
