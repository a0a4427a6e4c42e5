// What a fuzz target is: a function that gets bytes from outside, and demands of what reads them.
//
// A target is one file. It reads one input per call, must not depend on earlier ones, and ends the
// process where a demand is not met, as a sanitizer does.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lldd::fuzz {

struct Target {
    // What the command line, and the folder of its corpus, call it.
    const char *name;
    void (*run)(std::string_view input);
    // Inputs to begin with, made by this library's own encoders: the corpus follows the protocol.
    std::vector<std::string> (*seeds)();
};

// Makes a target known, before main.
struct Registration {
    explicit Registration(const Target &target);
};

// Ends the process: a finding.
[[noreturn]] void Finding(const char *file, int line, const std::string &what);

#define DEMAND(condition)                                                        \
    do {                                                                         \
        if (!(condition)) ::lldd::fuzz::Finding(__FILE__, __LINE__, #condition); \
    } while (false)

// Takes an input apart. Behind its end every number is 0, and every piece is empty.
class Input {
public:
    explicit Input(std::string_view bytes) : rest_(bytes) {}

    bool empty() const { return rest_.empty(); }
    uint8_t Byte() {
        const std::string_view one = Piece(1);
        return one.empty() ? 0 : static_cast<uint8_t>(one[0]);
    }
    // Below `limit`, which is not 0.
    size_t Below(size_t limit) {
        const size_t high = limit > 256 ? Byte() : 0;
        return (high * 256 + Byte()) % limit;
    }
    uint64_t Number() {
        uint64_t number = 0;
        for (int i = 0; i < 8; ++i) number |= static_cast<uint64_t>(Byte()) << (8 * i);
        return number;
    }
    std::string_view Piece(size_t size) {
        const std::string_view piece = rest_.substr(0, size);
        rest_.remove_prefix(piece.size());
        return piece;
    }
    std::string_view Rest() { return Piece(rest_.size()); }

private:
    std::string_view rest_;
};

}  // namespace lldd::fuzz
