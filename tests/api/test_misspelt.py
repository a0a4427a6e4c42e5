# SPDX-License-Identifier: Apache-2.0
"""Keywords and members that nothing reads: contract 1.10, decisions 64 and 65."""

from __future__ import annotations

import warnings

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKeyByIdAndIndex,
    DataType,
    LLMConfig,
    LLMDataDistWarning,
    status,
)

DESC = CacheDesc(4, [8, 16], DataType.DT_INT8)
BLOCKS, CONTIGUOUS = Cache(5, DESC, [1, 2, 3, 4], True), Cache(6, DESC, [1, 2, 3, 4], False)
KEY, BY_ID = BlocksCacheKey(9), CacheKeyByIdAndIndex(9, 3)
PULLS = {
    "pull_blocks": lambda manager, **kwargs: manager.pull_blocks(KEY, BLOCKS, [1], [2], **kwargs),
    "pull_cache": lambda manager, **kwargs: manager.pull_cache(BY_ID, CONTIGUOUS, **kwargs),
}


@pytest.fixture(autouse=True)
def _nothing_warned_of_yet(monkeypatch):
    monkeypatch.setattr(status, "_warned", set())


@pytest.mark.rule("C1.10-23", "C10-64")
@pytest.mark.parametrize("pull", PULLS)
@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("src_layer_rnge", r"did you mean src_layer_range\?"),
        ("tensors_per_layer", r"did you mean tensor_num_per_layer\?"),
        ("x", "there are src_layer_range, dst_layer_range, tensor_num_per_layer"),
    ],
)
def test_an_unknown_keyword_is_ignored_with_one_warning(native, manager, pull, keyword, hint):
    expected = rf"^pull_cache and pull_blocks ignore the keyword '{keyword}': {hint}$"
    with pytest.warns(LLMDataDistWarning, match=expected) as caught:
        PULLS[pull](manager, dst_layer_range=range(1, 2), **{keyword: range(1)})
    assert [each.filename for each in caught] == [__file__]
    args = native.last("pull")[1]
    assert (args["src_layer_count"], args["dst_layer_start"], args["dst_layer_count"]) == (0, 1, 1)
    # Both have the same keywords, and the second time says nothing new.
    for again in PULLS.values():
        again(manager, **{keyword: 1})


@pytest.mark.rule("C10-64")
def test_each_unknown_keyword_has_a_warning_of_its_own(manager):
    with pytest.warns(LLMDataDistWarning) as caught:
        PULLS["pull_blocks"](manager, size=1, batch_index=2)
    assert [str(each.message).split("'")[1] for each in caught] == ["size", "batch_index"]


@pytest.mark.rule("C10-64")
def test_nothing_is_pulled_where_the_warning_is_made_an_error(native, manager):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        for pull in PULLS.values():
            with pytest.raises(LLMDataDistWarning):
                pull(manager, src_layers=range(1))
    assert native.of("pull") == []


@pytest.mark.rule("C10-65")
@pytest.mark.parametrize(
    ("member", "nearest"),
    [
        ("listen_ip", "listen_ip_info"),
        ("sync_kv_timeout_ms", "sync_kv_timeout"),
        ("enable_remote_cache_acessible", "enable_remote_cache_accessible"),
        ("deviceid", "device_id"),
    ],
)
def test_a_misspelt_member_is_set_with_one_warning(member, nearest):
    config = LLMConfig()
    expected = rf"^LLMConfig has no member '{member}', .*: did you mean {nearest}\?$"
    with pytest.warns(LLMDataDistWarning, match=expected) as caught:
        setattr(config, member, 1)
    assert [each.filename for each in caught] == [__file__]
    assert getattr(config, member) == 1
    assert config.generate_options() == LLMConfig().generate_options()
    setattr(LLMConfig(), member, 2)


@pytest.mark.rule("C10-65")
def test_a_member_that_is_near_to_none_is_told_all():
    with pytest.warns(LLMDataDistWarning, match="there are allow_multiple_instances, auth_token,"):
        LLMConfig().zzz = 1


@pytest.mark.rule("C10-65")
def test_members_that_are_no_reason_to_warn():
    config = LLMConfig()
    config.sync_kv_timeout = 5
    config._own = 1

    class Own(LLMConfig):
        comment = None

        def __init__(self):
            super().__init__()
            self.zzz = 1
            self.comment = "a member of the class"

    own = Own()
    assert (own.zzz, own.comment) == (1, "a member of the class")
    with pytest.raises(AttributeError):
        config.options = {}
    with pytest.warns(LLMDataDistWarning, match="^Own has no member 'device_ids'.*device_id"):
        own.device_ids = [1]
