# SPDX-License-Identifier: Apache-2.0
"""Cache keys: contract 1.8 and decision 31."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_datadist import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex, LLMException
from tests.api.managed import assert_invalid

UINT64 = st.integers(0, 2**64 - 1)
OUTSIDE = st.one_of(st.integers(max_value=-1), st.integers(min_value=2**64))
NOT_INT = st.one_of(st.none(), st.floats(), st.text(), st.binary(), st.lists(st.integers()))


class TestBlocksCacheKey:
    def test_first_of_all(self):
        key = BlocksCacheKey(0, 0)
        assert (key.cluster_id, key.prompt_cluster_id, key.model_id) == (0, 0, 0)

    @pytest.mark.rule("C1.8-6", "C1.8-13")
    @given(UINT64, UINT64)
    def test_every_form(self, cluster_id, model_id):
        for key in (
            BlocksCacheKey(cluster_id, model_id),
            BlocksCacheKey(cluster_id, model_id=model_id),
            BlocksCacheKey(cluster_id=cluster_id, model_id=model_id),
            BlocksCacheKey(model_id=model_id, prompt_cluster_id=cluster_id),
        ):
            assert (key.cluster_id, key.prompt_cluster_id) == (cluster_id, cluster_id)
            assert key.model_id == model_id
        assert BlocksCacheKey(cluster_id).model_id == 0

    @pytest.mark.rule("C1.8-10")
    def test_repr_uses_the_name_given(self):
        assert repr(BlocksCacheKey(1, 3)) == "BlocksCacheKey(cluster_id=1, model_id=3)"
        assert repr(BlocksCacheKey(cluster_id=1)) == "BlocksCacheKey(cluster_id=1, model_id=0)"
        assert (
            repr(BlocksCacheKey(prompt_cluster_id=1, model_id=3))
            == "BlocksCacheKey(prompt_cluster_id=1, model_id=3)"
        )

    @pytest.mark.rule("C1.8-6")
    def test_precedence(self):
        assert BlocksCacheKey(1, cluster_id=2).cluster_id == 1
        assert BlocksCacheKey(1, prompt_cluster_id=2).cluster_id == 1
        assert BlocksCacheKey(cluster_id=1, prompt_cluster_id=2).cluster_id == 1
        assert BlocksCacheKey(1, 2, model_id=3).model_id == 2

    @pytest.mark.rule("C1.8-7", "C1.2-7")
    def test_invalid_combinations(self):
        assert_invalid(lambda: BlocksCacheKey(), "cluster_id is required")
        assert_invalid(lambda: BlocksCacheKey(model_id=1), "cluster_id is required")
        assert_invalid(lambda: BlocksCacheKey(1, 2, 3), "at most 2")
        assert_invalid(lambda: BlocksCacheKey(1, req_id=3), "Unsupported.*req_id")

    @pytest.mark.rule("C1.8-8", "C1.2-1")
    @given(NOT_INT)
    def test_not_an_int(self, value):
        with pytest.raises(TypeError, match="only support int"):
            BlocksCacheKey(value)
        with pytest.raises(TypeError, match="prompt_cluster_id only support int"):
            BlocksCacheKey(prompt_cluster_id=value)
        with pytest.raises(TypeError, match="model_id only support int"):
            BlocksCacheKey(1, value)

    @given(OUTSIDE)
    def test_outside_uint64(self, value):
        with pytest.raises(ValueError, match="cluster_id must be in"):
            BlocksCacheKey(value)
        with pytest.raises(ValueError, match="model_id must be in"):
            BlocksCacheKey(1, value)

    def test_range_errors_are_not_llm_exceptions(self):
        with pytest.raises(ValueError, match="cluster_id") as caught:
            BlocksCacheKey(-1)
        assert not isinstance(caught.value, LLMException)

    def test_identity_semantics(self):
        first, second = BlocksCacheKey(1), BlocksCacheKey(1)
        assert first != second
        assert len({first, second}) == 2

    def test_values_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            BlocksCacheKey(1).cluster_id = 2


class TestCacheKey:
    @pytest.mark.rule("C1.8-5")
    def test_repr(self):
        assert repr(CacheKey(1, 2)) == (
            "CacheKey(cluster_id=1, req_id=2, prefix_id=18446744073709551615, model_id=0)"
        )

    @pytest.mark.rule("C1.8-1", "C1.8-13")
    @given(UINT64, UINT64, UINT64, UINT64)
    def test_every_form(self, cluster_id, req_id, model_id, prefix_id):
        for key in (
            CacheKey(cluster_id, req_id, model_id, prefix_id),
            CacheKey(
                prompt_cluster_id=cluster_id, req_id=req_id, model_id=model_id, prefix_id=prefix_id
            ),
            CacheKey(cluster_id, prefix_id=prefix_id, req_id=req_id, model_id=model_id),
        ):
            assert (key.cluster_id, key.prompt_cluster_id) == (cluster_id, cluster_id)
            assert (key.req_id, key.model_id, key.prefix_id) == (req_id, model_id, prefix_id)

    @pytest.mark.rule("C1.8-2")
    def test_invalid_combinations_in_order(self):
        assert_invalid(lambda: CacheKey(1, 2, 3, 4, 5), "at most 4")
        assert_invalid(lambda: CacheKey(), "cluster_id is required")
        assert_invalid(lambda: CacheKey(req_id=1, other=2), "cluster_id is required")
        assert_invalid(lambda: CacheKey(1), "req_id is required")
        assert_invalid(lambda: CacheKey(1, other=2), "req_id is required")
        assert_invalid(lambda: CacheKey(1, 2, other=3), "Unsupported")

    @pytest.mark.rule("C1.8-3", "C1.2-6")
    @pytest.mark.parametrize("name", ["cluster_id", "req_id", "model_id", "prefix_id"])
    @pytest.mark.parametrize(
        ("value", "error"),
        [("1", TypeError), (None, TypeError), (-1, ValueError), (2**64, ValueError)],
    )
    def test_all_members_are_uint64(self, name, value, error):
        with pytest.raises(error, match=name):
            CacheKey(**{"cluster_id": 1, "req_id": 2, name: value})


class TestCacheKeyByIdAndIndex:
    @pytest.mark.rule("C1.8-11", "C1.8-12", "C1.8-13")
    def test_values_and_repr(self):
        key = CacheKeyByIdAndIndex(1, -2, 3)
        assert (key.cluster_id, key.cache_id, key.batch_index) == (1, -2, 3)
        assert repr(CacheKeyByIdAndIndex(1, 2)) == (
            "CacheKeyByIdAndIndex(cluster_id=1, cache_id=2, batch_index=0)"
        )

    @pytest.mark.rule("C1.8-11", "C1.2-6")
    @pytest.mark.parametrize(
        ("args", "error"),
        [
            ((None, 1), TypeError),
            ((-1, 1), ValueError),
            ((1, "1"), TypeError),
            ((1, 2**63), ValueError),
            ((1, 1, -1), ValueError),
            ((1, 1, 2**32), ValueError),
            ((1, 1, None), TypeError),
        ],
    )
    def test_checks(self, args, error):
        with pytest.raises(error):
            CacheKeyByIdAndIndex(*args)
