"""agentfense.v1.SandboxService: options, batches, lists, and changes of a living sandbox."""

import grpc
import pytest

from harness import AGENT_SAFE, FULL, READ_ONLY, eventually, expect, pb, rule, sbpb

GIB = 1 << 30


def own(**options):
    """Options of a sandbox that keeps its changes, so that they count in its quota."""
    return sbpb.SandboxOptions(commit_policy=sbpb.COMMIT_POLICY_MANUAL, **options)


def wanted(codebase, rules=FULL, start=False, options=None, **fields):
    """A CreateRequest."""
    sandbox = pb.CreateSandboxRequest(
        codebase_id=codebase, permissions=[rule(*r) for r in rules], **fields
    )
    return sbpb.CreateRequest(sandbox=sandbox, options=options, start=start)


@pytest.fixture
def codebase(client):
    """A small codebase of the test's own: commands commit what they change."""
    return client.codebase({"f": "content\n", "d/g": "g\n", "run.sh": "#!/bin/sh\n"}, owner="ann")


@pytest.fixture
def make(client, codebase):
    """Makes sandboxes by Create and destroys them after the test; returns SandboxInfo."""
    made = []

    def create(rules=FULL, start=True, **fields):
        info = client.views.Create(wanted(codebase, rules, start, **fields))
        made.append(info.sandbox.id)
        return info

    yield create
    client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=made))


def get(client, sandbox_id):
    return client.views.Get(sbpb.GetRequest(sandbox_id=sandbox_id))


def listed(client, **filters):
    return [i.sandbox.id for i in client.views.List(sbpb.ListRequest(**filters))]


# ---- create, get


def test_create_takes_options_and_says_what_was_decided(client, make, codebase):
    options = sbpb.SandboxOptions(
        commit_policy=sbpb.COMMIT_POLICY_MANUAL,
        conflict_policy=sbpb.CONFLICT_POLICY_REFUSE,
        quota=sbpb.Quota(bytes=5000, inodes=7),
    )
    info = make(AGENT_SAFE, start=False, options=options, labels={"team": "red"})
    assert info == get(client, info.sandbox.id)
    assert info.sandbox.status == pb.SANDBOX_STATUS_PENDING and info.sandbox.codebase_id == codebase
    assert dict(info.sandbox.labels) == {"team": "red"} and info.owner_id == "ann"
    assert len(info.sandbox.permissions) == len(AGENT_SAFE)
    assert info.options.commit_policy == sbpb.COMMIT_POLICY_MANUAL
    assert info.options.conflict_policy == sbpb.CONFLICT_POLICY_REFUSE
    assert (info.options.quota.bytes, info.options.quota.inodes) == (5000, 7)
    assert info.options.network == sbpb.NETWORK_NONE
    assert info.access == sbpb.ACCESS_NORMAL and info.delta_bytes == info.delta_inodes == 0


def test_unset_options_are_answered_with_their_defaults(client, make):
    info = make(start=False)
    assert info.options.commit_policy == sbpb.COMMIT_POLICY_ON_EXEC
    assert info.options.conflict_policy == sbpb.CONFLICT_POLICY_LAST_WRITER_WINS
    assert (info.options.quota.bytes, info.options.quota.inodes) == (0, 0)


def test_create_starts_when_told_to(client, make):
    info = make(start=True)
    assert info.sandbox.status == pb.SANDBOX_STATUS_RUNNING
    assert client.out(info.sandbox.id, "cat f") == "content\n"


def test_sandboxes_of_both_packages_are_the_same_objects(client, make, codebase):
    info = make(start=False)
    assert client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=info.sandbox.id)) == (
        info.sandbox
    )
    old = client.sandbox(codebase, READ_ONLY, start=False)
    assert get(client, old).options.commit_policy == sbpb.COMMIT_POLICY_ON_EXEC
    client.destroy(old)


BAD_REQUESTS = {
    "no codebase": sbpb.CreateRequest(),
    "commit policy": wanted("cb_" + "a" * 26, options=sbpb.SandboxOptions(commit_policy=9)),
    "conflict policy": wanted("cb_" + "a" * 26, options=sbpb.SandboxOptions(conflict_policy=9)),
    "network": wanted("cb_" + "a" * 26, options=sbpb.SandboxOptions(network=9)),
    "pattern": wanted("cb_" + "a" * 26, [("[a", "read", 0)]),
}


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda name: name.replace(" ", "-"))
def test_malformed_requests_are_refused_and_nothing_is_made(client, bad):
    before = listed(client)
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.views.Create, BAD_REQUESTS[bad])
    assert listed(client) == before


def test_get_of_no_sandbox_is_not_found(client):
    absent = sbpb.GetRequest(sandbox_id="sb_" + "a" * 26)
    expect(grpc.StatusCode.NOT_FOUND, client.views.Get, absent)
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.views.Get, sbpb.GetRequest(sandbox_id="x/y"))


# ---- batches


def test_batch_create_reports_each_item_in_order(client, codebase):
    items = [
        wanted(codebase, labels={"n": "0"}),
        wanted("cb_" + "a" * 26),
        wanted(codebase, [("[a", "read", 0)]),
        wanted(codebase, READ_ONLY, start=True, labels={"n": "3"}),
        sbpb.CreateRequest(),
    ]
    done = client.views.BatchCreate(sbpb.BatchCreateRequest(items=items)).items
    codes = [i.status.code for i in done]
    assert codes == [0, 5, 3, 0, 3], done
    assert all(i.status.message for i in done if i.status.code)
    assert not any(i.HasField("sandbox") for i in done if i.status.code)
    assert done[0].sandbox.labels["n"] == "0" and done[3].sandbox.labels["n"] == "3"
    assert done[0].sandbox.status == pb.SANDBOX_STATUS_PENDING
    assert done[3].sandbox.status == pb.SANDBOX_STATUS_RUNNING
    assert client.out(done[3].sandbox.id, "cat f") == "content\n"
    ids = [done[0].sandbox.id, "sb_" + "a" * 26, "nonsense", done[3].sandbox.id]
    ended = client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=ids)).items
    assert [i.code for i in ended] == [0, 5, 3, 0], ended
    for sandbox in (ids[0], ids[3]):
        expect(grpc.StatusCode.NOT_FOUND, client.views.Get, sbpb.GetRequest(sandbox_id=sandbox))


def test_batches_may_be_empty_and_have_a_bound(client, codebase):
    assert not client.views.BatchCreate(sbpb.BatchCreateRequest()).items
    assert not client.views.BatchDestroy(sbpb.BatchDestroyRequest()).items
    before = listed(client)
    many = sbpb.BatchCreateRequest(items=[wanted(codebase)] * 1025)
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.views.BatchCreate, many)
    large = [wanted(codebase, labels={"x": "y" * 1000, "z": "y" * 1000})] * 1024
    reply = client.views.BatchCreate(sbpb.BatchCreateRequest(items=large))
    made = [i.sandbox.id for i in reply.items]
    assert len(set(made)) == 1024
    ended = client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=made)).items
    assert all(i.code == 0 for i in ended)
    assert listed(client) == before


def test_the_same_sandbox_twice_in_a_batch_is_destroyed_once(client, codebase):
    made = client.views.Create(wanted(codebase, start=True)).sandbox.id
    ended = client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=[made, made])).items
    assert [i.code for i in ended] in ([0, 0], [0, 5]), ended


# ---- list


def test_list_filters_by_label_owner_codebase_and_status(client, codebase):
    other = client.codebase({"f": "x"}, owner="bob")
    items = [
        wanted(codebase, labels={"run": "7", "kind": "a"}),
        wanted(codebase, labels={"run": "7", "kind": "b"}, start=True),
        wanted(other, labels={"run": "7"}),
        wanted(other, labels={"run": "8"}),
    ]
    done = client.views.BatchCreate(sbpb.BatchCreateRequest(items=items)).items
    a, b, c, d = [i.sandbox.id for i in done]
    assert set(listed(client, labels={"run": "7"})) == {a, b, c}
    assert listed(client, labels={"run": "7", "kind": "b"}) == [b]
    assert listed(client, labels={"run": "9"}) == listed(client, labels={"ru": "7"}) == []
    assert set(listed(client, owner_id="bob")) == {c, d}
    assert listed(client, owner_id="bo") == []
    assert set(listed(client, codebase_id=other)) == {c, d}
    assert listed(client, labels={"run": "7"}, status=pb.SANDBOX_STATUS_RUNNING) == [b]
    everything = listed(client)
    assert everything == sorted(everything) and {a, b, c, d} <= set(everything)
    client.views.BatchDestroy(sbpb.BatchDestroyRequest(sandbox_ids=[a, b, c, d]))
    bad = sbpb.ListRequest(codebase_id="x")
    expect(grpc.StatusCode.INVALID_ARGUMENT, lambda r: list(client.views.List(r)), bad)


def test_a_list_of_thousands_is_a_stream_in_id_order(client, codebase):
    made = []
    for _ in range(3):
        items = [wanted(codebase, AGENT_SAFE, labels={"many": "x" * 500})] * 1000
        done = client.views.BatchCreate(sbpb.BatchCreateRequest(items=items)).items
        made += [i.sandbox.id for i in done]
    assert listed(client, labels={"many": "x" * 500}) == sorted(made)
    for start in range(0, len(made), 1000):
        client.views.BatchDestroy(
            sbpb.BatchDestroyRequest(sandbox_ids=made[start : start + 1000])
        )
    assert listed(client, labels={"many": "x" * 500}) == []


# ---- expiry


def set_expiry(client, sandbox_id, seconds=None):
    request = sbpb.SetExpiryRequest(sandbox_id=sandbox_id)
    if seconds is not None:
        request.expires_in.FromNanoseconds(int(seconds * 1e9))
    return client.views.SetExpiry(request)


def test_O1_an_expiry_is_moved_taken_away_and_enforced(client, make):
    info = make(start=False)
    later = set_expiry(client, info.sandbox.id, 3600)
    assert later.sandbox.expires_at.seconds - later.sandbox.created_at.seconds >= 3600
    never = set_expiry(client, info.sandbox.id)
    assert not never.sandbox.HasField("expires_at")
    for bad in (0, -1):
        request = sbpb.SetExpiryRequest(sandbox_id=info.sandbox.id)
        request.expires_in.FromNanoseconds(int(bad * 1e9))
        expect(grpc.StatusCode.INVALID_ARGUMENT, client.views.SetExpiry, request)
    assert get(client, info.sandbox.id) == never
    set_expiry(client, info.sandbox.id, 0.05)
    eventually(lambda: info.sandbox.id not in listed(client))


# ---- quota


def set_quota(client, sandbox_id, size=0, inodes=0):
    quota = sbpb.Quota(bytes=size, inodes=inodes)
    return client.views.SetQuota(sbpb.SetQuotaRequest(sandbox_id=sandbox_id, quota=quota))


def test_a_quota_at_create_is_enforced_at_the_write_itself(client, make):
    info = make(options=own(quota=sbpb.Quota(bytes=100000, inodes=1000)))
    sandbox = info.sandbox.id
    script = (
        "import errno, os\n"
        "f = os.open('big', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(f, b'x' * 90000)\n"
        "try:\n"
        "    while True: os.write(f, b'x' * 4000)\n"
        "except OSError as e: print(errno.errorcode[e.errno])\n"
        "print(os.fstat(f).st_size)\n"
    )
    word, size = client.out(sandbox, f'python3 -c "{script}"').split()
    assert word == "EDQUOT" and 96000 <= int(size) <= 100000
    assert get(client, sandbox).delta_bytes == int(size)
    client.out(sandbox, "rm big && head -c 95000 /dev/zero > other")


def test_a_quota_of_inodes_stops_creating_and_nothing_else(client, make):
    sandbox = make(options=own()).sandbox.id
    client.out(sandbox, "touch a b c")
    used = get(client, sandbox).delta_inodes
    set_quota(client, sandbox, inodes=used)
    for command in ("touch new", "mkdir e", "ln -s a l", "mkfifo p"):
        result = client.exec(sandbox, command)
        assert result.exit_code != 0 and "quota" in result.stderr.lower(), (command, result.stderr)
    client.out(sandbox, "echo more > a && mv b renamed && chmod 600 a && rm c && touch again")


def test_a_quota_lower_than_what_is_used_refuses_growth_and_nothing_else(client, make):
    sandbox = make(options=own()).sandbox.id
    client.out(sandbox, "head -c 50000 /dev/zero > a")
    info = set_quota(client, sandbox, size=10000)
    assert (info.options.quota.bytes, info.delta_bytes) == (10000, 50000)
    assert client.exec(sandbox, "echo x >> a").exit_code != 0
    assert client.exec(sandbox, "echo x > new").exit_code != 0
    client.out(sandbox, "cat a > /dev/null; mv a b; head -c 10 b; chmod 600 b; touch empty")
    client.out(sandbox, "printf y | dd of=b conv=notrunc status=none")  # in place: no growth
    client.out(sandbox, "truncate -s 1000 b && echo fits > c")
    set_quota(client, sandbox)
    client.out(sandbox, "head -c 200000 /dev/zero > b")


def test_statfs_shows_the_quota_as_the_size(client, make):
    sandbox = make(options=own(quota=sbpb.Quota(bytes=GIB, inodes=100))).sandbox.id
    size = "stat -f -c '%b %S %c' /workspace"
    assert client.out(sandbox, size) == f"{GIB // 4096} 4096 100\n"
    set_quota(client, sandbox, size=2 * GIB, inodes=200)
    assert client.out(sandbox, size) == f"{2 * GIB // 4096} 4096 200\n"
    client.out(sandbox, "head -c 8192 /dev/zero > f2")
    free, ifree = client.out(sandbox, "stat -f -c '%f %d' /workspace").split()
    assert int(free) <= 2 * GIB // 4096 - 2
    assert int(ifree) == 200 - get(client, sandbox).delta_inodes


# ---- what the access lets through


def set_access(client, sandbox_id, access):
    return client.views.SetAccess(sbpb.SetAccessRequest(sandbox_id=sandbox_id, access=access))


def test_access_must_be_named(client, make):
    sandbox = make(start=False).sandbox.id
    expect(grpc.StatusCode.INVALID_ARGUMENT, set_access, client, sandbox, 0)
    expect(grpc.StatusCode.INVALID_ARGUMENT, set_access, client, sandbox, 9)
    assert get(client, sandbox).access == sbpb.ACCESS_NORMAL
