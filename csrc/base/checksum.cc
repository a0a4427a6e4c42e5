// SPDX-License-Identifier: Apache-2.0
#include "base/checksum.h"

#include <algorithm>
#include <cstring>

namespace lldd {
namespace {

uint64_t RotateLeft(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

// Little-endian, whatever the machine is.
uint64_t Load(const unsigned char *bytes, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i) value |= uint64_t{bytes[i]} << (8 * i);
    return value;
}

}  // namespace

uint64_t Checksum::Round(uint64_t lane, uint64_t input) {
    return RotateLeft(lane + input * kPrimes[1], 31) * kPrimes[0];
}

void Checksum::AddStripe(const unsigned char *stripe) {
    for (size_t i = 0; i < 4; ++i) lanes_[i] = Round(lanes_[i], Load(stripe + 8 * i, 8));
}

void Checksum::Add(const void *data, size_t size) {
    const auto *bytes = static_cast<const unsigned char *>(data);
    const size_t held = total_ % kStripe;
    total_ += size;
    if (held > 0) {
        const size_t taken = std::min(size, kStripe - held);
        std::memcpy(held_ + held, bytes, taken);
        if (held + taken < kStripe) return;
        AddStripe(held_);
        bytes += taken;
        size -= taken;
    }
    for (; size >= kStripe; bytes += kStripe, size -= kStripe) AddStripe(bytes);
    if (size > 0) std::memcpy(held_, bytes, size);
}

uint64_t Checksum::Sum() const {
    uint64_t sum = kPrimes[4];  // with the seed, which is 0
    if (total_ >= kStripe) {
        sum = RotateLeft(lanes_[0], 1) + RotateLeft(lanes_[1], 7) + RotateLeft(lanes_[2], 12) +
              RotateLeft(lanes_[3], 18);
        for (const uint64_t lane : lanes_) sum = (sum ^ Round(0, lane)) * kPrimes[0] + kPrimes[3];
    }
    sum += total_;
    const unsigned char *rest = held_;
    size_t left = total_ % kStripe;
    for (; left >= 8; rest += 8, left -= 8)
        sum = RotateLeft(sum ^ Round(0, Load(rest, 8)), 27) * kPrimes[0] + kPrimes[3];
    if (left >= 4) {
        sum = RotateLeft(sum ^ Load(rest, 4) * kPrimes[0], 23) * kPrimes[1] + kPrimes[2];
        rest += 4;
        left -= 4;
    }
    for (; left > 0; ++rest, --left) sum = RotateLeft(sum ^ *rest * kPrimes[4], 11) * kPrimes[0];
    sum = (sum ^ sum >> 33) * kPrimes[1];
    sum = (sum ^ sum >> 29) * kPrimes[2];
    return sum ^ sum >> 32;
}

}  // namespace lldd
