// SPDX-License-Identifier: Apache-2.0
#include "registry.h"

#include <algorithm>
#include <map>

#include "errors.h"
#include "fake.h"

namespace hixl {

using fake_cann::Kind;

// Never destroyed: engines may outlive static destructors.
Registry &Registry::Of(const void *context) {
    static auto *const mutex = new std::mutex;
    static auto *const all = new std::map<const void *, Registry>;
    std::lock_guard<std::mutex> lock(*mutex);
    return (*all)[context];
}

Status Registry::Register(const void *engine, const MemDesc &mem, MemType type, MemHandle *handle) {
    const auto *first = mem.reserved;
    const auto *end = mem.reserved + sizeof mem.reserved;
    if (std::any_of(first, end, [](uint8_t byte) { return byte != 0; }))
        return Refuse(PARAM_INVALID, "reserved bytes are not 0");
    if (mem.addr == 0 || mem.len == 0) return Refuse(PARAM_INVALID, "no memory");
    const auto *memory = reinterpret_cast<const void *>(mem.addr);
    const Kind kind = fake_cann::KindOf(memory);
    if (kind != Kind::kUnknown && (kind == Kind::kDevice) != (type == MEM_DEVICE))
        return Refuse(PARAM_INVALID, "memory of the other type");
    if (kind == Kind::kUnknown && type == MEM_DEVICE && fake_cann::Opaque())
        return Refuse(PARAM_INVALID, "device memory that aclrtMalloc did not give");
    if (kind == Kind::kDevice && !fake_cann::InHugePages(memory))
        return Refuse(PARAM_INVALID, "device memory that is not in huge pages");
    std::lock_guard<std::mutex> lock(mutex_);
    for (Region &region : regions_) {
        if (region.addr == mem.addr && region.len == mem.len) {
            region.listed = true;
            region.engines.insert(engine);
            *handle = &region;
            return SUCCESS;
        }
        const uintptr_t last = mem.addr + (mem.len - 1);
        if (mem.addr <= region.addr + (region.len - 1) && region.addr <= last)
            return Refuse(PARAM_INVALID, "the range overlaps one that is registered");
    }
    regions_.push_back({mem.addr, mem.len, type, next_id_++, {engine}, true});
    *handle = &regions_.back();
    return SUCCESS;
}

void Registry::TakeAway(const void *engine) {
    std::lock_guard<std::mutex> lock(mutex_);
    regions_.remove_if([engine](const Region &each) { return each.engines.count(engine) != 0; });
}

Snapshot Registry::Known(const void *engine) const {
    std::lock_guard<std::mutex> lock(mutex_);
    Snapshot known;
    for (const Region &region : regions_) {
        if (region.listed && region.engines.count(engine) != 0) known.insert(region.id);
    }
    return known;
}

bool Registry::Find(uintptr_t addr, size_t len, const Snapshot &known, MemType *type) const {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Region &region : regions_) {
        if (!region.Contains(addr, len) || known.count(region.id) == 0) continue;
        *type = region.type;
        return true;
    }
    return false;
}

}  // namespace hixl
