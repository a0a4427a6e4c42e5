// Numbers and texts as the bytes of a message, and back. Numbers are little-endian; a text follows
// its length.
//
// Messages of varying length are written and read with these two classes. A frame of fixed size
// that is sent from and received into memory as it is (the TCP streams and the local channel of the
// mock runtime) is a struct without padding, which a static_assert checks; the file of one that
// crosses machines refuses to be compiled for a big-endian one.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace lldd {

// Appends numbers and texts to a message.
class Writer {
public:
    // For a message whose size is known: no memory is moved while it is written.
    void Reserve(size_t size) { bytes_.reserve(size); }

    template <typename T>
    void Number(T value) {
        static_assert(std::is_integral_v<T>);
        char bytes[sizeof(T)];
        for (size_t i = 0; i < sizeof(T); ++i) {
            bytes[i] = static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
        }
        bytes_.append(bytes, sizeof bytes);
    }
    void Bytes(std::string_view bytes) {
        Number(static_cast<uint32_t>(bytes.size()));
        bytes_.append(bytes);
    }
    void Raw(const void *data, size_t size) {
        bytes_.append(static_cast<const char *>(data), size);
    }

    std::string Take() { return std::move(bytes_); }

private:
    std::string bytes_;
};

// Reads them back. After any read past the end ok() is false and every value is zero.
class Reader {
public:
    explicit Reader(std::string_view bytes) : rest_(bytes) {}

    template <typename T>
    T Number() {
        static_assert(std::is_integral_v<T>);
        if (!Has(sizeof(T))) return 0;
        uint64_t value = 0;
        for (size_t i = 0; i < sizeof(T); ++i) {
            value |= static_cast<uint64_t>(static_cast<uint8_t>(rest_[i])) << (8 * i);
        }
        rest_.remove_prefix(sizeof(T));
        return static_cast<T>(value);
    }
    std::string_view Bytes() {
        const auto size = Number<uint32_t>();
        if (!Has(size)) return {};
        const std::string_view bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return bytes;
    }
    void Raw(void *data, size_t size) {
        if (!Has(size)) return;
        std::memcpy(data, rest_.data(), size);
        rest_.remove_prefix(size);
    }

    bool ok() const { return ok_; }
    // Everything was read, and nothing was missing.
    bool Done() const { return ok_ && rest_.empty(); }
    size_t left() const { return rest_.size(); }

private:
    bool Has(size_t size) {
        if (rest_.size() < size) {
            ok_ = false;
            rest_ = {};
        }
        return ok_;
    }

    std::string_view rest_;
    bool ok_ = true;
};

}  // namespace lldd
