# SPDX-License-Identifier: Apache-2.0
"""Blocks from the device of one process to that of another; see docs/ascend.md.

python examples/two_devices.py prompt --listen 10.0.0.1:26000
python examples/two_devices.py decoder --listen 10.0.0.2:26000 --peer 10.0.0.1:26000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMRole,
    LLMStatusCode,
    Placement,
)

PROMPT, DECODER = 1, 2
TENSORS, BLOCKS, BLOCK_BYTES = 2, 16, 128 << 10
SHAPE = [BLOCKS, BLOCK_BYTES]
EVERY_BLOCK = {block: block for block in range(BLOCKS)}


def open_engine(args: argparse.Namespace) -> LLMDataDist:
    """Open the engine in one-sided mode, as each of the products can."""
    config = LLMConfig()
    config.device_id = args.device
    config.enable_cache_manager = True
    config.enable_remote_cache_accessible = True
    # HIXL takes the ip, too, and a port of its own.
    config.listen_ip_info = args.listen
    config.mem_pool_cfg = '{"memory_size": 268435456}'
    config.sync_kv_timeout = 10_000
    if args.local_comm_res:
        # Ascend 950: both must be set. What HIXL's documents call LocalCommRes, version "1.3".
        config.transfer_backend = "hixl"
        config.local_comm_res = args.local_comm_res.read_text()
    prompt = args.role == "prompt"
    datadist = LLMDataDist(
        LLMRole.PROMPT if prompt else LLMRole.DECODER, PROMPT if prompt else DECODER
    )
    datadist.init(config.generate_options())
    return datadist


def link_to_the_prompt(datadist: LLMDataDist, args: argparse.Namespace) -> None:
    """With the "hixl" backend, only this end may pull and push then."""
    cluster = LLMClusterInfo()
    cluster.remote_cluster_id = PROMPT
    cluster.append_local_ip_info(args.listen.partition(":")[0], 0)
    ip, _, port = args.peer.partition(":")
    cluster.append_remote_ip_info(ip, int(port))
    status, _ = datadist.link_clusters([cluster], 10_000)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise SystemExit(f"no link to {args.peer}: {status}")


def on_host(arrays: np.ndarray) -> Cache:
    """Describe memory of this process for swap_blocks, which moves it to and from a device."""
    desc = CacheDesc(TENSORS, SHAPE, DataType.DT_INT8, Placement.HOST)
    return Cache.create_cpu_cache(desc, [each.ctypes.data for each in arrays])


def main() -> None:
    """Be one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["prompt", "decoder"])
    parser.add_argument("--listen", required=True, metavar="IP:PORT", help="of this process")
    parser.add_argument("--peer", metavar="IP:PORT", help="of the prompt; for the decoder")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--local-comm-res", type=Path, metavar="FILE", help="for Ascend 950")
    args = parser.parse_args()
    if args.role == "decoder" and not args.peer:
        parser.error("the decoder needs --peer")

    datadist = open_engine(args)
    manager = datadist.cache_manager
    desc = CacheDesc(TENSORS, SHAPE, DataType.DT_INT8, Placement.DEVICE)
    cache = manager.allocate_blocks_cache(desc, BlocksCacheKey(datadist.cluster_id, 0))
    expected = np.random.default_rng(PROMPT).integers(0, 256, (TENSORS, *SHAPE), np.uint8)
    if args.role == "prompt":
        manager.swap_blocks(on_host(expected), cache, EVERY_BLOCK)
        input(f"the prompt listens at {args.listen}; Enter ends it\n")
    else:
        link_to_the_prompt(datadist, args)
        blocks = list(range(BLOCKS))
        manager.pull_blocks(BlocksCacheKey(PROMPT, 0), cache, blocks, blocks[::-1])
        found = np.zeros_like(expected)
        manager.swap_blocks(cache, on_host(found), EVERY_BLOCK)
        right = bool((found == expected[:, ::-1]).all())
        print(f"{expected.nbytes} bytes pulled, {'every one right' if right else 'WRONG'}")
        if not right:
            raise SystemExit(1)
    datadist.finalize()


if __name__ == "__main__":
    main()
