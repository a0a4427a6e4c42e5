# SPDX-License-Identifier: Apache-2.0
"""The cache store: keys, references, delayed release; and as a whole against a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.engine_shim import PARAM_INVALID, SUCCESS, UNSET, Shim

pytestmark = pytest.mark.sanitize

REQUEST, BY_ID, BLOCKS = 1, 2, 3
Key = tuple[int, int, int, int]
Name = tuple[bool, int, int]


def request(req_id: int, model_id: int = 0) -> Key:
    return (REQUEST, model_id, req_id, UNSET)


def prefix(prefix_id: int, model_id: int = 0, req_id: int = 1) -> Key:
    return (REQUEST, model_id, req_id, prefix_id)


def blocks(model_id: int = 0) -> Key:
    return (BLOCKS, model_id, 0, 0)


def placeholder(model_id: int = 0) -> Key:
    return request(UNSET, model_id)


class Store:
    def __init__(self, shim: Shim) -> None:
        self.shim = shim
        self.ffi = shim.ffi
        self.lib: Any = shim.lib
        self.handle = self.lib.shim_store_new()
        self.pins: dict[int, list[Any]] = {}
        self.last_id = 0

    def close(self) -> None:
        for cache_id in list(self.pins):
            while self.pins[cache_id]:
                self.unpin(cache_id)
        self.lib.shim_store_clear(self.handle)
        self.lib.shim_store_delete(self.handle)

    def key(self, key: Key) -> Any:
        return self.ffi.new("shim_key *", key)

    def add(self, *keys: Key, registered: bool = False, paged: bool = False, count: int = 4) -> int:
        """The status; the id is in last_id."""
        array = self.ffi.new("shim_key[]", list(keys))
        out = self.ffi.new("int64_t *")
        status = self.lib.shim_store_add(
            self.handle, registered, paged, count, array, len(keys), out
        )
        self.last_id = out[0]
        return int(status)

    def added(self, *keys: Key, **how: Any) -> int:
        assert self.add(*keys, **how) == SUCCESS, self.shim.text()
        return self.last_id

    def notice(self) -> str:
        return self.shim.string(self.lib.shim_store_notice(self.handle))

    def find(self, key: Key) -> tuple[int, int, bool] | None:
        """Cache id, batch index, whether a pull uses the key up."""
        found = self.lib.shim_store_find(self.handle, self.key(key))
        return self._found(found)

    def entry(self, cache_id: int, batch_index: int) -> tuple[int, int, bool] | None:
        return self._found(self.lib.shim_store_find_entry(self.handle, cache_id, batch_index))

    @staticmethod
    def _found(found: Any) -> tuple[int, int, bool] | None:
        if found.cache_id == 0:
            return None
        return (found.cache_id, found.batch_index, bool(found.consumable))

    def pin(self, cache_id: int) -> bool:
        handle = self.lib.shim_store_pin(self.handle, cache_id)
        if handle:
            self.pins.setdefault(cache_id, []).append(handle)
        return bool(handle)

    def has(self, cache_id: int) -> bool:
        found = self.pin(cache_id)
        if found:
            self.unpin(cache_id)
        return found

    def unpin(self, cache_id: int) -> None:
        self.lib.shim_store_unpin(self.pins[cache_id].pop())

    def deallocate(self, cache_id: int) -> int:
        return int(self.lib.shim_store_deallocate(self.handle, cache_id))

    def unregister(self, cache_id: int) -> int:
        return int(self.lib.shim_store_unregister(self.handle, cache_id))

    def remove_key(self, key: Key) -> int:
        return int(self.lib.shim_store_remove_key(self.handle, self.key(key)))

    def released(self) -> list[int]:
        out = self.ffi.new("int64_t[]", 256)
        count = self.lib.shim_store_released(self.handle, out, 256)
        return list(out)[:count]

    def table(self) -> tuple[int, list[int], list[tuple[int, int, int]]]:
        """Version, cache ids, (req_id, model_id, cache id)."""
        ids, names = self.ffi.new("int64_t[]", 256), self.ffi.new("shim_name[]", 256)
        num_ids, num_names = self.ffi.new("uint64_t *"), self.ffi.new("uint64_t *")
        version = self.lib.shim_store_table(self.handle, ids, num_ids, names, num_names, 256)
        listed = [(n.req_id, n.model_id, n.cache_id) for n in list(names)[: num_names[0]]]
        return version, list(ids)[: num_ids[0]], listed

    def describe(self) -> str:
        return self.shim.string(self.lib.shim_store_describe(self.handle))


@pytest.fixture
def store(shim: Shim) -> Iterator[Store]:
    result = Store(shim)
    yield result
    result.close()


def test_ids_count_up_also_when_adding_fails(store: Store) -> None:
    assert store.added(request(1)) == 1
    assert store.add(request(1)) == PARAM_INVALID
    assert (store.last_id, store.released(), store.has(2)) == (2, [2], False)
    assert store.added(registered=True) == 3


def test_keys_are_positional(store: Store) -> None:
    cache = store.added(request(7), placeholder(), prefix(7), request(7, model_id=1))
    assert store.find(request(7)) == (cache, 0, True)
    assert store.find(prefix(7, req_id=99)) == (cache, 2, False)
    assert store.find(request(7, model_id=1)) == (cache, 3, True)
    assert store.find(placeholder()) is None
    assert store.table()[2] == [(7, 0, cache), (7, 1, cache)]


def test_blocks_key_is_a_name_without_req_id(store: Store) -> None:
    cache = store.added(blocks(3), paged=True)
    assert store.find(blocks(3)) == store.find(placeholder(3)) == (cache, 0, False)
    assert store.find(blocks(2)) is None
    assert store.table()[2] == [(UNSET, 3, cache)]


@pytest.mark.parametrize(
    ("keys", "how", "words"),
    [
        ([request(1)] * 5, {}, ["5 keys for 4 batch entries"]),
        ([request(9)], {}, ["keys[0] (req_id 9, model_id 0)", "bound to cache 1 already"]),
        ([request(2), prefix(9)], {}, ["keys[1] (prefix_id 9, model_id 0)", "cache 1"]),
        ([request(2), request(2)], {}, ["keys[1] (req_id 2, model_id 0)", "repeats"]),
        ([request(2), placeholder(5)], {}, ["keys[1] is a placeholder", "model_id 5", "cache 2"]),
        ([blocks(5)], {"paged": True}, ["BlocksCacheKey with model_id 5", "cache 2 already"]),
        ([blocks(6), blocks(7)], {"paged": True}, ["2 keys for a blocks cache"]),
        ([request(2)], {"paged": True}, ["kind of keys[0] is 1", "takes 3"]),
        ([request(2), blocks(6)], {}, ["kind of keys[1] is 3", "takes 1"]),
        ([(BY_ID, 0, 0, 0)], {}, ["kind of keys[0] is 2"]),
    ],
)
def test_refused_when_allocating(
    store: Store, keys: list[Key], how: dict[str, Any], words: list[str]
) -> None:
    store.added(request(9), prefix(9))
    store.added(blocks(5), paged=True)
    before = store.table()
    assert store.add(*keys, **how) == PARAM_INVALID
    for word in words:
        assert word in store.shim.text()
    assert store.table() == before
    assert store.released() == [3]


def test_many_placeholders_are_noticed_once_a_model(store: Store) -> None:
    cache = store.added(placeholder(), placeholder(), placeholder(), request(4))
    assert "several placeholder keys with model_id 0" in store.notice()
    assert store.notice() == ""
    assert store.find(request(4)) == (cache, 3, True)
    store.added(placeholder(0), placeholder(1))
    assert store.notice() == ""


def test_newest_registered_blocks_cache_takes_the_key(store: Store) -> None:
    first = store.added(blocks(2), paged=True, registered=True)
    second = store.added(blocks(2), paged=True, registered=True)
    assert store.notice() == (
        f"BlocksCacheKey with model_id 2 now names cache {second}; it was bound to cache {first}"
    )
    assert store.find(blocks(2)) == (second, 0, False)
    assert store.unregister(first) == first
    assert store.find(blocks(2)) == (second, 0, False)
    assert store.unregister(second) == second
    assert store.find(blocks(2)) is None


def test_earliest_registered_contiguous_cache_keeps_the_key(store: Store) -> None:
    first = store.added(request(2), registered=True)
    second = store.added(request(3), request(2), request(3), registered=True)
    assert store.find(request(2)) == (first, 0, False)
    assert store.find(request(3)) == (second, 0, False)
    assert "keys[1] (req_id 2, model_id 0) of cache 2 was not bound" in store.notice()
    assert "keys[2] (req_id 3, model_id 0) of cache 2 was not bound" in store.notice()
    assert store.entry(second, 1) == (second, 1, False)


def test_more_keys_than_batch_entries_may_be_registered(store: Store) -> None:
    cache = store.added(*map(request, range(6)), registered=True)
    assert store.find(request(5)) == (cache, 5, False)


def test_by_id_goes_by_the_key_of_the_entry(store: Store) -> None:
    cache = store.added(request(8), prefix(8))
    assert store.entry(cache, 0) == (cache, 0, True)
    assert store.entry(cache, 1) is None, "a prefix key is looked up among the request keys"
    assert store.entry(cache, 2) == (cache, 2, False)
    assert store.entry(cache, 4) is None
    assert store.entry(cache + 1, 0) is None
    assert store.entry(-1, 0) is None
    paged = store.added(paged=True)
    assert store.entry(paged, 0) == (paged, 0, False)
    assert store.entry(paged, 1) is None


def test_release_waits_for_keys(store: Store) -> None:
    cache = store.added(request(1), prefix(1))
    assert store.deallocate(cache) == 0
    assert store.deallocate(cache) == 0
    assert store.has(cache)
    assert store.find(request(1)) == (cache, 0, True)
    assert store.remove_key(request(1)) == 0
    assert store.released() == []
    assert store.remove_key(prefix(1)) == cache
    assert (store.released(), store.has(cache)) == ([cache], False)
    assert store.remove_key(prefix(1)) == store.deallocate(cache) == 0


def test_keys_gone_first(store: Store) -> None:
    cache = store.added(request(1))
    assert store.remove_key(request(1)) == 0
    assert store.has(cache)
    assert store.deallocate(cache) == cache
    assert store.released() == [cache]


def test_blocks_cache_goes_at_once_with_its_key(store: Store) -> None:
    cache = store.added(blocks(1), paged=True)
    assert store.deallocate(cache) == cache
    assert store.released() == [cache]
    assert store.find(blocks(1)) is None


def test_unbinding_a_blocks_key_keeps_the_memory(store: Store) -> None:
    cache = store.added(blocks(1), paged=True)
    assert store.remove_key(placeholder(1)) == 0
    assert store.find(blocks(1)) is None
    assert store.has(cache)
    assert store.added(blocks(1), paged=True) == cache + 1


def test_registered_caches_only_go_by_unregister(store: Store) -> None:
    cache = store.added(request(1), registered=True)
    version = store.table()[0]
    assert store.deallocate(cache) == store.remove_key(request(1)) == 0
    assert store.find(request(1)) == (cache, 0, False)
    assert store.table()[0] == version
    assert store.unregister(cache) == cache
    assert store.unregister(cache) == 0


def test_unregister_takes_allocated_caches_too(store: Store) -> None:
    cache = store.added(request(1), request(2))
    assert store.unregister(cache) == cache
    assert store.released() == [cache]
    assert store.find(request(2)) is None


def test_a_pin_outlives_the_store_entry(store: Store) -> None:
    cache = store.added(paged=True)
    assert store.pin(cache)
    assert store.deallocate(cache) == cache
    assert store.released() == []
    store.unpin(cache)
    assert store.released() == [cache]


def test_version_counts_what_a_peer_could_see(store: Store) -> None:
    assert store.table() == (0, [], [])
    cache = store.added(request(1))
    versions = [store.table()[0]]
    store.deallocate(cache)
    assert store.table()[0] == versions[0], "a delayed release changes nothing yet"
    store.remove_key(request(1))
    assert store.table()[0] > versions[0] > 0
    assert store.table()[1:] == ([], [])


def test_describe(store: Store) -> None:
    assert store.describe() == "no blocks caches with a key"
    for model_id in (4, 0):
        store.added(blocks(model_id), paged=True)
    store.added(request(1))
    assert store.describe() == "blocks caches for model_id 0, 4"
    for model_id in range(10, 30):
        store.added(blocks(model_id), paged=True)
    assert store.describe().endswith("22, 23 and 6 more")


# ---- the whole against a model ----


class Model:
    """The rules of the contract, said with dicts."""

    def __init__(self) -> None:
        self.caches: dict[int, dict[str, Any]] = {}
        self.names: dict[Name, tuple[int, int]] = {}
        self.pins: dict[int, int] = {}
        self.removed: set[int] = set()
        self.released: list[int] = []

    @staticmethod
    def name(key: Key) -> Name:
        kind, model_id, req_id, prefix_id = key
        if kind == BLOCKS:
            return (False, UNSET, model_id)
        return (True, prefix_id, model_id) if prefix_id != UNSET else (False, req_id, model_id)

    def add(self, cache_id: int, keys: list[Key], how: dict[str, Any]) -> bool:
        names = [self.name(key) for key in keys]
        kind = BLOCKS if how["paged"] else REQUEST
        if any(key[0] != kind for key in keys) or (how["paged"] and len(keys) > 1):
            return self._drop(cache_id)
        vacant = {(False, UNSET, model_id) for model_id in range(9)}
        real = [name for name in names if how["paged"] or name not in vacant]
        if not how["registered"]:
            too_many = len(keys) > how["count"]
            if too_many or any(name in self.names for name in names) or len(set(real)) < len(real):
                return self._drop(cache_id)
        self.caches[cache_id] = {**how, "held": True}
        for place, name in enumerate(names):
            if name in real and (how["paged"] or name not in self.names):
                self.names[name] = (cache_id, place)
        return True

    def _drop(self, cache_id: int) -> bool:
        self.released.append(cache_id)
        return False

    def keys_of(self, cache_id: int) -> list[Name]:
        return [name for name, (bound, _) in self.names.items() if bound == cache_id]

    def remove(self, cache_id: int) -> int:
        for name in self.keys_of(cache_id):
            del self.names[name]
        del self.caches[cache_id]
        self.removed.add(cache_id)
        self.release_if_free(cache_id)
        return cache_id

    def release_if_free(self, cache_id: int) -> None:
        if cache_id in self.removed and not self.pins.get(cache_id):
            self.released.append(cache_id)

    def deallocate(self, cache_id: int) -> int:
        cache = self.caches.get(cache_id)
        if cache is None or cache["registered"]:
            return 0
        cache["held"] = False
        if not cache["paged"] and self.keys_of(cache_id):
            return 0
        return self.remove(cache_id)

    def remove_key(self, key: Key) -> int:
        cache_id, _ = self.names.get(self.name(key), (0, 0))
        if cache_id == 0 or self.caches[cache_id]["registered"]:
            return 0
        del self.names[self.name(key)]
        cache = self.caches[cache_id]
        if cache["held"] or cache["paged"] or self.keys_of(cache_id):
            return 0
        return self.remove(cache_id)


IDS = st.one_of(st.integers(0, 2), st.just(UNSET))
KEYS = st.one_of(
    st.tuples(st.just(REQUEST), st.integers(0, 1), IDS, st.one_of(st.just(UNSET), IDS)),
    st.tuples(st.just(BLOCKS), st.integers(0, 1), st.just(0), st.just(0)),
)
CACHE_IDS = st.integers(-1, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.booleans(),
            st.booleans(),
            st.integers(1, 3),
            st.lists(KEYS, max_size=4),
        ),
        st.tuples(
            st.just("add"),
            st.booleans(),
            st.just(True),
            st.just(2),
            st.lists(KEYS.filter(lambda key: key[0] == BLOCKS), max_size=1),
        ),
        st.tuples(
            st.just("add"),
            st.booleans(),
            st.just(False),
            st.just(3),
            st.lists(KEYS.filter(lambda key: key[0] == REQUEST), max_size=3),
        ),
        st.tuples(st.sampled_from(["deallocate", "unregister", "pin", "unpin"]), CACHE_IDS),
        st.tuples(st.just("remove_key"), KEYS),
    ),
    max_size=25,
)


@given(STEPS)
def test_against_model(shim: Shim, steps: list[tuple[Any, ...]]) -> None:
    store, model = Store(shim), Model()
    for step, *args in steps:
        version = store.table()[0]
        seen = store.table()[1:]
        if step == "add":
            how = {"registered": args[0], "paged": args[1], "count": args[2]}
            status = store.add(*args[3], **how)
            assert (status == SUCCESS) == model.add(store.last_id, args[3], how)
        elif step == "deallocate":
            assert store.deallocate(args[0]) == model.deallocate(args[0])
        elif step == "unregister":
            wanted = model.remove(args[0]) if args[0] in model.caches else 0
            assert store.unregister(args[0]) == wanted
        elif step == "remove_key":
            assert store.remove_key(args[0]) == model.remove_key(args[0])
        elif step == "pin":
            assert store.pin(args[0]) == (args[0] in model.caches)
            if args[0] in model.caches:
                model.pins[args[0]] = model.pins.get(args[0], 0) + 1
        elif model.pins.get(args[0]):
            store.unpin(args[0])
            model.pins[args[0]] -= 1
            if not model.pins[args[0]]:
                model.release_if_free(args[0])
        check(store, model)
        assert (store.table()[0] > version) or store.table()[1:] == seen
    store.close()


def check(store: Store, model: Model) -> None:
    assert store.released() == model.released
    _, ids, names = store.table()
    assert ids == sorted(model.caches)
    wanted = [
        (req, m, bound) for (is_prefix, req, m), (bound, _) in model.names.items() if not is_prefix
    ]
    assert names == sorted(wanted)
    for is_prefix, number, model_id in model.names:
        key = prefix(number, model_id) if is_prefix else request(number, model_id)
        cache_id, place = model.names[(is_prefix, number, model_id)]
        cache = model.caches[cache_id]
        used_up = not is_prefix and not cache["registered"] and not cache["paged"]
        assert store.find(key) == (cache_id, place, used_up)
