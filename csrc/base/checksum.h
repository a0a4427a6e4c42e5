// A sum of 64 bits that tells whether bytes are the same: XXH64 with seed 0. It finds accidents, and
// proves nothing against a forger.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lldd {

class Checksum {
public:
    void Add(const void *data, size_t size);
    // Of all that was added so far.
    uint64_t Sum() const;

private:
    static constexpr size_t kStripe = 32;
    static constexpr uint64_t kPrimes[] = {0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F,
                                           0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
                                           0x27D4EB2F165667C5};

    static uint64_t Round(uint64_t lane, uint64_t input);
    void AddStripe(const unsigned char *stripe);

    uint64_t lanes_[4] = {kPrimes[0] + kPrimes[1], kPrimes[1], 0, 0 - kPrimes[0]};
    uint64_t total_ = 0;
    unsigned char held_[kStripe] = {};  // the first total_ % kStripe of them count
};

}  // namespace lldd
