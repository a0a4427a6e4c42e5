// Pieces of a transfer, cut into chunks that one thread moves at a time.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mock_runtime/move.h"

namespace lldd::mock {

// From here on copies go past the caches.
constexpr uint64_t kWorthStreaming = 256U << 10;
// IOV_MAX less one for the cookie would be possible; larger values were not faster.
constexpr size_t kMostPiecesPerChunk = 512;

// `length` bytes between two addresses; `there` is of the peer, or where its memory is mapped.
struct Piece {
    uint64_t here;
    uint64_t there;
    uint64_t length;
};

// Reuses its memory: a transfer that is not larger than an earlier one allocates nothing.
class Batch {
public:
    void Clear(uint64_t chunk_bytes) {
        pieces_.clear();
        chunk_starts_.clear();
        chunk_bytes_ = chunk_bytes;
        room_ = 0;
        bytes_ = 0;
    }

    void Add(uint64_t here, uint64_t there, uint64_t length) {
        bytes_ += length;
        while (length > 0) {
            // A short rest of a chunk is left, rather than to cut a piece at an odd place for it.
            if (room_ < length && room_ < kSmallestCut) StartChunk();
            if (pieces_.size() - chunk_starts_.back() == kMostPiecesPerChunk) StartChunk();
            const uint64_t now = length < room_ ? length : room_;
            pieces_.push_back({here, there, now});
            here += now;
            there += now;
            length -= now;
            room_ -= now;
        }
    }

    // One piece in a chunk of its own, however long.
    void AddWhole(uint64_t here, uint64_t there, uint64_t length) {
        StartChunk();
        pieces_.push_back({here, there, length});
        bytes_ += length;
        room_ = 0;
    }

    bool empty() const { return pieces_.empty(); }
    uint64_t bytes() const { return bytes_; }
    size_t chunks() const { return chunk_starts_.size(); }
    const Piece *begin(size_t chunk) const { return pieces_.data() + chunk_starts_[chunk]; }
    const Piece *end(size_t chunk) const {
        return pieces_.data() +
               (chunk + 1 < chunk_starts_.size() ? chunk_starts_[chunk + 1] : pieces_.size());
    }

    // Of the first so many chunks.
    uint64_t BytesOf(size_t chunks) const {
        uint64_t bytes = 0;
        for (size_t chunk = 0; chunk < chunks; ++chunk) {
            for (const Piece *piece = begin(chunk); piece != end(chunk); ++piece)
                bytes += piece->length;
        }
        return bytes;
    }

    // How many threads are worth it, at most `most`.
    uint32_t Threads(uint32_t most) const { return bytes_ >= kWorthHelpers ? most : 1; }

    // How large chunks should be for several threads to end together.
    static uint64_t ChunkBytes(uint64_t total) {
        const uint64_t share = total / 16 & ~uint64_t{4095};
        if (share < kSmallestChunk) return kSmallestChunk;
        return share < kLargestChunk ? share : kLargestChunk;
    }

private:
    // With fewer bytes the calling thread is done before a helper has started.
    static constexpr uint64_t kWorthHelpers = 1U << 20;
    static constexpr uint64_t kSmallestChunk = 64U << 10;
    static constexpr uint64_t kSmallestCut = 16U << 10;

    void StartChunk() {
        chunk_starts_.push_back(pieces_.size());
        room_ = chunk_bytes_;
    }

    std::vector<Piece> pieces_;
    std::vector<size_t> chunk_starts_;
    uint64_t chunk_bytes_ = kLargestChunk;
    uint64_t room_ = 0;
    uint64_t bytes_ = 0;
};

}  // namespace lldd::mock
