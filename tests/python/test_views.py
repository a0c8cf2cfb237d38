"""agentfense.v1 from Python: many sandboxes at once, and changes of a living one."""

import datetime
import threading
import time

import agentfense as af
import pytest

CB = "cb_00000000000000000000000000"
SB = "sb_00000000000000000000000000"
FULL = [{"pattern": "**/*", "permission": "write"}]
READ = [{"pattern": "**/*", "permission": "read"}]


@pytest.fixture
def codebase(client):
    """A codebase with one file."""
    made = client.create_codebase("views", "owner-of-views")
    client.upload_file(made.id, "a.txt", b"hello")
    return made


@pytest.fixture
def sandbox(api, project, nothing_left):
    """A running sandbox that may write everywhere."""
    with api.sandbox("from_local", project, preset="full-access") as made:
        yield made


def test_many_sandboxes_in_one_call_each_with_its_own_result(client, codebase, nothing_left):
    results = client.create_sandboxes(
        [
            af.SandboxSpec(codebase.id, preset="read-only", labels={"n": "0"}, start=True),
            {"codebase_id": CB},
            {"codebase_id": codebase.id, "permissions": FULL},
            af.SandboxSpec(codebase.id, permissions=[{"pattern": "["}]),
            {"codebase_id": codebase.id, "commit_policy": "manual", "quota_bytes": 1 << 20},
        ]
    )
    assert [r.error is None for r in results] == [True, False, True, False, True]
    assert isinstance(results[1].error, af.CodebaseNotFoundError)
    assert isinstance(results[3].error, af.InvalidConfigurationError)
    with pytest.raises(af.CodebaseNotFoundError):
        results[1].unwrap()
    made = [results[i].unwrap() for i in (0, 2, 4)]
    assert made[0].status == af.SandboxStatus.RUNNING and made[0].labels == {"n": "0"}
    assert client.exec(made[0].id, "cat a.txt").stdout == "hello"
    assert made[1].status == af.SandboxStatus.PENDING
    view = client.get_view(made[2].id)
    assert (view.commit_policy, view.quota_bytes) == (af.CommitPolicy.MANUAL, 1 << 20)
    gone = client.destroy_sandboxes([m.id for m in made] + [SB])
    assert gone[:3] == [None] * 3 and isinstance(gone[3], af.SandboxNotFoundError)


def test_a_hundred_at_once(client, codebase, nothing_left):
    results = client.create_sandboxes([{"codebase_id": codebase.id}] * 100)
    ids = {result.unwrap().id for result in results}
    assert len(ids) == 100
    listed = {view.sandbox.id for view in client.list_views(codebase_id=codebase.id)}
    assert listed == ids
    assert client.destroy_sandboxes(ids) == [None] * 100


def test_specs_that_cannot_be(client, codebase):
    with pytest.raises(af.InvalidConfigurationError, match="SandboxSpec has no 'colour'"):
        client.create_sandboxes([{"codebase_id": codebase.id, "colour": "red"}])
    with pytest.raises(af.InvalidConfigurationError, match="codebase_id"):
        client.create_sandboxes([{}])
    with pytest.raises(TypeError):
        client.create_sandboxes([codebase.id])
    with pytest.raises(af.InvalidConfigurationError):
        client.create_sandboxes([{"codebase_id": codebase.id, "commit_policy": "never"}])
    with pytest.raises(TypeError):
        client.create_sandboxes([{"codebase_id": codebase.id, "quota_bytes": "5"}])
    assert client.create_sandboxes([]) == []


def test_one_sandbox_with_everything_a_spec_can_say(client, codebase, nothing_left):
    made = client.create_sandbox_from(
        af.SandboxSpec(
            codebase.id,
            permissions=FULL,
            labels={"a": "b"},
            expires_in=3600,
            commit_policy=af.CommitPolicy.MANUAL,
            conflict_policy=af.ConflictPolicy.REFUSE,
            quota_bytes=123456,
            quota_inodes=77,
            iops=1000,
            bandwidth=1 << 24,
            network=af.Network.NONE,
            start=True,
        )
    )
    view = client.get_view(made.id)
    assert view.sandbox.status == af.SandboxStatus.RUNNING
    assert view.commit_policy == af.CommitPolicy.MANUAL
    assert view.conflict_policy == af.ConflictPolicy.REFUSE
    assert (view.quota_bytes, view.quota_inodes) == (123456, 77)
    assert (view.iops, view.bandwidth) == (1000, 1 << 24)
    assert (view.access, view.network) == (af.Access.NORMAL, af.Network.NONE)
    assert view.owner_id == "owner-of-views"
    found = list(client.list_views(owner_id="owner-of-views", labels={"a": "b"}))
    assert made.id in [v.sandbox.id for v in found]
    assert list(client.list_views(labels={"a": "other"})) == []
    running = client.list_views(status="running", codebase_id=codebase.id)
    assert [v.sandbox.id for v in running] == [made.id]
    client.destroy_sandbox(made.id)


def test_rules_change_under_a_living_sandbox(sandbox):
    assert sandbox.run("echo more >> README.md").success
    assert sandbox.update_permissions(READ) == 0
    assert not sandbox.run("echo more >> README.md").success
    sandbox.update_permissions(preset="view-only")
    assert not sandbox.run("cat README.md").success
    sandbox.update_permissions([{"pattern": "/src/**", "permission": "write"}], preset="read-only")
    assert sandbox.run("cat README.md; echo x > src/new").success
    assert len(sandbox.refresh().info.permissions) == 2
    with pytest.raises(af.InvalidConfigurationError):
        sandbox.update_permissions([{"pattern": "["}])


def test_quota_access_and_expiry(client, sandbox):
    view = client.set_quota(sandbox.id, bytes=1 << 20, inodes=1000)
    assert (view.quota_bytes, view.quota_inodes) == (1 << 20, 1000)
    assert not sandbox.run("head -c 8000000 /dev/urandom > big").success
    sandbox.run("rm -f big")
    assert client.set_access(sandbox.id, af.Access.READ_ONLY).access == af.Access.READ_ONLY
    assert not sandbox.run("echo x > new").success
    assert client.set_access(sandbox.id, "normal").access == af.Access.NORMAL
    assert sandbox.run("echo x > new").success
    view = client.set_expiry(sandbox.id, datetime.timedelta(hours=2))
    left = view.sandbox.expires_at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=1) < left <= datetime.timedelta(hours=2)
    assert client.set_expiry(sandbox.id, None).sandbox.expires_at is None


def test_a_limit_of_requests_and_bytes(client, sandbox):
    view = client.set_io_limit(sandbox.id, iops=20)
    assert (view.iops, view.bandwidth) == (20, 0)
    began = time.monotonic()
    assert sandbox.run("for i in 1 2 3 4 5 6 7 8 9 10; do mkdir d$i; done").success
    assert time.monotonic() - began > 0.8
    view = client.set_io_limit(sandbox.id)
    assert (view.iops, view.bandwidth) == (0, 0)
    with pytest.raises(af.InvalidConfigurationError, match="65536"):
        client.set_io_limit(sandbox.id, bandwidth=1)
    with pytest.raises(TypeError):
        client.set_io_limit(sandbox.id, iops="5")


def test_what_is_not_there(client):
    for call in (
        client.get_view,
        lambda id_: client.update_permissions(id_, FULL),
        lambda id_: client.set_quota(id_, 1),
        lambda id_: client.set_io_limit(id_, 1),
        lambda id_: client.set_access(id_, "normal"),
        lambda id_: client.set_expiry(id_, 5),
    ):
        with pytest.raises(af.SandboxNotFoundError):
            call(SB)


def test_batches_from_many_threads(api, codebase, nothing_left):
    made, failures = [], []

    def work():
        try:
            with api.client() as mine:
                for _ in range(3):
                    made.extend(
                        r.unwrap()
                        for r in mine.create_sandboxes([{"codebase_id": codebase.id}] * 10)
                    )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len({m.id for m in made}) == 120
    with api.client() as client:
        assert client.destroy_sandboxes([m.id for m in made]) == [None] * 120
