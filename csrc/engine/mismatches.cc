// SPDX-License-Identifier: Apache-2.0
#include "engine/mismatches.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace lldd {
namespace {

// False if every block is the destination of one pair only; else the first that is that of several.
bool FindRepeated(const BlockPairs &pairs, bool at_peer, uint64_t *block) {
    std::vector<std::pair<uint64_t, uint64_t>> spans;
    for (const BlockRun &run : pairs)
        spans.emplace_back(at_peer ? run.remote : run.local, run.count);
    std::sort(spans.begin(), spans.end());
    for (size_t i = 1; i < spans.size(); ++i) {
        *block = spans[i].first;
        if (spans[i].first - spans[i - 1].first < spans[i - 1].second) return true;
    }
    return false;
}

std::string TextOf(const std::vector<int64_t> &dims) {
    std::string text = "[";
    for (const int64_t dim : dims)
        text += Format(text.size() == 1 ? "%lld" : ", %lld", static_cast<long long>(dim));
    return text + "]";
}

}  // namespace

bool Mismatches::WarnOfTypes(Link *link, const Cache &own, const PeerCache &peer) const {
    if (!link->FirstWarning(Link::Warning::kTypes, own.id, peer.id)) return false;
    notices_->Add(
        Format("cache %lld here has data_type %u, cache %lld of %s has %u: their bytes "
               "are moved as they are",
               Printable(own.id), own.shape.data_type, static_cast<long long>(peer.id),
               link->peer_name().c_str(), peer.shape.data_type));
    return true;
}

bool Mismatches::WarnOfTypeThere(Link *link, const Cache &own, uint32_t data_type) const {
    // No cache has an id below 1: such a place is told apart by its type.
    if (!link->FirstWarning(Link::Warning::kTypes, own.id, -int64_t{data_type})) return false;
    notices_->Add(Format(
        "cache %lld here has data_type %u, the cache at the destination addresses of %s "
        "has %u: their bytes are moved as they are",
        static_cast<long long>(own.id), own.shape.data_type, link->peer_name().c_str(), data_type));
    return true;
}

bool Mismatches::WarnOfDims(Link *link, const Cache &own, const PeerCache &peer) const {
    if (own.shape.blocks != peer.shape.blocks || own.dims.empty() || peer.dims.empty() ||
        std::equal(own.dims.begin() + 1, own.dims.end(), peer.dims.begin() + 1, peer.dims.end()) ||
        !link->FirstWarning(Link::Warning::kDims, own.id, peer.id))
        return false;
    notices_->Add(Format(
        "cache %lld here has the shape %s, cache %lld of %s has %s: their bytes are moved as "
        "they are",
        static_cast<long long>(own.id), TextOf(own.dims).c_str(), static_cast<long long>(peer.id),
        link->peer_name().c_str(), TextOf(peer.dims).c_str()));
    return true;
}

bool Mismatches::WarnOfRepeats(Link *link, int64_t own_id, int64_t peer_id, const BlockPairs &pairs,
                               bool at_peer) const {
    uint64_t block = 0;
    if (!FindRepeated(pairs, at_peer, &block) ||
        !link->FirstWarning(Link::Warning::kRepeatedBlocks, own_id, peer_id))
        return false;
    notices_->Add(
        Format("dst_blocks names block %llu more than once, in a transfer of cache %lld "
               "with %s: which bytes it has afterwards is not said",
               Printable(block), Printable(own_id), link->peer_name().c_str()));
    return true;
}

}  // namespace lldd
