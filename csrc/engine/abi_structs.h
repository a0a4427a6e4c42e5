// Reading and writing the structs of the ABI, whose size is the caller's.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/status.h"

namespace lldd::abi {

// No caller's header has a struct this large: a larger struct_size is garbage, and its tail is not
// looked at.
constexpr uint32_t kMaxStructSize = 16384;
// struct_size and the first member after it.
constexpr uint32_t kMinStructSize = 8;

template <typename T>
Status CheckSize(const char *name, uint32_t struct_size) {
    if (struct_size >= kMinStructSize && struct_size <= kMaxStructSize && struct_size % 8 == 0)
        return Status::Ok();
    return Failure(LLDD_ABI_MISMATCH, "%s.struct_size is %u, this library has %zu", name,
                   struct_size, sizeof(T));
}

// The caller's struct in full size: what a smaller one lacks is zero, what a larger one has more
// must be zero.
template <typename T>
Status ReadStruct(const char *name, const T *from, T *to) {
    if (from == nullptr) return Failure(LLDD_PARAM_INVALID, "%s is null", name);
    uint32_t size;
    std::memcpy(&size, from, sizeof size);
    LLDD_RETURN_IF_ERROR(CheckSize<T>(name, size));
    const char *bytes = reinterpret_cast<const char *>(from);
    for (size_t i = sizeof(T); i < size; ++i) {
        if (bytes[i] == 0) continue;
        return Failure(
            LLDD_ABI_MISMATCH,
            "%s.struct_size is %u, this library has %zu, and byte %zu behind that is not zero",
            name, size, sizeof(T), i);
    }
    T read{};
    std::memcpy(&read, from, std::min<size_t>(size, sizeof(T)));
    read.struct_size = sizeof(T);
    *to = read;
    return Status::Ok();
}

// An array of such structs: the first one's size is that of all, and the distance between them.
template <typename T>
Status ReadArray(const char *name, const T *from, uint64_t count, std::vector<T> *to) {
    to->clear();
    if (count == 0) return Status::Ok();
    if (from == nullptr)
        return Failure(LLDD_PARAM_INVALID, "%s is null, but %llu are announced", name,
                       Printable(count));
    uint32_t stride;
    std::memcpy(&stride, from, sizeof stride);
    to->resize(count);
    for (uint64_t i = 0; i < count; ++i) {
        const T *element =
            reinterpret_cast<const T *>(reinterpret_cast<const char *>(from) + i * stride);
        LLDD_RETURN_IF_ERROR(ReadStruct(name, element, &(*to)[i]));
        uint32_t size;
        std::memcpy(&size, element, sizeof size);
        if (size != stride) {
            return Failure(LLDD_ABI_MISMATCH, "%s[%llu].struct_size is %u, that of the first is %u",
                           name, Printable(i), size, stride);
        }
    }
    return Status::Ok();
}

// Whether a result can be written: done before the work, so that nothing has happened when it
// cannot.
template <typename T>
Status CheckOut(const char *name, const T *to) {
    if (to == nullptr) return Failure(LLDD_PARAM_INVALID, "%s is null", name);
    uint32_t size;
    std::memcpy(&size, to, sizeof size);
    return CheckSize<T>(name, size);
}

// Up to the caller's size; what a larger struct has more becomes zero.
template <typename T>
void WriteStruct(T value, T *to) {
    uint32_t size;
    std::memcpy(&size, to, sizeof size);
    value.struct_size = size;
    std::memcpy(static_cast<void *>(to), &value, std::min<size_t>(size, sizeof(T)));
    if (size > sizeof(T))
        std::memset(reinterpret_cast<char *>(to) + sizeof(T), 0, size - sizeof(T));
}

template <typename T>
void WriteElement(const T &value, T *array, uint32_t stride, uint64_t index) {
    T *to = reinterpret_cast<T *>(reinterpret_cast<char *>(array) + index * stride);
    std::memcpy(static_cast<void *>(to), &stride, sizeof stride);
    WriteStruct(value, to);
}

// Writes as many elements as there is room for.
template <typename T>
Status WriteList(const std::vector<T> &from, const char *name, T *to, uint64_t capacity,
                 uint64_t *count) {
    const uint64_t written = std::min<uint64_t>(capacity, from.size());
    if (written > 0) {
        LLDD_RETURN_IF_ERROR(CheckOut(name, to));
        uint32_t stride;
        std::memcpy(&stride, to, sizeof stride);
        for (uint64_t i = 0; i < written; ++i) WriteElement(from[i], to, stride, i);
    }
    *count = from.size();
    return Status::Ok();
}

}  // namespace lldd::abi
