"""Markers that ask for real peers and real data, and the fixtures that start and hand them out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.orthanc import Orthanc
from support.peers import require_peer
from support.postgresql_cluster import PostgresqlCluster
from support.redis_server import RedisServer
from support.small_bundle import make_small_bundle

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NO_REAL_DATA = (
    "no real chest CT beside the checkout (../shared/data); its licences do not allow to ship it"
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs something absent, with the reason; a missing peer fails with CI=true."""
    if item.get_closest_marker("real_data") is not None and not REAL_DATA.is_dir():
        pytest.skip(NO_REAL_DATA)
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            require_peer(name)


@pytest.fixture(scope="session", autouse=True)
def no_configuration_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own node out of the tests: its node.toml, its variables, its ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in [name for name in os.environ if name.startswith("M3LUNG_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts_reach_what_is_started() -> None:
    """A shell starts what runs in the background with SIGINT ignored, which is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real series beside the checkout. Read from it, never copy it here."""
    if not REAL_DATA.is_dir():
        pytest.skip(NO_REAL_DATA)
    return REAL_DATA


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A running, empty Orthanc."""
    require_peer("orthanc")
    pacs = Orthanc(tmp_path / "orthanc")
    pacs.start()
    yield pacs
    pacs.kill()  # three seconds faster than asking; its directory goes anyway


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running, empty Redis that the test may kill, restart, flush and pause."""
    require_peer("redis")
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of a running, empty Redis."""
    return redis_server.url


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[PostgresqlCluster]:
    """A running PostgreSQL of this session."""
    require_peer("postgresql")
    cluster = PostgresqlCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def postgresql_url(postgresql_cluster: PostgresqlCluster) -> Iterator[str]:
    """SQLAlchemy URL of a fresh, empty database."""
    with postgresql_cluster.database() as url:
        yield url


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bundle that reads a slice in milliseconds."""
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "small")
