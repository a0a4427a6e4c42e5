# SPDX-License-Identifier: Apache-2.0
"""LLMDataDist: life cycle, roles and links of an engine (contract 1.4 and chapter 7)."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from . import _addresses, config
from ._checks import (
    check_elements,
    check_int32,
    check_members,
    check_no_null,
    check_optional,
    check_type,
    check_uint64,
    refuse,
    require,
)
from .cache import RegisterMemStatus
from .cache_manager import CacheManager
from .config import LLMClusterInfo, LLMConfig, LLMRole, config_of_members
from .options import allows_multiple_instances, read_options
from .status import LLMDataDistWarning, LLMException, LLMStatusCode, warn
from .utils.log import get_logger

if TYPE_CHECKING:
    from ._linked import Peer
    from ._native.engine import Engine
    from .introspection import Counters, LinkInfo, PathInfo
    from .statistics import Statistics

__all__ = ["LLMDataDist"]

_MAX_COMM_NAME = 127

# One lock for init and finalize of the whole process: whether another instance exists must not
# change in between.
_life = threading.RLock()
_live: list[LLMDataDist] = []


class LLMDataDist:
    """One participant: an engine with its caches and its links.

    Args:
        role: has no influence on transfers.
        cluster_id: uint64, unique among all participants that link.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of its range.
        RuntimeError: by every method and property except init, finalize and cluster_id, before init
            and after finalize.
    """

    llm_engine_instance: ClassVar[LLMDataDist | None] = None

    def __init__(self, role: LLMRole, cluster_id: int) -> None:
        check_type("role", role, LLMRole)
        check_uint64("cluster_id", cluster_id)
        self._role = role
        self._cluster_id = cluster_id
        self._engine: Engine | None = None
        self._is_closing = False
        self._cache_manager: CacheManager | None = None

    # ---- life ----

    @classmethod
    def open(
        cls, role: LLMRole, cluster_id: int, config: LLMConfig | None = None, **members: Any
    ) -> LLMDataDist:
        """Make an engine and open it; a context manager that finalizes it.

            with LLMDataDist.open(LLMRole.PROMPT, 1, listen_ip_info="127.0.0.1:0") as engine:
                ...

        An extension of this package.

        Args:
            role, cluster_id: as for the class.
            config: its members; None: those of a new LLMConfig. It is not changed.
            members: further members of LLMConfig by name, which win over those of config.
                enable_cache_manager is set unless one of the two sets it.

        Raises:
            AttributeError: LLMConfig has no such member.

        Further, as the setters of LLMConfig and init().
        """
        check_optional("config", config, LLMConfig)
        options = config_of_members(members).generate_options()
        if config is not None:
            options = {**config.generate_options(), **options}
        options.setdefault(LLMConfig.enable_cache_manager.key, "1")
        engine = cls(role, cluster_id)
        engine.init(options)
        return engine

    def __enter__(self) -> LLMDataDist:
        self._open_engine()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.finalize()

    def init(self, options: dict[str, str]) -> None:
        """Open the engine; nothing happens when it is open.

        Args:
            options: of LLMConfig.generate_options(), to which the client may have added; it is not
                changed.

        Raises:
            TypeError: an argument has another type.
            ValueError: the listen port is out of its range.
            LLMException: LLM_FAILED (another instance is open and allow_multiple_instances is not
                set, or the listen address cannot be bound), LLM_FEATURE_NOT_ENABLED
                (enable_cache_manager is not set), LLM_PARAM_INVALID, LLM_OUT_OF_MEMORY.
            NativeLibraryError: the library cannot be used.

        Source: 1.4.1.
        """
        # Here, because importing the package must stay cheap for those who only name its classes.
        from ._native.engine import Engine

        with _life:
            if self._engine is not None:
                return
            if _live and not allows_multiple_instances(options):
                refuse(
                    f"LLMDataDist with cluster_id {_live[-1].cluster_id} is initialized already in "
                    "this process: finalize it, or set LLMConfig.allow_multiple_instances",
                    LLMStatusCode.LLM_FAILED,
                )
            read = read_options(self._cluster_id, self._role, options)
            get_logger().info("init cluster %d with %s", self._cluster_id, config.masked(options))
            self._engine = Engine(read)
            self._is_closing = False
            self._cache_manager = CacheManager(self._engine)
            _live.append(self)
            LLMDataDist.llm_engine_instance = self
        try:
            self._open_engine().warn_of_notices()
        except LLMDataDistWarning:
            # One that is made an error: who catches it has no engine.
            self.finalize()
            raise

    def finalize(self) -> None:
        """Close the engine, waiting for running calls; nothing happens when it is not open.

        Transfers that run end with LLM_TIMEOUT (decision 83).
        Peers are not told; they see the connections close. A CacheManager that is kept raises
        LLM_ENGINE_FINALIZED from now on. A warning says so if the device's library has not returned
        within finalize_timeout: then the device stays taken, and init() on it is refused.
        """
        with _life:
            engine = self._engine
            if engine is None:
                return
            for notice in engine.take_notices():
                get_logger().warning(notice)
            manager = self.cache_manager
            self._is_closing = True
            manager._leave_engine(self._cluster_id)
            try:
                engine.close()
            except LLMException as failure:
                # A forked child has its parent's; LLM_TIMEOUT: the device's library hangs.
                get_logger().error(str(failure))
                if failure.status_code == LLMStatusCode.LLM_TIMEOUT:
                    warn(str(failure))
            finally:
                # Also when Ctrl-C has shortened it: the engine is closed then. Peers were in the
                # memory until now.
                manager._kept.clear()
                self._engine = None
                self._cache_manager = None
                if self in _live:
                    _live.remove(self)
                LLMDataDist.llm_engine_instance = _live[-1] if _live else None

    @property
    def _is_open(self) -> bool:
        return self._engine is not None and not self._is_closing

    def _open_engine(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise RuntimeError("LLMDataDist is not initialized: call init() first")
        return engine

    @property
    def cluster_id(self) -> int:
        """The id given at construction."""
        return self._cluster_id

    @property
    def cache_manager(self) -> CacheManager:
        """The caches of this engine; the same object from init to finalize."""
        self._open_engine()
        assert self._cache_manager is not None
        return self._cache_manager

    @property
    def kv_cache_manager(self) -> object:
        """The manager of the old interface: always LLM_PARAM_INVALID, as in CacheManager mode."""
        self._open_engine()
        refuse("kv_cache_manager is not available in CacheManager mode: use cache_manager")

    def check_link_status(self, remote_cluster_id: int) -> None:
        """Test a link of the old interface: always LLM_PARAM_INVALID, as in CacheManager mode."""
        self._open_engine()
        refuse(
            f"check_link_status({remote_cluster_id}) is not available in CacheManager mode: "
            "use links()"
        )

    def switch_role(self, role: LLMRole, switch_options: dict[str, str] | None = None) -> None:
        """Take another role: with a listen address to listen on, without one to stop listening.

        Args:
            role: the new one; may be the present one.
            switch_options: "llm.listenIpInfo" counts, other keys are ignored.

        Raises:
            TypeError: an argument has another type.
            ValueError: the port is out of its range.
            LLMException: LLM_EXIST_LINK (there are live links), LLM_PARAM_INVALID, LLM_FAILED
                (cannot listen; the old listener is closed by then), LLM_FEATURE_NOT_ENABLED
                ("hixl": another address).

        Source: 7.5.
        """
        engine = self._open_engine()
        check_type("role", role, LLMRole)
        check_optional("switch_options", switch_options, dict)
        ip: str | None = None
        port = 0
        key = LLMConfig.listen_ip_info.key
        if switch_options and key in switch_options:
            check_type(key, switch_options[key], str)
            ip, port = _addresses.split_listen_info(switch_options[key])
        # The "hixl" backend goes on listening where it does (contract 7.3).
        if ip is not None or not engine.options.one_way_links:
            engine.switch_listener(ip, port)
        self._role = role

    # ---- links ----

    def link_clusters(
        self, clusters: Sequence[LLMClusterInfo], timeout: int = 3000
    ) -> tuple[LLMStatusCode, list[LLMStatusCode]]:
        """Link to peers that listen, in parallel.

        Args:
            clusters: each with one remote address, and a local one unless local_comm_res is set. A
                remote_cluster_id that is not set is learnt from the peer and can be read
                afterwards.
            timeout: milliseconds, > 0.

        Returns:
            Success or the status of the last failing entry, and a status for each entry;
            LLMClusterInfo.link_detail says more. LLM_ALREADY_LINK: the link exists and stays.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID, for arguments only.

        Source: 7.1, decision 21.
        """
        engine = self._open_engine()
        clusters = self._check_clusters(clusters, timeout)
        for cluster in clusters:
            if not engine.options.local_comm_res and not cluster.local_ip_info_list:
                refuse(
                    "local_ip_info_list is empty, and local_comm_res is not set: call "
                    f"append_local_ip_info(ip, 0) with an address of this host: {cluster}"
                )
            if cluster.remote_cluster_id is None and not cluster.remote_ip_info_list:
                raise TypeError(
                    "remote_cluster_id only support int, got None and no remote address to learn "
                    "it from"
                )
        outcome = engine.links.link_clusters(clusters, timeout)
        self._report("link_clusters", clusters, outcome)
        return outcome

    def unlink_clusters(
        self, clusters: Sequence[LLMClusterInfo], timeout: int = 3000, force: bool = False
    ) -> tuple[LLMStatusCode, list[LLMStatusCode]]:
        """Unlink from peers, in parallel; not linked is success.

        Args:
            clusters: each with remote_cluster_id, and unless force one remote address.
            timeout: milliseconds, > 0.
            force: drop this end only, without telling the peer; transfers of this engine over the
                link end with LLM_TIMEOUT.

        Returns and raises as link_clusters. Without force, LLM_UNLINK_FAILED or LLM_TIMEOUT: the
        peer is gone or silent, or transfers have the link, and this end stays. With force,
        LLM_TIMEOUT: a transfer did not end in time; the link is gone for later ones.

        Source: 7.2, decisions 34, 35, 82 and 83.
        """
        engine = self._open_engine()
        check_optional("force", force, bool)
        clusters = self._check_clusters(clusters, timeout)
        for cluster in clusters:
            check_uint64("remote_cluster_id", cluster.remote_cluster_id)
        outcome = engine.links.unlink_clusters(clusters, timeout, bool(force))
        self._report("unlink_clusters", clusters, outcome)
        return outcome

    @staticmethod
    def _check_clusters(clusters: Sequence[LLMClusterInfo], timeout: int) -> list[LLMClusterInfo]:
        """Return the clusters as they are from now on, whatever happens to the client's list."""
        check_int32("timeout", timeout)
        if timeout <= 0:
            refuse(f"timeout must be positive, got {timeout}")
        return check_elements("clusters", clusters, LLMClusterInfo)

    def _report(
        self,
        name: str,
        clusters: Sequence[LLMClusterInfo],
        outcome: tuple[LLMStatusCode, list[LLMStatusCode]],
    ) -> None:
        for cluster, code in zip(clusters, outcome[1]):
            if code != LLMStatusCode.LLM_SUCCESS:
                get_logger().error("[%s] %s: %s, %s", name, cluster, code, cluster.link_detail)
        self._open_engine().warn_of_notices()

    def linked(
        self, *peers: Peer, timeout: int = 3000
    ) -> AbstractContextManager[list[LLMClusterInfo]]:
        """Link to peers that listen, and unlink from them at the end of the block.

            with decoder.linked("127.0.0.1:26000"):
                decoder.cache_manager.pull_blocks(...)

        An extension of this package. At the end, peers from which link_clusters cannot be taken
        back in the regular way (they are gone, or do not answer) are unlinked by force.

        Args:
            peers: "ip:port", an (ip, port), an LLMClusterInfo, or an engine of this process.
            timeout: milliseconds, > 0, for each of linking and unlinking.

        Returns:
            A context manager, which gives an LLMClusterInfo for each peer, with its cluster id.

        Raises:
            LLMException: a peer was not linked, for the reason in the text; none is then.

        Further, as link_clusters.
        """
        from ._linked import linked

        return linked(self, peers, timeout)

    def link(self, comm_name: str, cluster_rank_info: dict[int, int], rank_table: str) -> int:
        """Join a communicator whose members all call this; returns without waiting for them.

        Args:
            comm_name: 1 to 127 characters, equal at all members.
            cluster_rank_info: cluster id (uint64) to rank (uint32), 2 to 4 of them with ranks
                ascending, equal at all members.
            rank_table: JSON for the device.

        Returns:
            The communicator's id.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID, LLM_LINK_FAILED.

        Source: 7.4.
        """
        engine = self._open_engine()
        check_type("comm_name", comm_name, str)
        if not 1 <= len(comm_name) <= _MAX_COMM_NAME:
            refuse(f"comm_name must have 1 to {_MAX_COMM_NAME} characters, got {len(comm_name)}")
        check_no_null("comm_name", comm_name)
        cluster_rank_info = check_members(cluster_rank_info)
        check_type("rank_table", rank_table, str)
        check_no_null("rank_table", rank_table)
        require(len(cluster_rank_info) >= 2, "cluster_rank_info needs at least 2 members")
        ranks = list(cluster_rank_info.values())
        if ranks != sorted(ranks):
            refuse(f"the ranks of cluster_rank_info must ascend, got {ranks}")
        self.cache_manager.set_is_call_linked()
        return engine.links.link(comm_name, cluster_rank_info, rank_table)

    def unlink(self, comm_id: int) -> None:
        """Leave a communicator; the other members are not told.

        Args:
            comm_id: of link(), uint64.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_NOT_YET_LINK (no such id), LLM_UNLINK_FAILED.

        Source: 7.4.
        """
        engine = self._open_engine()
        check_uint64("comm_id", comm_id)
        engine.links.unlink(comm_id)

    def query_register_mem_status(self, comm_id: int) -> RegisterMemStatus:
        """Tell how far a communicator is; its links can be used once it is OK.

        Args:
            comm_id: of link(), uint64.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_NOT_YET_LINK (no such id).

        Source: 7.4.
        """
        engine = self._open_engine()
        check_uint64("comm_id", comm_id)
        state = engine.links.group_state(comm_id)
        engine.warn_of_notices()
        try:
            return RegisterMemStatus(state)
        except ValueError:
            return RegisterMemStatus.FAILED

    # ---- introspection (extensions) ----

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """The ip and the real port that this engine listens on; None: it does not listen."""
        return self._open_engine().listen_address()

    def links(self) -> list[LinkInfo]:
        """Return the links of this engine."""
        return self._open_engine().links.all()

    def drop_gone_links(self) -> int:
        """Drop the links of link_clusters whose peers are gone; return how many. Decision 73."""
        return self._open_engine().links.drop_gone()

    def link_paths(self, cluster_id: int) -> list[PathInfo]:
        """Return how the memory of a linked peer is reached, and why.

        Args:
            cluster_id: of the peer, uint64.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_NOT_YET_LINK.
        """
        engine = self._open_engine()
        check_uint64("cluster_id", cluster_id)
        return engine.links.paths(cluster_id)

    def counters(self) -> Counters:
        """Return the totals since init."""
        return self._open_engine().counters()

    def statistics(self) -> Statistics:
        """Return what transfers have come to since init, link by link and at both ends."""
        return self._open_engine().links.statistics(self._cluster_id, self.counters())

    def __repr__(self) -> str:
        state = "not initialized" if self._engine is None else "initialized"
        return f"<LLMDataDist {self._role} cluster_id={self._cluster_id}, {state}>"


def _finalize_at_exit() -> None:
    for instance in list(_live):
        instance.finalize()


def _forget_in_child() -> None:
    # The parent's engines are dead here and answer each call with an error; the child may open its
    # own. The lock may have been held by a thread that does not exist in the child.
    global _life
    _life = threading.RLock()
    _live.clear()
    LLMDataDist.llm_engine_instance = None


atexit.register(_finalize_at_exit)
os.register_at_fork(after_in_child=_forget_in_child)
